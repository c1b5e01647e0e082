"""Measure the ratios of training steps that docs/measurements.md quotes; the two sides of a ratio run alternately.

.venv/bin/python benchmarks/finetuning.py [decode step amp sums processes] [--device cpu] [--batch 8] [--size 224]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from common import compressed, paired
from torch import nn
from torch.nn.functional import cross_entropy, pad

import tenreo
from tenreo.compression.curve_weight import CurveWeight
from tenreo.compression.parametrization import curves
from tenreo.data.images import open_images
from tenreo.distributed import process_group
from tenreo.models.builders import build_model
from tenreo.training.digits import PREPROCESS
from tenreo.training.loop import finetune_
from tenreo.training.observer import Observer, Step
from tenreo.training.settings import Settings
from tenreo.training.trainer import Resources

MODELS = (("resnet50", 4, 1.0), ("mobilenet_v2", 4, 0.5))  # groups, growth


def reference(curve: CurveWeight, index: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """Decode a weight as the reference implementation does: pad, transform the whole curve, index."""
    import torch_dct

    rest = curve.curve.length - curve.curve.coefficients_per_row
    full = torch_dct.idct(pad(coefficients, (0, rest)), norm="ortho")
    return full[:, index].reshape(curve.shape)


def decode(small: nn.Module, device: torch.device, runs: int) -> float:
    """Return the speedup over the reference for decoding the weights of all layers, forward and backward."""
    layers = [(curve.coefficients, curve.weight) for curve in curves(small)]
    gradients = [torch.randn(weight.shape, device=device) for _, weight in layers]
    indices = [weight.positions.long() for _, weight in layers]

    def ours() -> None:
        for (coefficients, weight), gradient in zip(layers, gradients, strict=True):
            weight(coefficients).backward(gradient)

    def theirs() -> None:
        for (coefficients, weight), index, gradient in zip(layers, indices, gradients, strict=True):
            reference(weight, index, coefficients).backward(gradient)

    return 1 / paired(ours, theirs, runs, device).ratio


def training_step(model: nn.Module, batch: int, size: int, device: torch.device, amp: bool) -> Callable[[], None]:
    """Return a function that performs one training step of a model, which is moved to the device, on random images."""
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), device=device)
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-6, 0.9, weight_decay=1e-4)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def peak_bytes(model: nn.Module, batch: int, size: int, device: torch.device, amp: bool) -> int:
    """Return the peak memory of CUDA during a training step of a copy of a model; 0 on the CPU.

    It is measured in the second step, in which the optimizer has its state, and includes the copy of the model.
    """
    if device.type != "cuda":
        return 0
    before = torch.cuda.memory_allocated()
    run = training_step(copy.deepcopy(model), batch, size, device, amp)
    run()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def step(small: nn.Module, dense: nn.Module, arguments: argparse.Namespace, amp: bool) -> tuple[float, float]:
    """Return time and peak memory (GPU only) of a training step, divided by those of the dense model."""
    device = torch.device(arguments.device)
    options = (arguments.batch, arguments.size, device, amp)
    peaks = [peak_bytes(model, *options) for model in (small, dense)]
    ratio = paired(training_step(small, *options), training_step(dense, *options), arguments.runs, device).ratio
    return ratio, peaks[0] / peaks[1] if peaks[1] else float("nan")


def sums() -> None:
    """Print the speedup of scatter_add_ over index_add_ for the sum of the backward pass on the CPU."""
    positions = torch.randint(0, 147_456, (147_456,), dtype=torch.int32)
    gradient = torch.randn(4, 147_456)
    ours = lambda: torch.zeros(4, 147_456).scatter_add_(1, positions.long().expand(4, -1), gradient)  # noqa: E731
    theirs = lambda: torch.zeros(4, 147_456).index_add_(1, positions, gradient)  # noqa: E731
    print(f"sum by position: {1 / paired(ours, theirs, 11).ratio:.1f} times faster than index_add_")


def processes(runs: int) -> None:
    """Print the images per second of two processes divided by those of one; every process has its own core."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    ratios, losses = [], []
    for _ in range(runs):
        speed = {}
        for count in (1, 2):
            out = subprocess.run(
                [*command, str(count), __file__, "worker"], capture_output=True, text=True, check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            ).stdout.split()  # fmt: skip
            speed[count], loss = float(out[0]), float(out[1])
            losses.append(loss)
        ratios.append(speed[2] / speed[1])
    print(f"two processes do {statistics.median(ratios):.2f} times the images/s of one ({min(ratios):.2f} to "
          f"{max(ratios):.2f}); their training losses differ by {max(losses) - min(losses):.1e}")  # fmt: skip


class _Seconds(Observer):
    """Collects the duration of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step(self, step: Step) -> None:
        self.seconds.append(step.seconds)


def worker() -> None:
    """Run one process of `processes`: a model without BatchNorm on digits of 64 x 64 pixels."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Conv2d(32, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(2048, 10),
    )  # fmt: skip
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(8.0), refine=1))
    preprocess = replace(PREPROCESS, resize=64, crop=64)
    train = open_images("digits", "train", preprocess, 10).limited(640)
    observer = _Seconds()
    with process_group(torch.device("cpu")) as group:
        settings = Settings(epochs=2, batch_size=64 // group.size, lr=0.01)
        history = finetune_(
            net, train, train.limited(64), settings, resources=Resources(group=group), observer=observer
        )
        if group.is_main:
            print(64 / statistics.median(observer.seconds), history[-1].train_loss)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=["decode", "step"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    if "worker" in arguments.what:
        worker()
        return
    print(f"{arguments.device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if "sums" in arguments.what:
        sums()
    if "processes" in arguments.what:
        processes(arguments.runs)
    asked = {"decode", "step", "amp"} & set(arguments.what)
    for arch, groups, growth in MODELS if asked else ():
        dense = build_model(f"torchvision:{arch}").to(arguments.device)
        for refine in (0, 1):  # refined positions are many-to-one and need a segment sum
            small = compressed(dense, groups, growth, refine)
            name = f"{arch} g={groups} r'={growth} {'refined' if refine else 'paper'}"
            if "decode" in asked:
                faster = decode(small, torch.device(arguments.device), arguments.runs)
                print(f"{name}: decode forward and backward {faster:.2f} times faster than the reference")
            for what in sorted(asked - {"decode"}, reverse=True):
                time_ratio, memory = step(small, copy.deepcopy(dense), arguments, amp=what == "amp")
                print(f"{name}: {what}, batch {arguments.batch}, {arguments.size} px: "
                      f"{time_ratio:.3f} of the dense time, {memory:.3f} of its memory")  # fmt: skip


if __name__ == "__main__":
    main()

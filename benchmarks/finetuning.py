"""Ratios of a training step that docs/finetuning.md quotes, each pair measured in turn in one run.

.venv/bin/python benchmarks/finetuning.py [decode step amp sums processes] [--device cpu] [--batch 8] [--size 224]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad

import tenreo
from tenreo.compression import curves
from tenreo.models import build


def seconds(function: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def paired(
    ours: Callable[[], object], theirs: Callable[[], object], device: torch.device, runs: int
) -> float:
    """The median of the ratios of time, measured in turn."""
    for _ in range(3 if device.type == "cuda" else 1):
        ours(), theirs()
    return statistics.median(seconds(ours, device) / seconds(theirs, device) for _ in range(runs))


def compressed(model: nn.Module, groups: int, growth: float, refine: int) -> nn.Module:
    """A compressed copy; refined positions are many to one, and cost a segment sum."""
    small = copy.deepcopy(model)
    recipe = tenreo.Recipe(groups, tenreo.Progressive(growth), refine=refine)
    tenreo.compress_(small, recipe)
    return small


def reference(curve: nn.Module, index: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """The reference implementation's way: pad, transform everything, index."""
    import torch_dct

    full = torch_dct.idct(pad(coefficients, (0, curve.length - curve.kept)), norm="ortho")
    return full[:, index].reshape(curve.shape)


def decode(small: nn.Module, device: torch.device, runs: int) -> float:
    """Forward and backward of every layer's weight, against the reference's way."""
    layers = [(layer.parametrizations.weight.original, curve) for _, layer, curve in curves(small)]
    gradients = [torch.randn(curve.shape, device=device) for _, curve in layers]
    indices = [curve.positions.long() for _, curve in layers]

    def ours() -> None:
        for (coefficients, curve), gradient in zip(layers, gradients, strict=True):
            curve(coefficients).backward(gradient)

    def theirs() -> None:
        for (coefficients, curve), index, gradient in zip(layers, indices, gradients, strict=True):
            reference(curve, index, coefficients).backward(gradient)

    return 1 / paired(ours, theirs, device, runs)


def step(small: nn.Module, dense: nn.Module, arguments: argparse.Namespace, amp: bool) -> tuple[float, float]:
    """Time and, on a GPU, peak memory of a training step against the dense model's."""
    device = torch.device(arguments.device)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (arguments.batch,), device=device)

    def training(model: nn.Module) -> Callable[[], None]:
        model.to(device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), 1e-6, 0.9, weight_decay=1e-4)

        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return run

    memory = float("nan")
    if device.type == "cuda":
        peaks = []
        for model in (small, dense):
            others = torch.cuda.memory_allocated()
            run = training(copy.deepcopy(model))
            run()
            torch.cuda.reset_peak_memory_stats()
            run()
            peaks.append(torch.cuda.max_memory_allocated() - others)
            del run
        memory = peaks[0] / peaks[1]
    return paired(training(small), training(dense), device, arguments.runs), memory


def sums() -> None:
    """The segment sum of the backward pass on the CPU: rows by scatter_add_ against index_add_."""
    positions = torch.randint(0, 147_456, (147_456,), dtype=torch.int32)
    gradient = torch.randn(4, 147_456)
    ours = lambda: torch.zeros(4, 147_456).scatter_add_(1, positions.long().expand(4, -1), gradient)  # noqa: E731
    theirs = lambda: torch.zeros(4, 147_456).index_add_(1, positions, gradient)  # noqa: E731
    print(
        f"sum by position: {1 / paired(ours, theirs, torch.device('cpu'), 11):.1f} times faster than index_add_"
    )


def processes(runs: int) -> None:
    """Images per second of two processes against one, every process on a core of its own."""
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


def worker() -> None:
    """One process of those: half the batch each when there are two; digits at 64 px, no BatchNorm."""
    from tenreo.data import open_images
    from tenreo.distributed import joined
    from tenreo.finetuning import Settings, finetune_
    from tenreo.header import Preprocess

    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ["LOCAL_RANK"])]})
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Conv2d(32, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(2048, 10),
    )  # fmt: skip
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(8.0), refine=1))
    look = Preprocess(64, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    train = open_images("digits", "train", look, 10).limited(640)
    seconds: list[float] = []
    with joined(cpu) as group:
        settings = Settings(epochs=2, batch_size=64 // group.size, lr=0.01)
        history = finetune_(
            net, train, train.limited(64), settings, device=cpu, group=group,
            progress=lambda step: seconds.append(step.seconds),
        )  # fmt: skip
        if group.writes:
            print(64 / statistics.median(seconds), history[-1].train_loss)


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
    models = (("resnet50", 4, 1.0), ("mobilenet_v2", 4, 0.5))
    for arch, groups, growth in models if {"decode", "step", "amp"} & set(arguments.what) else ():
        dense = build(arch, weights="none").to(arguments.device)
        for refine in (0, 1):
            small = compressed(dense, groups, growth, refine)
            name = f"{arch} g={groups} r'={growth} {'refined' if refine else 'paper'}"
            if "decode" in arguments.what:
                faster = decode(small, torch.device(arguments.device), arguments.runs)
                print(
                    f"{name}: decode forward and backward {faster:.2f} times faster than the reference's way"
                )
            for amp in [name == "amp" for name in arguments.what if name in ("step", "amp")]:
                time_ratio, memory = step(small, copy.deepcopy(dense), arguments, amp)
                print(f"{name}: step{' with AMP' if amp else ''}, batch {arguments.batch}, {arguments.size} px: "
                      f"{time_ratio:.3f} of the dense time, {memory:.3f} of its memory")  # fmt: skip


if __name__ == "__main__":
    main()

"""Ratios of a training step that docs/finetuning.md quotes, each pair measured in turn in one run.

.venv/bin/python benchmarks/finetuning.py [decode step amp] [--device cpu] [--batch 8] [--size 224]
"""

from __future__ import annotations

import argparse
import copy
import statistics
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
            run = training(copy.deepcopy(model))
            run()
            torch.cuda.reset_peak_memory_stats()
            run()
            peaks.append(torch.cuda.max_memory_allocated())
        memory = peaks[0] / peaks[1]
    return paired(training(small), training(dense), device, arguments.runs), memory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=["decode", "step"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{arguments.device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for arch, groups, growth in (("resnet50", 4, 1.0), ("mobilenet_v2", 4, 0.5)):
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

"""Functions that several benchmarks use: test weights, time ratios, models of the digits, and Markdown tables."""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import tenreo
from tenreo.codec.distortion import decibels
from tenreo.training.digits import digits_info, train_digits


def laplace(groups: int, columns: int) -> Tensor:
    """Return a weight (groups, columns) of independent Laplace-distributed elements, float32, from a fixed seed."""
    return torch.from_numpy(np.random.default_rng(0).laplace(size=(groups, columns)).astype(np.float32))


def snr(weight: Tensor, decoded: Tensor) -> float:
    """Return the signal-to-noise ratio of a decoded weight in dB."""
    error = (weight - decoded).double().square().sum().item()
    return decibels(weight.double().square().sum().item(), error)


def trained(arch: str, folder: Path) -> nn.Module:
    """Return a dense model of the digits, trained for 12 epochs with batches of 32 images.

    The model is stored as ARCH.safetensors in the folder; if this file exists, it is loaded instead of training.
    """
    path = folder / f"{arch}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tenreo.save(train_digits(arch, seed=0), path, digits_info(arch))
    return tenreo.load(path)


def compressed(dense: nn.Module, groups: int, growth: float, refine: int) -> nn.Module:
    """Return a copy of a model, compressed at a progressive rate with the given rounds of refinement."""
    small = copy.deepcopy(dense)
    tenreo.compress_(small, tenreo.Recipe(groups, tenreo.Progressive(growth), refine=refine))
    return small


class Paired(NamedTuple):
    """Medians of the seconds of two functions that were timed alternately, and the median of ours / theirs."""

    ours: float
    theirs: float
    ratio: float


def paired(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    runs: int = 5,
    device: torch.device = torch.device("cpu"),
) -> Paired:
    """Time two functions alternately.

    Args:
        ours: the function whose time is the numerator of the ratio.
        theirs: the function whose time is the denominator.
        runs: number of timed calls of each function; one untimed call (three on CUDA) precedes them.
        device: device on which the functions run; on CUDA, a call is timed until the device has finished.
    """
    for _ in range(3 if device.type == "cuda" else 1):
        ours(), theirs()
    pairs = [(seconds(ours, device), seconds(theirs, device)) for _ in range(runs)]
    median = statistics.median
    return Paired(median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs))


def seconds(function: Callable[[], object], device: torch.device = torch.device("cpu")) -> float:
    """Return the seconds that one call takes, including its work on a CUDA device."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def table(*headings: str, text: int = 1) -> None:
    """Print the head of a Markdown table; its first `text` columns are left-aligned, the rest right-aligned."""
    row(*headings)
    print(f"|{'|'.join([':--'] * text + ['--:'] * (len(headings) - text))}|")


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def percents(values: Sequence[float]) -> list[str]:
    """Format accuracies in percent for a table."""
    return [f"{value:.1f}" for value in values]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of a command line whose help is the docstring of the script, with its line breaks."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

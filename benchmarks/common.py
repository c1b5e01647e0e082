"""What several benchmarks share: test weights, ratios of time, and models of the digits. Not a benchmark itself."""

from __future__ import annotations

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
    """A weight of (groups, columns) independent Laplace-distributed elements, always the same ones."""
    return torch.from_numpy(np.random.default_rng(0).laplace(size=(groups, columns)).astype(np.float32))


def snr(weight: Tensor, decoded: Tensor) -> float:
    """The signal-to-noise ratio of a decoded weight in dB."""
    error = (weight - decoded).double().square().sum().item()
    return decibels(weight.double().square().sum().item(), error)


def trained(arch: str, folder: Path) -> nn.Module:
    """A dense model of the digits, trained as `tenreo demo` trains; a file of it in the folder is used again."""
    path = folder / f"{arch}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tenreo.save(train_digits(arch, seed=0), path, digits_info(arch))
    return tenreo.load(path)


def compressed(dense: nn.Module, groups: int, growth: float, refine: int) -> nn.Module:
    """A copy of a model, compressed at a progressive rate."""
    small = copy.deepcopy(dense)
    tenreo.compress_(small, tenreo.Recipe(groups, tenreo.Progressive(growth), refine=refine))
    return small


class Paired(NamedTuple):
    """Two functions timed in turn: the median seconds of each, and the median of the ratios."""

    ours: float
    theirs: float
    ratio: float


def paired(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    runs: int = 5,
    device: torch.device = torch.device("cpu"),
) -> Paired:
    """Time two functions in turn, after calls that are not counted."""
    for _ in range(3 if device.type == "cuda" else 1):
        ours(), theirs()
    pairs = [(seconds(ours, device), seconds(theirs, device)) for _ in range(runs)]
    median = statistics.median
    return Paired(median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs))


def seconds(function: Callable[[], object], device: torch.device = torch.device("cpu")) -> float:
    """The seconds of one call."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def table(*headings: str, text: int = 1) -> None:
    """Print the head of a Markdown table whose first `text` columns hold words and all others figures."""
    row(*headings)
    print(f"|{'|'.join([':--'] * text + ['--:'] * (len(headings) - text))}|")


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def percents(values: Sequence[float]) -> list[str]:
    """Accuracies for a table."""
    return [f"{value:.1f}" for value in values]

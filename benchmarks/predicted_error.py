"""The predicted error of a curve against the measured one, and the constants of the prediction fitted anew.

.venv/bin/python benchmarks/predicted_error.py [--elements 36864] [--bits 8 10 12 14] [--rounds 12]

`tenreo.planning.candidates.predicted_error` foretells the error of a refined curve from its shape alone. Here layers of
independent Laplace-distributed weights are encoded in many shapes. The first table compares, averaged over the shapes
of a row; its last row has the shapes that a target size of 1.2 to 4.5 bits per weight chooses. The second table has the
constants as they are in the code, and as least squares fits them to these layers.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from common import laplace, row, table

import tenreo
from tenreo.codec.encode import nearest_neighbor_order, quantize, refined
from tenreo.codec.shape import CurveShape, Precision
from tenreo.planning import candidates

GROUPS = (2, 4, 8)
SHARES = (1, 2, 4, 8, 16)  # samples per coefficient
PRECISIONS = (Precision.FLOAT32, Precision.INT8, Precision.INT6)
HALVING = 0.4  # dB that every halving of the coefficients against the samples costs


@dataclass(frozen=True)
class Measured:
    """The relative squared error of a layer in one shape."""

    shape: CurveShape
    numel: int
    error: float

    @property
    def gap(self) -> float:
        """The predicted SNR above the measured one, in dB."""
        return 10 * math.log10(self.error / candidates.predicted_error(self.shape, self.numel))


def shapes(numel: int, groups: int, bits: list[int]) -> Iterator[CurveShape]:
    """The shapes of a layer, shorter curves first, each once; all lose something."""
    lengths = sorted({min(numel // groups, 2**b) for b in bits})
    for length, share in product(lengths, SHARES):
        if 8 <= length // share < numel // groups:
            yield CurveShape(groups, length, length // share)


def chosen(numel: int) -> list[CurveShape]:
    """The shapes that target sizes choose for a layer, each once."""
    offered = candidates.candidates(numel, tenreo.Recipe(None, tenreo.TargetSize(10**9)))
    rooms = [int(bits / 8 * numel) for bits in np.arange(1.2, 4.55, 0.1)]
    return list(dict.fromkeys(candidates.choose([offered], [1.0], room)[0].curve for room in rooms))


def measure(numel: int, wanted: list[CurveShape], precisions: tuple[Precision, ...], rounds: int) -> Iterator[Measured]:
    """Encode a layer in some shapes, in their own precision or in each of the given ones."""
    weight = laplace(1, numel)
    norm = weight.double().square().sum().item()
    orders = {groups: nearest_neighbor_order(weight, groups) for groups in {shape.groups for shape in wanted}}
    for i, shape in enumerate(wanted):
        start = tenreo.encode(
            weight, shape.groups, shape.coefficients_per_row, length=shape.length, order=orders[shape.groups]
        )
        better = refined(weight, start, rounds)
        for precision in precisions or (shape.precision,):
            decoded = tenreo.decode(quantize(weight, better, precision))
            error = (weight - decoded).double().square().sum().item() / norm
            yield Measured(replace(shape, precision=precision), numel, error)
        print(f"{numel:,} elements: {i + 1} of {len(wanted)} shapes", file=sys.stderr)


def gaps(found: list[Measured], by_size: list[Measured]) -> None:
    """Print how far the prediction is off."""

    def show(groups: object, precision: object, measured: list[Measured]) -> None:
        off = [m.gap for m in measured]
        numbers = f"{np.mean(off):+.2f}", f"{np.mean(np.abs(off)):.2f}", f"{max(off, key=abs):+.2f}"
        row(groups, precision, len(off), *numbers)

    table("g", "coefficients", "shapes", "mean difference dB", "mean absolute difference dB", "largest dB", text=2)
    for groups, precision in product(GROUPS, PRECISIONS):
        show(groups, precision, [m for m in found if (m.shape.groups, m.shape.precision) == (groups, precision)])
    show("all", "all", found)
    show("chosen", "chosen", by_size)


def constants(found: list[Measured]) -> None:
    """Print the constants in use beside those that fit best."""
    full = [m for m in found if m.shape.precision == Precision.FLOAT32]
    system, target = [], []
    for m in full:
        shape = m.shape
        learned = shape.coefficients_per_row / shape.columns(m.numel)
        known = 6.02 * math.log2(shape.length) / shape.groups - 20 * math.log10(1 - learned)
        share = math.log2(shape.length // shape.coefficients_per_row)
        system.append([*(float(groups == shape.groups) for groups in GROUPS), -share])
        target.append(-10 * math.log10(m.error) - known)
    fitted = np.linalg.lstsq(np.array(system), np.array(target), rcond=None)[0]
    table("constant", "in the code", "fitted")
    for groups, value in zip(GROUPS, fitted, strict=False):
        row(f"SNR of a single sample in dB, g = {groups}", candidates.SINGLE_SAMPLE_SNR[groups], f"{value:.2f}")
    row("dB of every halving of the coefficients", HALVING, f"{fitted[-1]:.2f}")
    float32 = {(m.shape, m.numel): m.error for m in found if m.shape.precision == Precision.FLOAT32}
    for precision in PRECISIONS[1:]:
        added = [
            m.error - float32[replace(m.shape, precision=Precision.FLOAT32), m.numel]
            for m in found
            if m.shape.precision == precision
        ]
        row(f"relative squared error that {precision} adds", f"{candidates.ROUNDING_ERROR[precision]:.1e}",
            f"{np.median(added):.1e}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, nargs="+", default=[36_864])
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 10, 12, 14])
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found, by_size = [], []
    for numel in arguments.elements:
        grid = [shape for groups in GROUPS for shape in shapes(numel, groups, arguments.bits)]
        found += measure(numel, grid, PRECISIONS, arguments.rounds)
        by_size += measure(numel, chosen(numel), (), arguments.rounds)
    gaps(found, by_size)
    print()
    constants(found)


if __name__ == "__main__":
    main()

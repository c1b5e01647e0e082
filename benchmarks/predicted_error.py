"""Compare the predicted error of a curve with the measured one, and fit the constants of the prediction.

.venv/bin/python benchmarks/predicted_error.py [--elements 36864] [--bits 8 10 12 14] [--rounds 12]

`tenreo.planning.candidates.predicted_error` predicts the error of a refined curve from its shape alone. This script
encodes layers of independent Laplace-distributed weights with many shapes. The first table contains the difference
between prediction and measurement, averaged over the shapes of a row; its last row is about the shapes that target
sizes of 1.2 to 4.5 bits per weight choose. The second table contains the constants in the code and those that least
squares fits to these layers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from common import laplace, parser, row, table

import tenreo
from tenreo.codec.encode import nearest_neighbor_order, quantize, refined
from tenreo.codec.shape import CurveShape, Precision
from tenreo.planning import candidates

GROUPS = (2, 4, 8)
RATIOS = (1, 2, 4, 8, 16)  # samples per coefficient
PRECISIONS = (Precision.FLOAT32, Precision.INT8, Precision.INT6)
HALVING = 0.4  # loss in dB when the number of coefficients is halved at an equal number of samples


@dataclass(frozen=True)
class Measured:
    """The relative squared error of a layer of `numel` weights that was encoded with a curve shape."""

    shape: CurveShape
    numel: int
    error: float

    @property
    def difference(self) -> float:
        """The predicted SNR minus the measured one, in dB."""
        return 10 * math.log10(self.error / candidates.predicted_error(self.shape, self.numel))


def shapes(numel: int, groups: int, bits: list[int]) -> Iterator[CurveShape]:
    """Yield distinct shapes for a layer, shorter curves first; none of them is lossless."""
    lengths = sorted({min(numel // groups, 2**b) for b in bits})
    for length, ratio in product(lengths, RATIOS):
        if 8 <= length // ratio < numel // groups:
            yield CurveShape(groups, length, length // ratio)


def chosen(numel: int) -> list[CurveShape]:
    """Return the distinct shapes that target sizes from 1.2 to 4.5 bits per weight choose for a layer."""
    offered = candidates.candidates(numel, tenreo.Recipe(None, tenreo.TargetSize(10**9)))
    limits = [int(bits / 8 * numel) for bits in np.arange(1.2, 4.55, 0.1)]
    return list(dict.fromkeys(candidates.choose([offered], [1.0], limit)[0].curve for limit in limits))


def measure(numel: int, tested: list[CurveShape], precisions: tuple[Precision, ...], rounds: int) -> Iterator[Measured]:
    """Encode a layer with each shape and yield the errors.

    Args:
        numel: number of weights of the layer.
        tested: curve shapes.
        precisions: number formats of the coefficients, or nothing for the format of each shape.
        rounds: rounds of refinement.
    """
    weight = laplace(1, numel)
    norm = weight.double().square().sum().item()
    orders = {groups: nearest_neighbor_order(weight, groups) for groups in {shape.groups for shape in tested}}
    for i, shape in enumerate(tested):
        start = tenreo.encode(
            weight, shape.groups, shape.coefficients_per_row, length=shape.length, order=orders[shape.groups]
        )
        better = refined(weight, start, rounds)
        for precision in precisions or (shape.precision,):
            decoded = tenreo.decode(quantize(weight, better, precision))
            error = (weight - decoded).double().square().sum().item() / norm
            yield Measured(replace(shape, precision=precision), numel, error)
        print(f"{numel:,} elements: {i + 1} of {len(tested)} shapes", file=sys.stderr)


def print_differences(grid: list[Measured], by_size: list[Measured]) -> None:
    """Print the differences between predicted and measured SNR.

    Args:
        grid: results of the grid of shapes.
        by_size: results of the shapes that target sizes choose.
    """

    def show(groups: object, precision: object, measured: list[Measured]) -> None:
        differences = [m.difference for m in measured]
        absolute = np.abs(differences).mean()
        largest = max(differences, key=abs)
        row(groups, precision, len(differences), f"{np.mean(differences):+.2f}", f"{absolute:.2f}", f"{largest:+.2f}")

    table("g", "coefficients", "shapes", "mean difference dB", "mean absolute difference dB", "largest dB", text=2)
    for groups, precision in product(GROUPS, PRECISIONS):
        show(groups, precision, [m for m in grid if (m.shape.groups, m.shape.precision) == (groups, precision)])
    show("all", "all", grid)
    show("chosen", "chosen", by_size)


def print_constants(grid: list[Measured]) -> None:
    """Print the constants in the code and those that least squares fits to the measured errors."""
    full = [m for m in grid if m.shape.precision == Precision.FLOAT32]
    system, target = [], []
    for m in full:
        shape = m.shape
        learned = shape.coefficients_per_row / shape.columns(m.numel)
        known = 6.02 * math.log2(shape.length) / shape.groups - 20 * math.log10(1 - learned)
        halvings = math.log2(shape.length // shape.coefficients_per_row)
        system.append([*(float(groups == shape.groups) for groups in GROUPS), -halvings])
        target.append(-10 * math.log10(m.error) - known)
    fitted = np.linalg.lstsq(np.array(system), np.array(target), rcond=None)[0]
    table("constant", "in the code", "fitted")
    for groups, value in zip(GROUPS, fitted, strict=False):
        row(f"SNR of a single sample in dB, g = {groups}", candidates.SINGLE_SAMPLE_SNR[groups], f"{value:.2f}")
    row("dB for every halving of the coefficients", HALVING, f"{fitted[-1]:.2f}")
    float32 = {(m.shape, m.numel): m.error for m in full}
    for precision in PRECISIONS[1:]:
        added = [
            m.error - float32[replace(m.shape, precision=Precision.FLOAT32), m.numel]
            for m in grid
            if m.shape.precision == precision
        ]
        row(f"relative squared error that {precision} adds", f"{candidates.ROUNDING_ERROR[precision]:.1e}",
            f"{np.median(added):.1e}")  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--elements", type=int, nargs="+", default=[36_864], help="numbers of weights of the layers")
    options.add_argument("--bits", type=int, nargs="+", default=[8, 10, 12, 14], help="log2 of the lengths of curves")
    options.add_argument("--rounds", type=int, default=12, help="rounds of refinement")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    grid, by_size = [], []
    for numel in arguments.elements:
        tested = [shape for groups in GROUPS for shape in shapes(numel, groups, arguments.bits)]
        grid += measure(numel, tested, PRECISIONS, arguments.rounds)
        by_size += measure(numel, chosen(numel), (), arguments.rounds)
    print_differences(grid, by_size)
    print()
    print_constants(grid)


if __name__ == "__main__":
    main()

"""What was counted and measured: plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

POSITIONS = ".weight.positions"
COEFFICIENTS = ".weight.coefficients"
SCALES = ".weight.scales"


@dataclass(frozen=True)
class Counts:
    """Numbers in a model, as the paper's two columns count them, and their bytes.

    Attributes:
        positions: one per column of every compressed layer.
        coefficients: kept low frequencies.
        scales: of coefficients that are integers.
        other_parameters: whatever is left dense.
        batchnorm_statistics: running means and variances.
        bytes: of all tensors together, as they lie in a file.
        weights: elements of the compressed weights when they are dense.
        weight_bytes: of their positions, coefficients and scales.
    """

    positions: int
    coefficients: int
    scales: int
    other_parameters: int
    batchnorm_statistics: int
    bytes: int
    weights: int = 0
    weight_bytes: int = 0

    @property
    def parameters(self) -> int:
        """The paper's "Parameters": everything but the integers that BatchNorm counts."""
        curves = self.positions + self.coefficients + self.scales
        return curves + self.other_parameters + self.batchnorm_statistics

    @property
    def trainable(self) -> int:
        """The paper's "Trainable": coefficients alone; everything when nothing is compressed."""
        return self.coefficients if self.positions else self.other_parameters

    @property
    def requires_grad(self) -> int:
        """What an optimiser would change: coefficients and all other parameters."""
        return self.coefficients + self.other_parameters

    @property
    def bits_per_weight(self) -> float | None:
        """Bits that an element of a compressed weight takes; None when nothing is compressed."""
        return 8 * self.weight_bytes / self.weights if self.weights else None

    def to_dict(self) -> dict[str, float | None]:
        """All numbers, also the derived ones."""
        return {
            **asdict(self),
            "bits_per_weight": self.bits_per_weight,
            "parameters": self.parameters,
            "trainable": self.trainable,
            "requires_grad": self.requires_grad,
        }


def count(tensors: Iterable[tuple[str, int, int, bool]], weights: int = 0) -> Counts:
    """Count the tensors of a file or a model by what their names say they are.

    Args:
        tensors: (name in a file, numbers, bytes, is floating point).
        weights: elements of the compressed weights when they are dense.
    """
    numbers = dict.fromkeys((POSITIONS, COEFFICIENTS, SCALES), 0)
    other = statistics = size = weight_bytes = 0
    for name, numel, taken, floating in tensors:
        size += taken
        part = next((suffix for suffix in numbers if name.endswith(suffix)), None)
        if part is not None:
            numbers[part] += numel
            weight_bytes += taken
        elif name.endswith((".running_mean", ".running_var")):
            statistics += numel
        elif floating:
            other += numel
    positions, coefficients, scales = numbers.values()
    return Counts(positions, coefficients, scales, other, statistics, size, weights, weight_bytes)


@dataclass(frozen=True)
class LayerReport:
    """One compressed layer.

    Attributes:
        name: of the module that holds the weight.
        shape: of the dense weight.
        groups: rows.
        length: samples on the curve.
        kept: coefficients per row.
        precision: of the coefficients in a file.
        signal: squared norm of the weight.
        noise: squared norm of what decoding loses.
        noise_unrefined: the same before refinement, with the paper's encoding.
        seconds: spent on encoding it, by one thread.
        bytes_before: of the dense weight.
        bytes_after: of coefficients, scales and positions in a file.
    """

    name: str
    shape: tuple[int, ...]
    groups: int
    length: int
    kept: int
    precision: str
    signal: float
    noise: float
    noise_unrefined: float
    seconds: float
    bytes_before: int
    bytes_after: int

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB; infinite where nothing is lost."""
        return decibels(self.signal, self.noise)

    @property
    def snr_unrefined(self) -> float:
        """The same before refinement."""
        return decibels(self.signal, self.noise_unrefined)


@dataclass(frozen=True)
class Report:
    """What compressing a model did to its layers, its counts and its bytes."""

    layers: tuple[LayerReport, ...]
    before: Counts
    after: Counts

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB of all compressed layers together."""
        return decibels(sum(x.signal for x in self.layers), sum(x.noise for x in self.layers))

    @property
    def snr_unrefined(self) -> float:
        """The same before refinement."""
        return decibels(sum(x.signal for x in self.layers), sum(x.noise_unrefined for x in self.layers))

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it; an infinite ratio is null."""
        layers = [
            {**asdict(x), "snr": finite(x.snr), "snr_unrefined": finite(x.snr_unrefined)} for x in self.layers
        ]
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "snr": finite(self.snr),
            "snr_unrefined": finite(self.snr_unrefined),
            "layers": layers,
        }


@dataclass(frozen=True)
class Correction:
    """What was done to a compressed model's statistics, without labels or training.

    Attributes:
        source: noise, digits, or the folder of images.
        images: how many were seen.
        batchnorms: layers whose running statistics were set.
        biases: layers whose bias was.
    """

    source: str
    images: int
    batchnorms: int
    biases: int

    def __str__(self) -> str:
        done = [
            f"{count} {what}"
            for count, what in ((self.batchnorms, "BatchNorms"), (self.biases, "biases"))
            if count
        ]
        return f"{' and '.join(done) or 'nothing to correct'}, on {self.images} images of {self.source}"


def total_snr(layers: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Ratio in dB of several layers together, each given as (signal, its ratio in dB or None).

    Returns:
        None where a signal is not known; a layer without a ratio has no noise.
    """
    pairs = list(layers)
    if not pairs or any(signal is None for signal, _ in pairs):
        return None
    noise = sum((s or 0) * 10 ** (-snr / 10) for s, snr in pairs if snr is not None)
    return decibels(sum(s or 0 for s, _ in pairs), noise)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), infinite without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None

"""Counts of the numbers in a file or model, as the paper counts them, and their bytes. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tenreo.files.layout import COEFFICIENTS, POSITIONS, SCALES, TensorRecord, split_name
from tenreo.files.records import LayerRecord


@dataclass(frozen=True)
class Counts:
    """Counts of the numbers in a model, and their bytes in a file.

    Attributes:
        positions: number of positions: one per column of every compressed layer.
        coefficients: number of stored coefficients of the cosine transform.
        scales: number of scales of integer coefficients.
        dense_parameters: number of uncompressed parameters.
        batchnorm_statistics: number of running means and variances.
        bytes: size of the file; for a dense model, bytes of all its tensors.
        weights: number of elements of the compressed weights before compression.
        weight_bytes: bytes of the positions, coefficients and scales.
    """

    positions: int = 0
    coefficients: int = 0
    scales: int = 0
    dense_parameters: int = 0
    batchnorm_statistics: int = 0
    bytes: int = 0
    weights: int = 0
    weight_bytes: int = 0

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return Counts(*(a + b for a, b in pairs))

    def __sub__(self, other: Counts) -> Counts:
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return Counts(*(a - b for a, b in pairs))

    @property
    def parameters(self) -> int:
        """The paper's "Parameters": all numbers except BatchNorm's integer counters of batches."""
        curves = self.positions + self.coefficients + self.scales
        return curves + self.dense_parameters + self.batchnorm_statistics

    @property
    def paper_trainable(self) -> int:
        """The paper's "Trainable": the coefficients alone, or all parameters if no layer is compressed."""
        return self.coefficients if self.positions else self.dense_parameters

    @property
    def requires_grad(self) -> int:
        """Number of values that an optimizer changes: coefficients and uncompressed parameters."""
        return self.coefficients + self.dense_parameters

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits per element of the compressed weights, or None if no layer is compressed."""
        return 8 * self.weight_bytes / self.weights if self.weights else None

    def to_dict(self) -> dict[str, float | None]:
        """Return the attributes and the derived numbers by name."""
        return {
            **asdict(self),
            "bits_per_weight": self.bits_per_weight,
            "parameters": self.parameters,
            "paper_trainable": self.paper_trainable,
            "requires_grad": self.requires_grad,
        }


def count(tensors: Mapping[str, TensorRecord], layers: Mapping[str, LayerRecord] | None = None) -> Counts:
    """Count the numbers in the tensors of a file or model; the name of a tensor determines what it counts as.

    Args:
        tensors: tensors by their names in a file.
        layers: compressed layers by name.
    """
    layers = layers or {}
    total = dict.fromkeys(asdict(Counts()), 0)
    total["weights"] = sum(layer.numel for layer in layers.values())
    for name, tensor in tensors.items():
        layer, suffix = split_name(name)
        total["bytes"] += tensor.bytes
        if suffix and layer in layers:
            record = layers[layer]
            numbers = {POSITIONS: record.columns, COEFFICIENTS: record.curve.coefficients, SCALES: record.curve.scales}
            total[suffix.removeprefix(".")] += numbers[suffix]
            total["weight_bytes"] += tensor.bytes
        elif name.endswith((".running_mean", ".running_var")):
            total["batchnorm_statistics"] += tensor.numel
        elif tensor.is_floating:
            total["dense_parameters"] += tensor.numel
    return Counts(**total)

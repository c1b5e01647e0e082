"""The numbers in a file or a model, as the paper counts them, and their bytes. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tenreo.files.layout import COEFFICIENTS, POSITIONS, SCALES, TensorRecord, split_name
from tenreo.files.records import LayerRecord


@dataclass(frozen=True)
class Counts:
    """Numbers in a model, as the paper's two columns count them, and their bytes.

    Attributes:
        positions: one per column of every compressed layer.
        coefficients: low frequencies of the curves.
        scales: of coefficients that are integers.
        dense_parameters: parameters of what is not compressed.
        batchnorm_statistics: running means and variances.
        bytes: of all tensors together, as they lie in a file.
        weights: elements of the compressed weights when they are dense.
        weight_bytes: of their positions, coefficients and scales.
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
        """The paper's "Parameters": everything but the integers that BatchNorm counts."""
        curves = self.positions + self.coefficients + self.scales
        return curves + self.dense_parameters + self.batchnorm_statistics

    @property
    def paper_trainable(self) -> int:
        """The paper's "Trainable": coefficients alone; everything when nothing is compressed."""
        return self.coefficients if self.positions else self.dense_parameters

    @property
    def requires_grad(self) -> int:
        """What an optimizer changes: coefficients and all other parameters."""
        return self.coefficients + self.dense_parameters

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
            "paper_trainable": self.paper_trainable,
            "requires_grad": self.requires_grad,
        }


def count(tensors: Mapping[str, TensorRecord], layers: Mapping[str, LayerRecord] | None = None) -> Counts:
    """Count the tensors of a file or a model by what their names say they are.

    Args:
        tensors: by their names in a file.
        layers: the compressed ones, by name.
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

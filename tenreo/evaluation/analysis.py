"""Result of an analysis: the bytes of every compressed layer, and what its error does to the outputs."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from glob import escape
from typing import Any

from tenreo.codec.distortion import decibels, finite
from tenreo.correction.importance import importance_of
from tenreo.errors import TenreoError, counted
from tenreo.evaluation.accuracy import wilson_interval
from tenreo.evaluation.agreement import Agreement
from tenreo.planning.rates import TargetSize
from tenreo.planning.recipe import DENSE, Recipe
from tenreo.planning.summary import Summarized
from tenreo.sizes import byte_count


@dataclass(frozen=True, kw_only=True)
class LayerAnalysis:
    """What the compression of one layer costs and does.

    Attributes:
        name: name of the layer.
        shape: shape of the dense weight.
        bytes_before: bytes of the dense weight.
        bytes_after: bytes of the layer in the file.
        squared_norm: squared norm of the dense weight.
        squared_error: squared norm of the difference between the dense and the decoded weight.
        alone: agreement with the dense model if this layer alone is compressed.
        restored: agreement with the dense model if this layer alone is restored in the compressed model.
    """

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    squared_norm: float
    squared_error: float
    alone: Agreement
    restored: Agreement

    @property
    def numel(self) -> int:
        """Number of elements of the dense weight."""
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per element of the dense weight."""
        return 8 * self.bytes_after / self.numel

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB; infinite if the error is zero."""
        return decibels(self.squared_norm, self.squared_error)

    def to_dict(self) -> dict[str, Any]:
        """Return values that can be written as JSON."""
        return {
            **asdict(self), "shape": list(self.shape), "bits_per_weight": self.bits_per_weight,
            "snr": finite(self.snr),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, repr=False)
class Analysis(Summarized):
    """Result of `analyze`.

    Attributes:
        layers: compressed layers in the order of the model.
        whole: agreement of the compressed model with the dense model.
        kl_interval: 95 % confidence interval of `whole.kl`, by the bootstrap over the images.
        compared_on: number and kind of the images that the outputs were compared on, for messages.
        bytes_before: bytes of all tensors of the dense model.
        bytes_after: bytes of the compressed model's file.
        recipe: recipe that the model was compressed with, if it is known.
    """

    layers: tuple[LayerAnalysis, ...]
    whole: Agreement
    kl_interval: tuple[float, float]
    compared_on: str
    bytes_before: int
    bytes_after: int
    recipe: Recipe | None

    @property
    def by_harm(self) -> list[LayerAnalysis]:
        """The layers, the one that changes the outputs most when it alone is compressed first."""
        return sorted(self.layers, key=lambda layer: -layer.alone.kl)

    @property
    def agreement_interval(self) -> tuple[float, float]:
        """95 % confidence interval of `whole.agreement`, in percent."""
        return wilson_interval(round(self.whole.agreement * self.whole.images / 100), self.whole.images)

    def better_recipe(self) -> Recipe:
        """Return a recipe to try for a file of the same size that gives more bytes to the layers that do more harm.

        Harm is measured for single layers, and their errors add up in other ways, so that the outputs may become better
        or worse (docs/guide.md has measurements): compare both files.

        The importance of a layer is the square root of its KL divergence per squared error of its weight, as in
        `measure_importance`; the geometric mean of all is 1.

        Raises:
            TenreoError: if no layer changes the outputs.
        """
        factors = _importance(self.layers)
        if not factors:
            raise TenreoError("importance: no layer changes the outputs, so none needs more bytes")
        rate = TargetSize(self.bytes_after)
        old = self.recipe or Recipe(None, rate)
        others = {p: f for p, f in old.importance.items() if not any(fnmatchcase(x.name, p) for x in self.layers)}
        dense = {pattern: own for pattern, own in old.layers.items() if own == DENSE}
        return Recipe(None, rate, old.include, old.exclude, importance=others | factors, layers=dense)

    def __str__(self) -> str:
        worst = ", ".join(f"{layer.name} {layer.alone.kl:.2g}" for layer in self.by_harm[:3])
        return (
            f"Analysis: {byte_count(self.bytes_before)} -> {byte_count(self.bytes_after)}, "
            f"{counted(len(self.layers), 'compressed layer')}\n"
            f"on {self.compared_on}: KL {self.whole.kl:.2g} nats, agreement {self.whole.agreement:.1f} %\n"
            f"most harm alone: {worst}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return values that can be written as JSON."""
        return {
            "bytes_before": self.bytes_before, "bytes_after": self.bytes_after, "compared_on": self.compared_on,
            "whole": {**asdict(self.whole), "kl_interval": list(self.kl_interval),
                      "agreement_interval": list(self.agreement_interval)},
            "layers": [layer.to_dict() for layer in self.layers],
        }  # fmt: skip


def _importance(layers: Iterable[LayerAnalysis]) -> dict[str, float]:
    """Return the importance of the layers by the patterns of their names."""
    harms = {escape(x.name): x.alone.kl / x.squared_error for x in layers if x.squared_error > 0}
    return importance_of(harms)

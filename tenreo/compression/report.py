"""What compressing a model did: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tenreo.codec.distortion import decibels, finite
from tenreo.codec.shape import CurveShape
from tenreo.files.counts import Counts
from tenreo.files.records import LayerErrors, LayerRecord


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One compressed layer.

    Attributes:
        name: of the module that holds the weight.
        shape: of the dense weight.
        curve: the shape of its encoding.
        squared_norm: of the dense weight.
        squared_error: squared norm of what decoding loses.
        squared_error_unrefined: the same before refinement, with the paper's encoding.
        seconds: spent on encoding it, by one thread.
        bytes_before: of the dense weight.
        bytes_after: of coefficients, scales and positions in a file.
    """

    name: str
    shape: tuple[int, ...]
    curve: CurveShape
    squared_norm: float
    squared_error: float
    squared_error_unrefined: float
    seconds: float
    bytes_before: int
    bytes_after: int

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB; infinite where nothing is lost."""
        return decibels(self.squared_norm, self.squared_error)

    @property
    def snr_unrefined(self) -> float:
        """The same before refinement."""
        return decibels(self.squared_norm, self.squared_error_unrefined)

    @property
    def errors(self) -> LayerErrors:
        """What a file keeps of the errors."""
        return LayerErrors(self.snr, self.snr_unrefined, self.squared_norm)

    @property
    def record(self) -> LayerRecord:
        """The layer as a file describes it."""
        return LayerRecord(self.shape, self.curve, self.errors)

    def to_dict(self) -> dict[str, Any]:
        """The layer as JSON can hold it; an infinite ratio is null."""
        own = {name: value for name, value in vars(self).items() if name != "curve"}
        ratios = {"snr": finite(self.snr), "snr_unrefined": finite(self.snr_unrefined)}
        return {**own, **vars(self.curve), "columns": self.record.columns, **ratios}


@dataclass(frozen=True)
class Report:
    """What compressing a model did to its layers, its counts and its bytes."""

    layers: tuple[LayerReport, ...]
    before: Counts
    after: Counts

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB of all compressed layers together."""
        return decibels(sum(x.squared_norm for x in self.layers), sum(x.squared_error for x in self.layers))

    @property
    def snr_unrefined(self) -> float:
        """The same before refinement."""
        error = sum(x.squared_error_unrefined for x in self.layers)
        return decibels(sum(x.squared_norm for x in self.layers), error)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it; an infinite ratio is null."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "snr": finite(self.snr),
            "snr_unrefined": finite(self.snr_unrefined),
            "layers": [layer.to_dict() for layer in self.layers],
        }

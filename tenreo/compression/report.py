"""Report of a compression: errors, bytes and seconds as plain values."""

from dataclasses import dataclass
from typing import Any

from tenreo.codec.distortion import decibels, finite
from tenreo.codec.shape import CurveShape
from tenreo.errors import counted
from tenreo.files.counts import Counts
from tenreo.files.records import LayerErrors, LayerRecord
from tenreo.planning.summary import Summarized
from tenreo.sizes import byte_count


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """Report of one compressed layer.

    Attributes:
        name: name of the layer.
        shape: shape of the dense weight.
        curve: shape of the encoding.
        squared_norm: squared norm of the dense weight.
        squared_error: squared norm of the difference between the dense and the decoded weight.
        squared_error_unrefined: squared error before refinement, which the paper's encoding has; None for a layer that
            was encoded at a price per bit, which has no paper's encoding of the same size.
        seconds: time that one thread spent on the encoding.
        bytes_before: bytes of the dense weight.
        bytes_after: bytes of coefficients, scales and positions in a file.
    """

    name: str
    shape: tuple[int, ...]
    curve: CurveShape
    squared_norm: float
    squared_error: float
    squared_error_unrefined: float | None
    seconds: float
    bytes_before: int
    bytes_after: int

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB; infinite if the error is zero."""
        return decibels(self.squared_norm, self.squared_error)

    @property
    def snr_unrefined(self) -> float | None:
        """Signal-to-noise ratio in dB before refinement, or None."""
        error = self.squared_error_unrefined
        return None if error is None else decibels(self.squared_norm, error)

    @property
    def errors(self) -> LayerErrors:
        """Errors that a file stores."""
        return LayerErrors(self.snr, self.snr_unrefined, self.squared_norm)

    @property
    def record(self) -> LayerRecord:
        """The layer's record in a file."""
        return LayerRecord(self.shape, self.curve, self.errors)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can represent; an infinite ratio becomes None."""
        own = {name: value for name, value in vars(self).items() if name != "curve"}
        ratios = {"snr": finite(self.snr), "snr_unrefined": finite(self.snr_unrefined)}
        return {**own, **vars(self.curve), "columns": self.record.columns, **ratios}


@dataclass(frozen=True, repr=False)
class Report(Summarized):
    """Report of a whole model.

    Attributes:
        layers: compressed layers.
        before: counts of the dense model.
        after: counts of the compressed model; `after.bytes` is the size of the file that `save` writes. If the info
            that is saved has more than the class names, such as an architecture, the header has that much more.
    """

    layers: tuple[LayerReport, ...]
    before: Counts
    after: Counts

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB over all compressed layers."""
        return decibels(sum(x.squared_norm for x in self.layers), sum(x.squared_error for x in self.layers))

    @property
    def snr_unrefined(self) -> float | None:
        """Signal-to-noise ratio in dB before refinement; None unless all layers have one."""
        errors = [x.squared_error_unrefined for x in self.layers if x.squared_error_unrefined is not None]
        norm = sum(x.squared_norm for x in self.layers)
        return decibels(norm, sum(errors)) if len(errors) == len(self.layers) else None

    def __str__(self) -> str:
        before, after = self.before.bytes, self.after.bytes
        return (
            f"Report: {byte_count(before)} -> {byte_count(after)} ({before / max(1, after):.1f} times smaller)\n"
            f"{counted(len(self.layers), 'compressed layer')}, {self.after.bits_per_weight or 0:.2f} bits per weight, "
            f"SNR {self.snr:.2f} dB"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can represent; an infinite ratio becomes None."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "snr": finite(self.snr),
            "snr_unrefined": finite(self.snr_unrefined),
            "layers": [layer.to_dict() for layer in self.layers],
        }

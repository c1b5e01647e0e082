"""The plain records of a file's metadata: the model, its preprocessing, its layers, its corrections. No torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tenreo.codec.decibels import finite
from tenreo.codec.shape import CurveShape, Precision

_MOST_CLASSES = 100_000  # a damaged number must not fill the memory
_MOST_PIXELS = 10_000
_MOST_CLASS_NAME = 255  # characters, as of the name of a folder
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an input: torchvision's resize, center crop, normalize.

    Attributes:
        resize: shorter side in pixels.
        crop: side of the square input in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel.
        interpolation: one of `INTERPOLATIONS`.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Read what a file says; ValueError, TypeError or OverflowError when it makes no sense."""
        plain = dict(values)
        for key in ("mean", "std"):
            if key in plain:
                plain[key] = tuple(float(x) for x in plain[key])
        read = cls(**plain)
        if not all(isinstance(x, int) and 0 < x < _MOST_PIXELS for x in (read.resize, read.crop)):
            raise ValueError(f"preprocess {values!r}")
        if read.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {read.interpolation!r}")
        pairs = zip(read.mean, read.std, strict=True)
        if not all(math.isfinite(mean) and 0 < std < math.inf for mean, std in pairs):
            raise ValueError(f"mean {read.mean}, std {read.std}")
        return read


@dataclass(frozen=True)
class Correction:
    """What was corrected in a compressed model, without labels or training.

    Attributes:
        source: noise, digits, or the folder of images.
        images: how many were seen.
        batchnorms: layers whose running statistics were set.
        biases: layers whose bias was.
        note: what was not corrected, or not entirely; empty where there is nothing to say.
    """

    source: str
    images: int
    batchnorms: int
    biases: int
    note: str = ""

    def __str__(self) -> str:
        counts = ((self.batchnorms, "BatchNorms"), (self.biases, "biases"))
        done = " and ".join(f"{count} {what}" for count, what in counts if count)
        note = f" ({self.note})" if self.note else ""
        return f"{done or 'nothing to correct'}, on {self.images} images of {self.source}{note}"


@dataclass(frozen=True)
class ModelInfo:
    """The model that a file's tensors belong to.

    Attributes:
        arch: torchvision architecture; None for any other model.
        classes: size of the output; None where unknown.
        weights: where they came from, such as IMAGENET1K_V1, a file, or none.
        preprocess: how to prepare images.
        corrections: what was corrected after compressing.
        class_names: of the outputs in their order, which are the folders of the images it was trained on; empty where
            they are not known.
    """

    arch: str | None = None
    classes: int | None = None
    weights: str | None = None
    preprocess: Preprocess = field(default_factory=Preprocess)
    corrections: tuple[Correction, ...] = ()
    class_names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; earlier versions do not know notes, so an empty one is left out."""
        plain = asdict(self)
        for correction in plain["corrections"]:
            if not correction["note"]:
                del correction["note"]
        if not self.class_names:
            del plain["class_names"]
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelInfo:
        """Read what a file says; ValueError, TypeError or OverflowError when it makes no sense."""
        arch, classes, weights = (values.get(key) for key in ("arch", "classes", "weights"))
        if classes is not None and (type(classes) is not int or not 1 <= classes <= _MOST_CLASSES):
            raise ValueError(f"classes {classes!r}")
        if not all(isinstance(x, (str, type(None))) for x in (arch, weights)):
            raise ValueError(f"arch {arch!r}, weights {weights!r}")
        corrections = tuple(Correction(**each) for each in values.get("corrections") or ())
        names = _class_names(values.get("class_names", []), classes)
        return cls(arch, classes, weights, Preprocess.from_dict(values.get("preprocess") or {}), corrections, names)


def _class_names(names: Any, classes: int | None) -> tuple[str, ...]:
    """Different names, as many as there are classes; ValueError otherwise."""
    if not isinstance(names, list) or not all(isinstance(n, str) and 0 < len(n) <= _MOST_CLASS_NAME for n in names):
        raise ValueError("class_names are no list of names")
    if names and (len(names) != classes or len(set(names)) != len(names)):
        raise ValueError(f"class_names: {len(set(names))} different ones, needs {classes}")
    return tuple(names)


@dataclass(frozen=True)
class LayerErrors:
    """How far a compressed weight is from the dense one.

    Attributes:
        snr: signal-to-noise ratio in dB, None if unknown or infinite.
        snr_unrefined: the same before refinement.
        squared_norm: of the dense weight, None if unknown.
    """

    snr: float | None = None
    snr_unrefined: float | None = None
    squared_norm: float | None = None


@dataclass(frozen=True)
class LayerRecord:
    """A compressed layer as a file describes it.

    Attributes:
        shape: of the dense weight.
        curve: the shape of its encoding.
        errors: against the dense weight.
        packed: whether positions are packed bits; files of version 1 have int32.
    """

    shape: tuple[int, ...]
    curve: CurveShape
    errors: LayerErrors = LayerErrors()
    packed: bool = True

    @property
    def numel(self) -> int:
        """Elements of the dense weight."""
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Columns of the reshaped weight, each with a position."""
        return self.curve.columns(self.numel)

    def to_dict(self) -> dict[str, Any]:
        """The record under the keys of the file format."""
        errors = (self.errors.snr, self.errors.snr_unrefined, self.errors.squared_norm)
        snr, snr_unrefined, signal = (None if x is None else finite(x) for x in errors)
        return {
            "shape": list(self.shape),
            "groups": self.curve.groups,
            "length": self.curve.length,
            "kept": self.curve.coefficients_per_row,
            "position_bits": self.curve.position_bits if self.packed else 32,
            "precision": self.curve.precision,
            "snr": snr,
            "snr_unrefined": snr_unrefined,
            "signal": signal,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LayerRecord:
        """Read what a file says; ValueError, TypeError, KeyError or OverflowError when it makes no sense."""
        shape = tuple(int(x) for x in values["shape"])
        precision = values.get("precision", "float32")
        if precision not in list(Precision):
            raise ValueError(f"precision {precision!r}")
        groups, length, per_row = (int(values[key]) for key in ("groups", "length", "kept"))
        curve = CurveShape(groups, length, per_row, Precision(precision))
        known = [values.get(key) for key in ("snr", "snr_unrefined", "signal")]
        errors = [None if x is None else float(x) for x in known]
        if not all(x is None or -1000 < x < math.inf for x in errors):
            raise ValueError(f"measured {known}")
        # No curve has more samples than columns, so a file can not ask for more memory than it fills.
        possible = groups >= 1 and math.prod(shape) % groups == 0
        if not possible or not 1 <= per_row <= length <= math.prod(shape) // groups:
            raise ValueError(f"impossible layer {values!r}")
        bits = int(values.get("position_bits", 32))
        if bits not in (32, curve.position_bits):
            raise ValueError(f"impossible layer {values!r}")
        return cls(shape, curve, LayerErrors(*errors), packed=bits != 32)

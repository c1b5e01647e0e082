"""The plain records of a file's metadata: the model, its preprocessing, its layers, its corrections. No torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tenreo.codec.shape import MOST_MEMORY, MOST_VALUES, CurveShape, Positions, Precision
from tenreo.errors import printable
from tenreo.files.values import Fields

# What a file says must not fill the memory of who reads it.
MOST_CLASSES = 100_000
MOST_CHANNELS = 4096  # of an input
MOST_PIXELS = 1024  # of the side of an image: the largest model of torchvision takes 518
_MOST_NAME = 255  # characters of the name of an architecture or a file
_MOST_TEXT = 5000  # of a folder or a note
_MOST_CORRECTIONS = 100
_MOST_COUNT = 2**53
_MOST_DIMENSIONS = 8
_MOST_ELEMENTS = 2**40  # of a weight
_MOST_DECIBELS = 400.0
_MOST_NORM = 1e200  # so that no sum of squares and no ratio of them leaves float64
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_CHANNEL_RANGES = {"mean": (-1000.0, 1000.0), "std": (1e-6, 1000.0)}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an input: torchvision's resize, center crop, normalize.

    Attributes:
        resize: shorter side in pixels.
        crop: side of the square input in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel.
        interpolation: one of `INTERPOLATIONS`.
        channels: of the input; pictures can be made of 1 and 3.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    channels: int = 3

    @classmethod
    def from_fields(cls, read: Fields) -> Preprocess:
        """Read what a file says, with defaults for what it does not; ValueError when it makes no sense."""
        said: dict[str, Any] = {
            **{key: read.whole(key, 1, MOST_PIXELS) for key in ("resize", "crop") if read.has(key)},
            **{key: read.numbers(key, *span, MOST_CHANNELS) for key, span in _CHANNEL_RANGES.items() if read.has(key)},
            **({"interpolation": read.one_of("interpolation", INTERPOLATIONS)} if read.has("interpolation") else {}),
            **({"channels": read.whole("channels", 1, MOST_CHANNELS)} if read.has("channels") else {}),
        }
        preprocess = cls(**said)
        preprocess.check()
        return preprocess

    def check(self) -> None:
        """ValueError unless mean and std are of every channel, or of all."""
        if {len(self.mean), len(self.std)} not in ({1}, {self.channels}):
            raise ValueError(
                f"mean of {len(self.mean)} and std of {len(self.std)} channels, needs {self.channels} or 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; earlier versions know three channels alone."""
        plain = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        if self.channels == 3:
            del plain["channels"]
        return plain


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

    @classmethod
    def from_fields(cls, read: Fields) -> Correction:
        """Read what a file says; ValueError when it makes no sense."""
        images, norms, biases = (read.whole(key, 0, _MOST_COUNT) for key in ("images", "batchnorms", "biases"))
        note = read.text("note", _MOST_TEXT) if read.has("note") else ""
        return cls(read.text("source", _MOST_TEXT), images, norms, biases, note)


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
        builder: how to build a model that is no classifier of torchvision: timm:NAME, torchvision:NAME or
            package.module:function; None where that is not known.
        kwargs: arguments of the builder.
        transform_input: whether an Inception or GoogLeNet changes its input to the range that the weights of
            torchvision's ancestors expect; None for every other architecture.
    """

    arch: str | None = None
    classes: int | None = None
    weights: str | None = None
    preprocess: Preprocess = field(default_factory=Preprocess)
    corrections: tuple[Correction, ...] = ()
    class_names: tuple[str, ...] = ()
    transform_input: bool | None = None
    builder: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str | None:
        """The architecture or the builder; None where neither is known."""
        return self.arch or self.builder

    @property
    def source(self) -> str | None:
        """The builder, also of an architecture of torchvision; None where neither is known."""
        return self.builder if self.arch is None else f"torchvision:{self.arch}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, of printable text; earlier versions do not know what is left out when it is empty."""
        plain = asdict(self)
        plain["preprocess"] = self.preprocess.to_dict()
        plain["weights"] = None if self.weights is None else printable(self.weights, _MOST_NAME)
        for correction in plain["corrections"]:
            correction["source"] = printable(correction["source"], _MOST_TEXT)
            correction["note"] = printable(correction["note"], _MOST_TEXT)
            if not correction["note"]:
                del correction["note"]
        if not self.class_names:
            del plain["class_names"]
        if self.transform_input is None:
            del plain["transform_input"]
        if self.builder is None:
            del plain["builder"], plain["kwargs"]
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelInfo:
        """Read what a file says; ValueError when it makes no sense."""
        read = Fields(values)
        arch, weights = (read.text(key, _MOST_NAME) if read.has(key) else None for key in ("arch", "weights"))
        classes = read.whole("classes", 1, MOST_CLASSES) if read.has("classes") else None
        preprocess = Preprocess.from_fields(Fields(values["preprocess"] if read.has("preprocess") else {}))
        corrections = read.objects("corrections", _MOST_CORRECTIONS) if read.has("corrections") else ()
        transform = read.flag("transform_input") if read.has("transform_input") else None
        names = read.names("class_names", _MOST_NAME, classes) if read.has("class_names") else ()
        done = tuple(map(Correction.from_fields, corrections))
        builder = read.text("builder", _MOST_NAME) if read.has("builder") else None
        kwargs = read.scalars("kwargs", _MOST_NAME) if read.has("kwargs") else {}
        return cls(arch, classes, weights, preprocess, done, names, transform, builder, kwargs)


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
        positions: how they lie in the file: coded since version 3, packed since version 2, int32 in version 1.
    """

    shape: tuple[int, ...]
    curve: CurveShape
    errors: LayerErrors = LayerErrors()
    positions: Positions = Positions.PACKED

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
        snr, snr_unrefined = (
            _within(x, -_MOST_DECIBELS, _MOST_DECIBELS) for x in (self.errors.snr, self.errors.snr_unrefined)
        )
        signal = _within(self.errors.squared_norm, 0, _MOST_NORM)
        coded: dict[str, Any] = {"positions": self.positions} if self.positions == Positions.CODED else {}
        return {
            "shape": list(self.shape),
            "groups": self.curve.groups,
            "length": self.curve.length,
            "kept": self.curve.coefficients_per_row,
            "position_bits": 32 if self.positions == Positions.INT32 else self.curve.position_bits,
            "precision": self.curve.precision,
            "snr": snr,
            "snr_unrefined": snr_unrefined,
            "signal": signal,
            **coded,
            **({"memory": self.curve.memory} if self.curve.memory else {}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LayerRecord:
        """Read what a file says; ValueError when it makes no sense."""
        read = Fields(values)
        shape = read.wholes("shape", 1, _MOST_ELEMENTS, _MOST_DIMENSIONS)
        precision = read.one_of("precision", tuple(Precision)) if read.has("precision") else Precision.FLOAT32
        groups, length, per_row = (read.whole(key, 1, _MOST_ELEMENTS) for key in ("groups", "length", "kept"))
        memory = read.whole("memory", 2, MOST_MEMORY) if read.has("memory") else 0
        curve = CurveShape(groups, length, per_row, Precision(precision), memory)
        bits = read.whole("position_bits", 1, 32) if read.has("position_bits") else 32
        if bits not in (32, curve.position_bits):
            raise ValueError(f"impossible layer: positions below {length} in {bits} bits")
        snr, snr_unrefined = (
            read.number(key, -_MOST_DECIBELS, _MOST_DECIBELS) if read.has(key) else None
            for key in ("snr", "snr_unrefined")
        )
        signal = read.number("signal", 0, _MOST_NORM) if read.has("signal") else None
        positions = Positions.INT32 if bits == 32 else Positions.PACKED
        if read.has("positions"):
            positions = Positions(read.one_of("positions", (Positions.CODED,)))
        return cls.checked(shape, curve, LayerErrors(snr, snr_unrefined, signal), positions)

    @classmethod
    def checked(
        cls, shape: tuple[int, ...], curve: CurveShape, errors: LayerErrors, positions: Positions
    ) -> LayerRecord:
        """A record of numbers that a file says; ValueError when no weight has them."""
        numel = math.prod(shape)
        # A curve has no more samples than columns, but a table of values, so a file can not ask for more memory than it
        # fills.
        possible = curve.groups >= 1 and numel <= _MOST_ELEMENTS and numel % curve.groups == 0
        most = max(numel // curve.groups, MOST_VALUES if curve.groups == 1 else 1) if possible else 0
        trellis = not curve.memory or curve.groups == 1
        if not trellis or not 1 <= curve.coefficients_per_row <= curve.length <= most:
            raise ValueError(
                f"impossible layer: shape {list(shape)}, {curve.groups} groups, {curve.length} samples, "
                f"{curve.coefficients_per_row} coefficients per row"
            )
        return cls(shape, curve, errors, positions)


def _within(value: float | None, least: float, most: float) -> float | None:
    """The value, or None where a file can not say it."""
    return value if value is not None and least <= value <= most else None

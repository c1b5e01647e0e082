"""Records of a file's metadata: the model, its preprocessing, corrections and layers. Does not import torch."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tenreo.codec.shape import (
    MOST_LEVELS,
    MOST_MEMORY,
    MOST_VALUES,
    RAMP_COEFFICIENTS,
    Basis,
    CurveShape,
    Positions,
    Precision,
)
from tenreo.errors import counted, printable
from tenreo.files.values import Fields

# Limits for values from files, so that a hostile file cannot make its reader allocate large amounts of memory.
MOST_CLASSES = 100_000
MOST_CHANNELS = 4096  # channels of a model's input
MOST_PIXELS = 1024  # side of an image; the largest input of torchvision's models has 518 pixels
_MOST_NAME = 255  # characters of the name of an architecture or class
_MOST_PATH = 4096  # characters of the path of the weights, the most of Linux
_MOST_TEXT = 5000  # characters of a path or note
_MOST_CORRECTIONS = 100
_MOST_COUNT = 2**53  # images or layers
MOST_DIMENSIONS = 8  # dimensions of a weight
_MOST_ELEMENTS = 2**40  # elements of a weight
_MOST_DECIBELS = 400.0
_DIGITS = 6  # of errors, which only tables show
_MOST_NORM = 1e200  # squared norms; sums and ratios of them then stay within float64
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_FLOATING = ("F16", "BF16", "F64")  # dtypes of a dense weight besides F32
_CHANNEL_RANGES = {"mean": (-1000.0, 1000.0), "std": (1e-6, 1000.0)}


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of images: torchvision's resize, center crop and normalize.

    Attributes:
        resize: length of the shorter side after resizing, in pixels.
        crop: side of the square input, in pixels.
        mean: mean per channel or for all channels, of pixel values in [0, 1].
        std: standard deviation per channel or for all channels.
        interpolation: interpolation of resizing, one of `INTERPOLATIONS`.
        channels: number of channels of the input; images can be loaded with 1 or 3.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    channels: int = 3

    @classmethod
    def from_fields(cls, read: Fields) -> Preprocess:
        """Return the record that the fields of a file describe; missing ones get the defaults.

        Raises:
            ValueError: if a field is invalid.
        """
        values: dict[str, Any] = {
            **{key: read.whole(key, 1, MOST_PIXELS) for key in ("resize", "crop") if read.has(key)},
            **{key: read.numbers(key, *span, MOST_CHANNELS) for key, span in _CHANNEL_RANGES.items() if read.has(key)},
            **({"interpolation": read.one_of("interpolation", INTERPOLATIONS)} if read.has("interpolation") else {}),
            **({"channels": read.whole("channels", 1, MOST_CHANNELS)} if read.has("channels") else {}),
        }
        preprocess = cls(**values)
        preprocess.check()
        return preprocess

    def check(self) -> None:
        """Raise ValueError unless mean and std have one number per channel, or one for all channels."""
        if {len(self.mean), len(self.std)} not in ({1}, {self.channels}):
            raise ValueError(
                f"mean has {len(self.mean)} and std has {len(self.std)} numbers, needs {self.channels} or 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `channels` is omitted if it is 3, as in files of earlier releases."""
        plain = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        if self.channels == 3:
            del plain["channels"]
        return plain


def inputs_of(count: int, source: str) -> str:
    """Return a number of inputs in words; those of an array file or of a function need not be images.

    >>> inputs_of(512, "noise"), inputs_of(1, "words.npz"), inputs_of(8, "mydata:batches"), inputs_of(8, "images")
    ('512 images of noise', '1 example of words.npz', '8 examples of mydata:batches', '8 examples')
    """
    if source == "images":  # given in Python without a name
        return counted(count, "example")
    is_any = source.endswith((".npz", ".npy")) or re.fullmatch(r"[\w.]+:[\w.]+", source)
    return f"{counted(count, 'example' if is_any else 'image')} of {source}"


@dataclass(frozen=True)
class Correction:
    """A correction of a compressed model's statistics, without labels or training.

    Attributes:
        source: source of the images: "noise", "digits", or a folder.
        images: number of images.
        batchnorms: number of layers whose running statistics were corrected.
        biases: number of layers whose bias was corrected.
        note: layers that were not corrected, or only partly, and the reason; may be empty.
    """

    source: str
    images: int
    batchnorms: int
    biases: int
    note: str = ""

    def __str__(self) -> str:
        counts = ((self.batchnorms, "BatchNorm", "BatchNorms"), (self.biases, "bias", "biases"))
        corrected = " and ".join(counted(*each) for each in counts if each[0])
        note = f" ({self.note})" if self.note else ""
        inputs = f", on {inputs_of(self.images, self.source)}" if self.images else ""
        return f"{corrected or 'nothing corrected'}{inputs}{note}"

    @classmethod
    def from_fields(cls, read: Fields) -> Correction:
        """Return the record that the fields of a file describe.

        Raises:
            ValueError: if a field is invalid.
        """
        images, norms, biases = (read.whole(key, 0, _MOST_COUNT) for key in ("images", "batchnorms", "biases"))
        note = read.text("note", _MOST_TEXT) if read.has("note") else ""
        return cls(read.text("source", _MOST_TEXT), images, norms, biases, note)


@dataclass(frozen=True)
class ModelInfo:
    """Description of the model that the tensors of a file belong to.

    Attributes:
        arch: name of a classification architecture of torchvision, or None for any other model.
        classes: number of outputs, or None if unknown.
        weights: source of the dense weights: a name such as IMAGENET1K_V1, the name of a file, or "none".
        preprocess: preprocessing of images.
        corrections: corrections of statistics after compression.
        class_names: names of the outputs in order, which are the names of the class folders of the training images;
            empty if unknown.
        transform_input: the argument of this name of torchvision's Inception and GoogLeNet models, which converts
            inputs to the normalization of the original TensorFlow weights; None if it is unknown or does not exist.
        builder: source of a model that is not a classification architecture of torchvision: timm:NAME,
            torchvision:NAME or package.module:function; None if unknown.
        kwargs: keyword arguments of the builder.
        license: license of the weights, which files state with the origin of their tensors; empty if unknown.
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
    license: str = ""

    @property
    def name(self) -> str | None:
        """The architecture or the builder, or None if neither is known."""
        return self.arch or self.builder

    @property
    def source(self) -> str | None:
        """The builder, which for an architecture is torchvision:NAME, or None if neither is known."""
        return self.builder if self.arch is None else f"torchvision:{self.arch}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON with printable strings; newer fields are omitted if they are empty."""
        plain = asdict(self)
        del plain["license"]
        plain["preprocess"] = self.preprocess.to_dict()
        plain["weights"] = None if self.weights is None else printable(self.weights, _MOST_PATH)
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
        """Return the record that the fields of a file describe.

        Raises:
            ValueError: if a field is invalid.
        """
        read = Fields(values)
        arch, weights = (
            read.text(key, most) if read.has(key) else None
            for key, most in (("arch", _MOST_NAME), ("weights", _MOST_PATH))
        )
        classes = read.whole("classes", 1, MOST_CLASSES) if read.has("classes") else None
        preprocess = Preprocess.from_fields(Fields(values["preprocess"] if read.has("preprocess") else {}))
        corrections = read.objects("corrections", _MOST_CORRECTIONS) if read.has("corrections") else ()
        transform = read.flag("transform_input") if read.has("transform_input") else None
        names = read.names("class_names", _MOST_NAME, classes) if read.has("class_names") else ()
        corrected = tuple(map(Correction.from_fields, corrections))
        builder = read.text("builder", _MOST_NAME) if read.has("builder") else None
        kwargs = read.scalars("kwargs", _MOST_NAME) if read.has("kwargs") else {}
        return cls(arch, classes, weights, preprocess, corrected, names, transform, builder, kwargs)


@dataclass(frozen=True)
class LayerErrors:
    """Distortion of a compressed weight relative to the dense weight.

    Attributes:
        snr: signal-to-noise ratio in dB, or None if unknown or infinite.
        snr_unrefined: the same ratio before refinement.
        squared_norm: squared norm of the dense weight, or None if unknown.
    """

    snr: float | None = None
    snr_unrefined: float | None = None
    squared_norm: float | None = None


@dataclass(frozen=True)
class LayerRecord:
    """Description of a compressed layer in a file.

    Attributes:
        shape: shape of the dense weight.
        curve: groups, length, coefficients per row, precision and trellis of the encoding.
        errors: distortion of the decoded weight.
        positions: storage format of the positions: coded (since version 3), packed (since version 2) or int32.
        dtype: dtype of the dense weight, such as BF16, if the coefficients are in another format than it would have;
            empty if it is that of the coefficients in full precision, and F32 otherwise.
        coded_coefficients: whether integer coefficients are entropy-coded (since version 4) instead of packed.
    """

    shape: tuple[int, ...]
    curve: CurveShape
    errors: LayerErrors = LayerErrors()
    positions: Positions = Positions.PACKED
    dtype: str = ""
    coded_coefficients: bool = False

    @property
    def numel(self) -> int:
        """Number of elements of the dense weight."""
        return math.prod(self.shape)

    @property
    def version(self) -> int:
        """The lowest version of the file format, from 2, that has such a layer."""
        coded = self.positions == Positions.CODED
        if self.curve.basis is Basis.RAMP or self.dtype or self.coded_coefficients:
            return 5 if self.curve.basis is Basis.RAMP and coded else 4
        return 3 if coded else 2

    @property
    def columns(self) -> int:
        """Number of columns of the reshaped weight, which is the number of positions."""
        return self.curve.columns(self.numel)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON under the keys of the file format.

        Since version 4, what readers assume is left out, and errors are rounded: headers are large in small files.
        """
        snr, snr_unrefined = (
            _within(x, -_MOST_DECIBELS, _MOST_DECIBELS) for x in (self.errors.snr, self.errors.snr_unrefined)
        )
        signal = _within(self.errors.squared_norm, 0, _MOST_NORM)
        coded: dict[str, Any] = {"positions": self.positions} if self.positions == Positions.CODED else {}
        values = {
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
            **({"coefficients": "coded"} if self.coded_coefficients else {}),
            **({"memory": self.curve.memory} if self.curve.memory else {}),
            **({"basis": self.curve.basis} if self.curve.basis is Basis.RAMP else {}),
            **({"dtype": self.dtype} if self.dtype else {}),
        }
        return values if self.version < 4 else _concise(values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LayerRecord:
        """Return the record that the fields of a file describe.

        Raises:
            ValueError: if a field is invalid.
        """
        read = Fields(values)
        shape = read.wholes("shape", 1, _MOST_ELEMENTS, MOST_DIMENSIONS)
        precision = read.one_of("precision", tuple(Precision)) if read.has("precision") else Precision.FLOAT32
        groups, length, per_row = (read.whole(key, 1, _MOST_ELEMENTS) for key in ("groups", "length", "kept"))
        memory = read.whole("memory", 2, MOST_MEMORY) if read.has("memory") else 0
        basis = Basis(read.one_of("basis", (Basis.RAMP,))) if read.has("basis") else Basis.COSINE
        curve = CurveShape(groups, length, per_row, Precision(precision), memory, basis)
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
        dtype = read.one_of("dtype", _FLOATING) if read.has("dtype") else ""
        coded = read.has("coefficients") and bool(read.one_of("coefficients", ("coded",)))
        if coded and not curve.precision.is_integer:
            raise ValueError(f"impossible layer: coded coefficients of precision {precision}")
        record = cls.checked(shape, curve, LayerErrors(snr, snr_unrefined, signal), positions)
        return replace(record, dtype=dtype, coded_coefficients=coded)

    @classmethod
    def checked(
        cls, shape: tuple[int, ...], curve: CurveShape, errors: LayerErrors, positions: Positions
    ) -> LayerRecord:
        """Return a record of numbers from a file. Raise ValueError if no weight can have this combination."""
        numel = math.prod(shape)
        # If a curve could have more samples than columns, a small file could cause a large allocation. Only a table of
        # values (one group) may be longer than the number of columns, and its length is limited. Decoding a ramp
        # allocates nothing for its samples.
        possible = curve.groups >= 1 and numel <= _MOST_ELEMENTS and numel % curve.groups == 0
        most = max(numel // curve.groups, MOST_VALUES if curve.groups == 1 else 1) if possible else 0
        trellis = not curve.memory or curve.groups == 1
        if curve.basis is Basis.RAMP:
            trellis, most = curve.groups == 1 and curve.coefficients_per_row == RAMP_COEFFICIENTS, MOST_LEVELS
        if not trellis or not 1 <= curve.coefficients_per_row <= curve.length <= most:
            raise ValueError(
                f"impossible layer: shape {list(shape)}, {curve.groups} groups, {curve.length} samples, "
                f"{curve.coefficients_per_row} coefficients per row"
            )
        return cls(shape, curve, errors, positions)


def _concise(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a layer without those that readers assume, and with rounded errors."""
    assumed = {"precision": Precision.FLOAT32, "snr": None, "snr_unrefined": None, "signal": None}
    if "positions" in values:
        assumed["position_bits"] = values["position_bits"]
    return {
        key: float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
        for key, value in values.items()
        if key not in assumed or value != assumed[key]
    }


def _within(value: float | None, least: float, most: float) -> float | None:
    """Return a value, or None if it is outside the range that files may contain."""
    return value if value is not None and least <= value <= most else None

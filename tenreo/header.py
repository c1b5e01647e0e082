"""What a file says of itself, read from the header alone: no tensor, no torch.

A compressed weight `X.weight` is two tensors, `X.weight.coefficients` and `X.weight.positions`, and a third,
`X.weight.scales`, where coefficients are integers. Positions and integer coefficients are packed bits in uint8.
Metadata: `tenreo.version`, and as JSON `tenreo.model`, `tenreo.recipe`, `tenreo.layers`.

Version 1: positions are int32, coefficients floating point. Version 2: as above.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tenreo.errors import TenreoError
from tenreo.recipe import Recipe, recipe_from_dict
from tenreo.report import COEFFICIENTS, POSITIONS, SCALES, Correction, Counts, count, total_snr
from tenreo.sizes import FLOATS, PRECISIONS, bands_of, packed_size, width_of

VERSION = 2
ITEMSIZE = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_MOST_CLASSES = 100_000  # a damaged number must not fill the memory
_FLOATING = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an input: torchvision's resize, centre crop, normalise.

    Attributes:
        resize: shorter side in pixels.
        crop: side of the square input in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel.
        interpolation: bilinear or bicubic.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class ModelCard:
    """The model that a file's tensors belong to.

    Attributes:
        arch: torchvision architecture; None for any other model.
        classes: size of the output; None where unknown.
        weights: where they came from, such as IMAGENET1K_V1, a file, or none.
        preprocess: how to prepare images.
        corrections: what was done to the statistics after compressing.
    """

    arch: str | None = None
    classes: int | None = None
    weights: str | None = None
    preprocess: Preprocess = field(default_factory=Preprocess)
    corrections: tuple[Correction, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LayerEntry:
    """A compressed layer as the file describes it.

    Attributes:
        shape: of the weight.
        groups: rows.
        length: samples on the curve.
        kept: coefficients per row.
        snr: in dB, None if unknown or infinite.
        snr_unrefined: the same before refinement.
        signal: squared norm of the weight, None if unknown.
        position_bits: of a packed position; 32 stands for plain int32.
        precision: of the coefficients, of `tenreo.sizes.PRECISIONS`.
    """

    shape: tuple[int, ...]
    groups: int
    length: int
    kept: int
    snr: float | None = None
    snr_unrefined: float | None = None
    signal: float | None = None
    position_bits: int = 32
    precision: str = "float32"

    @property
    def columns(self) -> int:
        """Points on the path, each with a position."""
        return math.prod(self.shape) // self.groups

    def numbers(self, suffix: str) -> int:
        """How many numbers one of the layer's tensors holds, however they are packed."""
        scales = self.groups * bands_of(self.kept)
        return {POSITIONS: self.columns, COEFFICIENTS: self.groups * self.kept, SCALES: scales}[suffix]

    def tensors(self) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """What the layer is in a file: suffix -> (dtypes that fit, shape)."""
        bits = PRECISIONS[self.precision]
        packed = self.precision not in FLOATS
        flat = packed_size(self.groups * self.kept, bits)
        parts = {
            POSITIONS: (("I32",), (self.columns,))
            if self.position_bits == 32
            else (("U8",), (packed_size(self.columns, self.position_bits),)),
            COEFFICIENTS: (("U8",), (flat,)) if packed else (_FLOATING, (self.groups, self.kept)),
        }
        return parts | ({SCALES: (("BF16",), (self.groups, bands_of(self.kept)))} if packed else {})


@dataclass(frozen=True)
class Header:
    """A file without its tensors' values.

    Attributes:
        path: of the file.
        kind: tenreo, dense or reference.
        tensors: name -> (safetensors dtype, shape).
        card: the model.
        recipe: what it was compressed with, where the file says so.
        layers: the compressed ones.
        size: bytes on disk.
    """

    path: Path
    kind: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    card: ModelCard
    recipe: Recipe | None
    layers: dict[str, LayerEntry]
    size: int

    @property
    def snr(self) -> float | None:
        """Ratio in dB of all compressed layers together; None where the file does not say."""
        return total_snr((x.signal, x.snr) for x in self.layers.values())

    @property
    def snr_unrefined(self) -> float | None:
        """The same before refinement."""
        return total_snr((x.signal, x.snr_unrefined) for x in self.layers.values())

    def counts(self) -> Counts:
        """The numbers in the file."""
        weights = sum(math.prod(x.shape) for x in self.layers.values())
        return count(map(self._counted, self.tensors), weights)

    def _counted(self, name: str) -> tuple[str, int, int, bool]:
        dtype, shape = self.tensors[name]
        layer, suffix = self._part(name)
        elements = math.prod(shape)
        numbers = layer.numbers(suffix) if layer else elements
        return name, numbers, elements * ITEMSIZE.get(dtype, 1), dtype in _FLOATING

    def _part(self, name: str) -> tuple[LayerEntry | None, str]:
        """The compressed layer that a tensor belongs to, and as what."""
        suffix = next((s for s in (POSITIONS, COEFFICIENTS, SCALES) if name.endswith(s)), "")
        return (self.layers.get(name.removesuffix(suffix)) if suffix else None), suffix

    def dense_counts(self) -> Counts:
        """The numbers in the model that was compressed, in float32 where the file holds less."""
        dense = []
        lighter = self.recipe is not None and self.recipe.other != "float32"
        for name, (dtype, shape) in self.tensors.items():
            layer, suffix = self._part(name)
            if layer and suffix != COEFFICIENTS:
                continue
            numel = math.prod(layer.shape if layer else shape)
            floating = layer is not None or dtype in _FLOATING
            cast = layer.precision != "float32" if layer else lighter and floating
            itemsize = 4 if cast else ITEMSIZE.get(dtype, 1)
            dense.append(
                (name.removesuffix(".coefficients") if layer else name, numel, numel * itemsize, floating)
            )
        return count(dense)


def is_pickle(path: Path) -> bool:
    """Whether a file is torch's own (a zip archive or a bare pickle), such as the reference's.

    Raises:
        TenreoError: when there is no such file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise TenreoError(f"{path}: can not be opened: {error.strerror}; give the path of a file") from error
    # After eight bytes of length, safetensors begins with a brace.
    return start.startswith((b"PK\x03\x04", b"\x80")) and start[8:] != b"{"


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, tenreo's or dense.

    Raises:
        TenreoError: when it is no safetensors file, is of a newer format version, or contradicts
            itself; the message names what.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {}
            for name in file.keys():  # noqa: SIM118 - not a mapping
                part = file.get_slice(name)
                tensors[name] = (part.get_dtype(), tuple(part.get_shape()))
        size = path.stat().st_size
    except (SafetensorError, OSError) as error:
        raise TenreoError(f"{path}: can not be read as safetensors: {error}") from error
    version = metadata.get("tenreo.version")
    if version is not None and version not in map(str, range(VERSION + 1)):
        raise TenreoError(
            f"{path}: format version {version[:20]!r}, this tenreo reads up to {VERSION}; install a newer one"
        )
    try:
        card = _card(json.loads(metadata.get("tenreo.model", "{}")))
        recipe_text = metadata.get("tenreo.recipe")
        recipe = recipe_from_dict(json.loads(recipe_text)) if recipe_text else None
        entries = json.loads(metadata.get("tenreo.layers", "{}"))
        layers = {name: _entry(values) for name, values in entries.items()}
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
        TenreoError,
    ) as error:
        raise TenreoError(f"{path}: the metadata can not be understood: {error}") from error
    kind = "dense" if version is None or not layers else "tenreo"
    header = Header(path, kind, tensors, card, recipe, layers, size)
    _check(header)
    return header


def _card(values: dict[str, Any]) -> ModelCard:
    preprocess = dict(values.get("preprocess") or {})
    for key in ("mean", "std"):
        if key in preprocess:
            preprocess[key] = tuple(float(x) for x in preprocess[key])
    arch, classes, weights = (values.get(k) for k in ("arch", "classes", "weights"))
    if classes is not None and (type(classes) is not int or not 1 <= classes <= _MOST_CLASSES):
        raise ValueError(f"classes {classes!r}")
    if not all(isinstance(x, (str, type(None))) for x in (arch, weights)):
        raise ValueError(f"arch {arch!r}, weights {weights!r}")
    prepared = Preprocess(**preprocess)
    if not all(isinstance(x, int) and 0 < x < 10_000 for x in (prepared.resize, prepared.crop)):
        raise ValueError(f"preprocess {preprocess!r}")
    if prepared.interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
        raise ValueError(f"interpolation {prepared.interpolation!r}")
    if not all(
        math.isfinite(m) and 0 < s < math.inf for m, s in zip(prepared.mean, prepared.std, strict=True)
    ):
        raise ValueError(f"mean {prepared.mean}, std {prepared.std}")
    corrections = tuple(Correction(**c) for c in values.get("corrections") or ())
    return ModelCard(arch, classes, weights, prepared, corrections)


def _entry(values: dict[str, Any]) -> LayerEntry:
    shape = tuple(int(x) for x in values["shape"])
    groups, length, kept = (int(values[k]) for k in ("groups", "length", "kept"))
    measured = [values.get(k) for k in ("snr", "snr_unrefined", "signal")]
    precision = values.get("precision", "float32")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}")
    snr, snr_unrefined, signal = (None if x is None else float(x) for x in measured)
    if not all(x is None or -1000 < x < math.inf for x in (snr, snr_unrefined, signal)):
        raise ValueError(f"measured {measured}")
    position_bits = int(values.get("position_bits", 32))
    return LayerEntry(shape, groups, length, kept, snr, snr_unrefined, signal, position_bits, precision)


def _check(header: Header) -> None:
    suffixes = (COEFFICIENTS, POSITIONS, SCALES)
    suffixed = {n.removesuffix(s) for n in header.tensors for s in suffixes if n.endswith(s)}
    for name in sorted(suffixed | set(header.layers)):
        entry = header.layers.get(name)
        if entry is None:
            raise TenreoError(
                f"{header.path}: {name} has coefficients or positions, but tenreo.layers does not name it"
            )
        numel = math.prod(entry.shape)
        # No curve has more samples than columns, so a file can not ask for more memory than it fills.
        if (
            entry.groups < 1
            or numel % entry.groups
            or not 1 <= entry.kept <= entry.length <= numel // entry.groups
            or entry.position_bits not in (32, width_of(entry.length))
        ):
            raise TenreoError(f"{header.path}: {name}: impossible layer {entry}")
        for suffix, (dtypes, shape) in entry.tensors().items():
            given = header.tensors.get(name + suffix)
            if given is None:
                raise TenreoError(f"{header.path}: {name + suffix} is missing")
            if given[0] not in dtypes or given[1] != shape:
                raise TenreoError(
                    f"{header.path}: {name + suffix} is {given[0]} {list(given[1])}, "
                    f"needs {' or '.join(dtypes)} {list(shape)}"
                )

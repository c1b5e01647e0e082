"""What a file says of itself, read from its header alone: no tensor, no torch.

Metadata: `tenreo.version`, and as JSON `tenreo.model`, `tenreo.recipe`, `tenreo.layers`.

Version 1: positions are int32, coefficients floating point. Version 2: positions are packed, coefficients may be
integers. Version 3: positions are entropy-coded. docs/format.md describes all byte by byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from safetensors import SafetensorError, safe_open

from tenreo.codec.distortion import total_decibels
from tenreo.codec.shape import Positions, Precision
from tenreo.errors import TenreoError, shown
from tenreo.files.counts import Counts, count
from tenreo.files.layout import (
    COEFFICIENTS,
    FLOATING,
    ITEMSIZE,
    POSITIONS,
    TensorRecord,
    layer_tensors,
    parameter_name,
    split_name,
)
from tenreo.files.paths import check_readable
from tenreo.files.records import LayerRecord, ModelInfo
from tenreo.files.values import check_name, cleaned, parse

VERSION = 3
_MOST_HEADER = 10_000_000  # bytes; ResNet-152 takes 0.2 MB


@dataclass(frozen=True)
class Header:
    """A file without its tensors' values.

    Attributes:
        path: of the file.
        kind: tenreo, dense or reference.
        tensors: by name.
        info: the model.
        recipe: what it was compressed with, as plain values; None where the file does not say.
        layers: the compressed ones, by name.
        size: bytes on disk.
    """

    path: Path
    kind: str
    tensors: dict[str, TensorRecord]
    info: ModelInfo
    recipe: dict[str, Any] | None
    layers: dict[str, LayerRecord]
    size: int

    @property
    def snr(self) -> float | None:
        """Ratio in dB of all compressed layers together; None where the file does not say."""
        return total_decibels((x.errors.squared_norm, x.errors.snr) for x in self.layers.values())

    @property
    def snr_unrefined(self) -> float | None:
        """The same before refinement."""
        return total_decibels((x.errors.squared_norm, x.errors.snr_unrefined) for x in self.layers.values())

    def counts(self) -> Counts:
        """The numbers in the file."""
        return count(self.tensors, self.layers)

    def dense_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors of the model that was compressed, by name; of tied ones the first."""
        return {name: tensor.shape for name, tensor in self._dense().items()}

    def dense_counts(self, dense_dtype: str = Precision.FLOAT32) -> Counts:
        """Count the numbers and bytes of the dense model that was compressed.

        Args:
            dense_dtype: number format that uncompressed tensors were cast to; if it is lower than float32, they count
                as float32, like the weights whose coefficients are stored in a lower format.
        """
        return count(self._dense(dense_dtype))

    def _dense(self, dense_dtype: str = Precision.FLOAT32) -> dict[str, TensorRecord]:
        dense = {}
        for name, tensor in self.tensors.items():
            layer, suffix = split_name(name)
            record = self.layers.get(layer) if suffix else None
            if record is not None and suffix != COEFFICIENTS:
                continue
            lower = record.curve.precision if record else dense_dtype
            floating = record is not None or tensor.is_floating
            dtype = "F32" if floating and lower != Precision.FLOAT32 else tensor.dtype
            shape = record.shape if record else tensor.shape
            dense[name.removesuffix(suffix) if record else name] = TensorRecord(dtype, shape)
        return dense


def metadata(info: ModelInfo, recipe: Mapping[str, Any] | None, layers: Mapping[str, LayerRecord]) -> dict[str, str]:
    """A file's metadata, as safetensors takes it.

    Args:
        info: the model.
        recipe: as plain values, or None.
        layers: the compressed ones, by name.
    """
    result = {
        "format": "pt",
        # Without coded positions, earlier versions can read the file.
        "tenreo.version": "3" if any(layer.positions == Positions.CODED for layer in layers.values()) else "2",
        "tenreo.model": json.dumps(info.to_dict()),
        "tenreo.layers": json.dumps({name: layer.to_dict() for name, layer in layers.items()}),
    }
    return {**result, "tenreo.recipe": json.dumps(recipe)} if recipe is not None else result


def check_info(info: ModelInfo) -> None:
    """Raise unless a file can say an info, so that it is read back.

    Raises:
        TenreoError: naming what is of another type or out of range.
    """
    try:
        ModelInfo.from_dict(parse(json.dumps(info.to_dict())))
    except (ValueError, TypeError) as error:
        raise TenreoError(f"info: {error}") from error


def is_pickle(path: Path) -> bool:
    """Whether a file is torch's own (a zip archive or a bare pickle), such as the reference's.

    Raises:
        TenreoError: when there is no such file, or it is no regular one.
    """
    check_readable(path)
    with path.open("rb") as file:
        start = file.read(9)
    # After eight bytes of length, safetensors begins with a brace.
    return start.startswith((b"PK\x03\x04", b"\x80")) and start[8:] != b"{"


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, tenreo's or dense.

    Raises:
        TenreoError: when it is no safetensors file, is of a newer format version, or contradicts
            itself; the message names what.
    """
    said, tensors, size = _read(path)
    version = said.get("tenreo.version")
    if version is not None and version not in map(str, range(VERSION + 1)):
        raise TenreoError(
            f"{path}: format version {shown(version)}, this tenreo reads up to {VERSION}; install a newer one"
        )
    layers: dict[str, LayerRecord] = {}
    name = ""
    try:
        info = ModelInfo.from_dict(parse(said.get("tenreo.model", "{}")))
        recipe = cleaned(parse(said.get("tenreo.recipe", "null")))
        described = parse(said.get("tenreo.layers", "{}"))
        if not isinstance(described, dict) or not isinstance(recipe, (dict, NoneType)):
            raise ValueError("the layers or the recipe are no object")
        for name, values in described.items():
            layers[name] = LayerRecord.from_dict(values)
    except ValueError as error:
        what = f"{name}: {error}" if name else error
        raise TenreoError(f"{path}: the metadata can not be understood: {what}") from error
    kind = "dense" if version is None or not layers else "tenreo"
    header = Header(path, kind, tensors, info, recipe, layers, size)
    check_layers(header)
    return header


def _read(path: Path) -> tuple[dict[str, str], dict[str, TensorRecord], int]:
    """The metadata, the tensors without their values, and the bytes of a safetensors file."""
    check_readable(path)
    try:
        with path.open("rb") as start:
            length = int.from_bytes(start.read(8), "little")
        size = path.stat().st_size
        if _MOST_HEADER < length < size:
            raise TenreoError(f"{path}: has a header of {length:,} bytes, at most {_MOST_HEADER:,} are read")
        with safe_open(path, framework="np") as file:
            said = file.metadata() or {}
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            tensors = {n: TensorRecord(p.get_dtype(), tuple(p.get_shape())) for n, p in parts.items()}
    except (SafetensorError, OSError) as error:
        raise TenreoError(f"{path}: can not be read as safetensors: {error}") from error
    for name, tensor in tensors.items():
        try:
            check_name(name)
        except ValueError as error:
            raise TenreoError(f"{path}: {error}; rename it") from error
        if tensor.dtype not in ITEMSIZE:
            raise TenreoError(f"{path}: {name} is {tensor.dtype}, needs one of {', '.join(ITEMSIZE)}")
    return said, tensors, size


def check_layers(header: Header) -> None:
    """Compare the layers that the metadata describe with the tensors that are there.

    Raises:
        TenreoError: naming the tensor that is missing, not described, or of another dtype or shape.
    """
    for name in header.tensors:
        layer, suffix = split_name(name)
        curved = suffix == POSITIONS and name.removesuffix(suffix) + COEFFICIENTS in header.tensors
        if curved and layer not in header.layers:
            raise TenreoError(
                f"{header.path}: {layer} has coefficients and positions, but tenreo.layers does not name it"
            )
    for layer, record in header.layers.items():
        parameter = parameter_name(layer, header.tensors)
        for suffix, needed in layer_tensors(record).items():
            given = header.tensors.get(parameter + suffix)
            if given is None:
                raise TenreoError(f"{header.path}: {parameter + suffix} is missing")
            # Coefficients in full precision have the dtype of the weight.
            dtypes = FLOATING if suffix == COEFFICIENTS and needed.is_floating else (needed.dtype,)
            coded = suffix == POSITIONS and record.positions == Positions.CODED
            fits = given.shape == needed.shape or (coded and len(given.shape) == 1 and given.numel <= needed.numel)
            if given.dtype not in dtypes or not fits:
                raise TenreoError(
                    f"{header.path}: {parameter + suffix} is {given.dtype} {list(given.shape)}, "
                    f"needs {' or '.join(dtypes)} {'at most ' if coded else ''}{list(needed.shape)}"
                )

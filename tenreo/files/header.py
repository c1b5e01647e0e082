"""Headers of safetensors files: reading and checking the metadata, without loading tensors or importing torch.

The metadata contain `tenreo.version` and, as JSON strings, `tenreo.model`, `tenreo.recipe` and `tenreo.layers`.

In version 1, positions are int32 and coefficients are floating-point numbers. In version 2, positions are packed, and
coefficients may be integers. In version 3, positions may be entropy-coded. In version 4, curves may be ramps, and
integer coefficients and dense tensors may be coded (`tenreo.dense`). In version 5, the code of positions on a ramp may
depend on neighbors.
docs/format.md specifies every byte.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import IO, Any
from zlib import crc32

from tenreo.codec.distortion import total_decibels
from tenreo.codec.shape import Positions, Precision
from tenreo.errors import TenreoError, shown
from tenreo.files.counts import Counts, count
from tenreo.files.entries import check_length, checksums_of, coded_of, entries_of
from tenreo.files.formats import holds_pickle
from tenreo.files.layout import (
    CHECKSUMS,
    COEFFICIENTS,
    DENSE,
    FLOATING,
    POSITIONS,
    VERSION_KEY,
    TensorRecord,
    file_size,
    header_bytes,
    layer_tensors,
    parameter_name,
    split_name,
)
from tenreo.files.paths import opened
from tenreo.files.provenance import SOURCE, Provenance
from tenreo.files.records import LayerRecord, ModelInfo
from tenreo.files.values import cleaned, parse

VERSION = 5
HEADER = "header"  # name of the header's bytes among those of the tensors
_HALF = (Precision.FLOAT16, Precision.BFLOAT16)


@dataclass(frozen=True)
class Header:
    """The contents of a file except for the values of its tensors.

    Attributes:
        path: path of the file.
        kind: "tenreo" (compressed), "dense", or "reference" (written by the reference implementation).
        tensors: dtypes and shapes of the tensors by name.
        info: description of the model.
        recipe: recipe of the compression as plain JSON values, or None if the file contains none.
        layers: compressed layers by name.
        size: size of the file in bytes.
        coded: dtypes and shapes of the dense tensors that one tensor of the file contains, by name.
        metadata: all metadata as they are stored.
        checksums: CRC-32 of the bytes of every tensor of the file, by name; empty if the file has none.
        source: origin of the tensors, or None if the file does not state it.
    """

    path: Path
    kind: str
    tensors: dict[str, TensorRecord]
    info: ModelInfo
    recipe: dict[str, Any] | None
    layers: dict[str, LayerRecord]
    size: int
    coded: dict[str, TensorRecord] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, int] = field(default_factory=dict)
    source: Provenance | None = None

    @property
    def snr(self) -> float | None:
        """Signal-to-noise ratio of all compressed weights together in dB, or None if it is not stored."""
        return total_decibels((x.errors.squared_norm, x.errors.snr) for x in self.layers.values())

    @property
    def snr_unrefined(self) -> float | None:
        """The same ratio before refinement, or None if a layer was encoded at a price per bit (`CurveShape.memory`)."""
        if any(layer.curve.memory for layer in self.layers.values()):
            return None
        return total_decibels((x.errors.squared_norm, x.errors.snr_unrefined) for x in self.layers.values())

    def counts(self) -> Counts:
        """Count the numbers in the file's tensors, and the bytes of the file."""
        return replace(count(self._decoded(), self.layers), bytes=self.size)

    def dense_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the dense model's tensors by name; tied tensors appear once, under their first name."""
        return {name: tensor.shape for name, tensor in self.dense_tensors().items()}

    def dense_counts(self, dense_dtype: str = Precision.FLOAT32) -> Counts:
        """Count the numbers and bytes of the dense model that was compressed.

        Args:
            dense_dtype: number format that the uncompressed tensors were cast to when the file was written. If it has
                16 bits, these tensors count as float32, and so do weights with coefficients in another format.
        """
        return count(self.dense_tensors(dense_dtype))

    def stored_bytes(self) -> dict[str, int]:
        """Return the bytes in the file of every tensor of the dense model by name, and of the rest of the file.

        The rest, with the names `tenreo.dense` and "header", is the stream of all coded tensors, which are left out,
        and the header.
        """
        stored = {name: 0 for name in self.dense_tensors() if name not in self.coded}
        for name, tensor in self.tensors.items():
            layer, suffix = split_name(name)
            own = name.removesuffix(suffix) if suffix and layer in self.layers else name
            stored[own] = stored.get(own, 0) + tensor.bytes
        return {**stored, HEADER: self.size - sum(stored.values())}

    def _decoded(self) -> dict[str, TensorRecord]:
        """Return the dtypes and shapes of the tensors by name, with the coded ones instead of the tensor of bytes."""
        return {name: each for name, each in self.tensors.items() if name != DENSE or not self.coded} | self.coded

    def dense_tensors(self, dense_dtype: str = Precision.FLOAT32) -> dict[str, TensorRecord]:
        """Return the dtypes and shapes of the dense model's tensors by name, in the order of the file.

        Args:
            dense_dtype: as for `dense_counts`.
        """
        dense = {}
        for name, tensor in self._decoded().items():
            layer, suffix = split_name(name)
            record = self.layers.get(layer) if suffix else None
            if record is not None and suffix != COEFFICIENTS:
                continue
            stored = record.curve.precision if record else dense_dtype
            cast = stored != Precision.FLOAT32 if record else stored in _HALF and tensor.is_floating
            dtype = (record.dtype if record else None) or ("F32" if cast else tensor.dtype)
            shape = record.shape if record else tensor.shape
            dense[name.removesuffix(suffix) if record else name] = TensorRecord(dtype, shape)
        return dense


def metadata(
    info: ModelInfo,
    recipe: Mapping[str, Any] | None,
    layers: Mapping[str, LayerRecord],
    coded: Mapping[str, TensorRecord] | None = None,
    source: Provenance | None = None,
) -> dict[str, str]:
    """Return the metadata of a file as safetensors stores them: a dictionary of strings.

    Args:
        info: description of the model.
        recipe: recipe of the compression as plain JSON values, or None.
        layers: compressed layers by name.
        coded: dense tensors that are coded, in the order of their stream.
        source: origin of the tensors.
    """
    # The lowest version that suffices, so that earlier releases can read the file.
    version = max([layer.version for layer in layers.values()] + [4 if coded else 2])
    separators = (",", ":") if version >= 4 else (", ", ": ")

    def text(values: object) -> str:
        return json.dumps(values, separators=separators)

    result = {
        "format": "pt",
        VERSION_KEY: str(version),
        "tenreo.model": text(info.to_dict()),
        "tenreo.layers": text({name: layer.to_dict() for name, layer in layers.items()}),
    }
    if recipe is not None:
        result["tenreo.recipe"] = text(recipe)
    if source is not None:
        result[SOURCE] = text(source.to_dict())
    if coded:
        result[DENSE] = text({name: [each.dtype, *each.shape] for name, each in coded.items()})
    return result


def check_info(info: ModelInfo) -> None:
    """Raise unless an info that is written to a file can be read back.

    Raises:
        TenreoError: naming the field that has a wrong type or is out of range.
    """
    try:
        ModelInfo.from_dict(parse(json.dumps(info.to_dict())))
    except (ValueError, TypeError) as error:
        raise TenreoError(f"info: {error}") from error


def is_pickle(path: Path) -> bool:
    """Return whether a file is in torch's own format: a zip archive or a bare pickle.

    Raises:
        TenreoError: if the file does not exist, is not a regular file, may not be read, or is in another known format.
    """
    with opened(path) as file:
        return holds_pickle(file)


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file, compressed or dense.

    Raises:
        TenreoError: if the file is not in safetensors format, has a newer format version, or has metadata that are
            invalid or contradict the tensors.
    """
    with opened(path) as file:
        holds_pickle(file)  # raises for other formats
        return header_of(file)


def header_of(file: IO[bytes]) -> Header:
    """Read and check the header of a safetensors file that is opened for reading, like `read_header`.

    Its position is then that of the first tensor, and the tensors of the header are in the order of the file.
    """
    path = Path(file.name)
    if path.suffix == ".onnx":
        raise TenreoError(f"{path}: is an ONNX model; give a safetensors file, or look at the graph with Netron")
    try:
        return parsed_header(path, *_read(file))
    except (OSError, ValueError) as error:
        raise TenreoError(f"{path}: cannot be read as safetensors: {error}; copy or download it again") from error


def parsed_header(path: Path, text: bytes, size: int) -> Header:
    """Return the header that a file of `size` bytes has as JSON.

    Raises:
        ValueError: if the text is no header of a safetensors file of this size.
        TenreoError: if the metadata are invalid or contradict the tensors.
    """
    values, tensors = entries_of(text, size)
    version = values.get(VERSION_KEY)
    if version is not None and version not in map(str, range(VERSION + 1)):
        raise TenreoError(
            f"{path}: has format version {shown(version)}, but this tenreo reads versions up to {VERSION}; "
            "install a newer tenreo"
        )
    layers: dict[str, LayerRecord] = {}
    name = ""
    try:
        info = ModelInfo.from_dict(parse(values.get("tenreo.model", "{}")))
        recipe = cleaned(parse(values.get("tenreo.recipe", "null")))
        described = parse(values.get("tenreo.layers", "{}"))
        if not isinstance(described, dict) or not isinstance(recipe, (dict, NoneType)):
            raise ValueError("the layers or the recipe are not a JSON object")
        for name, fields in described.items():
            layers[name] = LayerRecord.from_dict(fields)
        name = ""
        coded = coded_of(parse(values.get(DENSE, "{}")), tensors)
        checksums = checksums_of(values.get(CHECKSUMS), tensors)
        source = Provenance.from_dict(parse(values[SOURCE])) if SOURCE in values else None
        info = info if source is None else replace(info, license=source.license)
    except ValueError as error:
        where = f"{name}: " if name else ""
        raise TenreoError(f"{path}: the metadata cannot be understood: {where}{error}") from error
    kind = "dense" if version is None or not layers else "tenreo"
    header = Header(path, kind, tensors, info, recipe, layers, size, coded, values, checksums, source)
    check_layers(header)
    return header


def check_sum(header: Header, name: str, content: Any) -> None:
    """Raise unless the bytes of a tensor of a file have the checksum that the header states, if it does.

    Raises:
        TenreoError: naming the file and the tensor.
    """
    if header.checksums and crc32(content) != header.checksums[name]:
        raise TenreoError(f"{header.path}: the checksum of {name} is wrong; the file is damaged, copy it again")


def check_readable(source: str, tensors: Mapping[str, TensorRecord], values: Mapping[str, str]) -> None:
    """Raise unless a file that is planned or about to be written can be read again.

    Args:
        source: beginning of the message.
        tensors: dtypes and shapes of the tensors by name.
        values: metadata of the file.

    Raises:
        TenreoError: naming what a reader would refuse.
    """
    text = header_bytes(tensors, values)[8:]
    try:
        parsed_header(Path("the file"), text, file_size(tensors, values))
    except (TenreoError, ValueError) as error:
        raise TenreoError(f"{source}: the file could not be read again: {error}") from error


def _read(file: IO[bytes]) -> tuple[bytes, int]:
    """Return the header as JSON, and the size in bytes, of a safetensors file."""
    file.seek(0)
    length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    if not 0 < length <= size - 8:
        if file.read(1) != b"{":
            raise ValueError("it does not begin like a safetensors file")
        raise ValueError(f"a header of {length:,} bytes does not fit into a file of {size:,} bytes")
    check_length(length)
    return file.read(length), size


def check_layers(header: Header) -> None:
    """Check that the layers in the metadata and the tensors of the file agree.

    Raises:
        TenreoError: naming a tensor that is missing, belongs to no layer, or has the wrong dtype or shape.
    """
    for name in header.tensors:
        layer, suffix = split_name(name)
        compressed = suffix == POSITIONS and name.removesuffix(suffix) + COEFFICIENTS in header.tensors
        if compressed and layer not in header.layers:
            raise TenreoError(f"{header.path}: {layer} has coefficients and positions, but is not in tenreo.layers")
    for layer, record in header.layers.items():
        parameter = parameter_name(layer, header.tensors)
        for suffix, needed in layer_tensors(record).items():
            given = header.tensors.get(parameter + suffix)
            if given is None:
                raise TenreoError(f"{header.path}: {parameter + suffix} is missing")
            # Coefficients in full precision have the dtype of the dense weight, which may be any floating-point one.
            dtypes = FLOATING if suffix == COEFFICIENTS and needed.is_floating else (needed.dtype,)
            coded = suffix == POSITIONS and record.positions == Positions.CODED
            coded = coded or (suffix == COEFFICIENTS and record.coded_coefficients)
            fits = given.shape == needed.shape or (coded and len(given.shape) == 1 and given.numel <= needed.numel)
            if given.dtype not in dtypes or not fits:
                raise TenreoError(
                    f"{header.path}: {parameter + suffix} is {given.dtype} {list(given.shape)}, "
                    f"needs {' or '.join(dtypes)} {'at most ' if coded else ''}{list(needed.shape)}"
                )

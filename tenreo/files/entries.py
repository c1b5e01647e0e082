"""Entries of the header of a safetensors file: names, dtypes, shapes and places of the tensors, strictly checked."""

from collections.abc import Mapping
from typing import Any

from tenreo.errors import shown
from tenreo.files.layout import CHECKSUMS, DENSE, ITEMSIZE, TensorRecord
from tenreo.files.values import Fields, parse

_MOST_HEADER = 10_000_000  # bytes; the header of a compressed ResNet-152 has 0.2 MB
_MOST_BYTES, _MOST_DIMENSIONS = 2**63, 64  # of a tensor


def check_length(length: int) -> None:
    """Raise ValueError if a header has too many bytes."""
    if length > _MOST_HEADER:
        raise ValueError(f"it has a header of {length:,} bytes, needs at most {_MOST_HEADER:,}")


def entries_of(text: bytes, size: int) -> tuple[dict[str, str], dict[str, TensorRecord]]:
    """Return the metadata, and the dtypes and shapes of the tensors.

    Raise ValueError unless the tensors fill the file without gaps and overlaps, as the format requires.
    """
    check_length(len(text))
    entries = parse(text.decode())
    if not isinstance(entries, dict):
        raise ValueError("its header is not a JSON object")
    values = entries.pop("__metadata__", None) or {}
    if not isinstance(values, dict) or not all(isinstance(each, str) for each in values.values()):
        raise ValueError("its metadata are not strings")
    tensors: dict[str, TensorRecord] = {}
    offset = 0
    for start, end, name, tensor in sorted(_entry(name, fields) for name, fields in entries.items()):
        if (start, end) != (offset, offset + tensor.bytes):
            raise ValueError(f"{name} is stored at bytes {start:,} to {end:,}, needs {tensor.bytes:,} from {offset:,}")
        tensors[name], offset = tensor, end
    if size != 8 + len(text) + offset:
        raise ValueError(f"it has {size:,} bytes, but its header describes {8 + len(text) + offset:,}")
    return values, tensors


def _entry(name: str, fields: Any) -> tuple[int, int, str, TensorRecord]:
    """Return the first byte, the end, the name and the record of a tensor; raise ValueError if a field is invalid."""
    try:
        read = Fields(fields)
        dtype = read.one_of("dtype", tuple(ITEMSIZE))
        shape = read.wholes("shape", 0, _MOST_BYTES, _MOST_DIMENSIONS)
        start, end = read.wholes("data_offsets", 0, _MOST_BYTES, 2)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return start, end, name, TensorRecord(dtype, shape)


def coded_of(described: Any, tensors: Mapping[str, TensorRecord]) -> dict[str, TensorRecord]:
    """Return the dtypes and shapes of the coded tensors; raise ValueError if they are invalid, or their stream is."""
    if not isinstance(described, dict):
        raise ValueError(f"{DENSE} {shown(described)} is not an object")
    coded = {}
    for name, fields in described.items():
        dtype, *shape = fields if isinstance(fields, list) and fields else [None]
        try:
            read = Fields({"dtype": dtype, "shape": shape})
            coded[name] = TensorRecord(
                read.one_of("dtype", tuple(ITEMSIZE)), read.wholes("shape", 0, _MOST_BYTES, _MOST_DIMENSIONS)
            )
        except ValueError as error:
            raise ValueError(f"{DENSE}: {name}: {error}") from error
        if name in tensors:
            raise ValueError(f"{name} is a tensor of the file, and coded in {DENSE}")
    stream = tensors.get(DENSE)
    if coded and (stream is None or stream.dtype != "U8" or len(stream.shape) != 1):
        raise ValueError(f"{DENSE} is missing, or not a row of bytes")
    return coded


def checksums_of(digits: str | None, tensors: Mapping[str, TensorRecord]) -> dict[str, int]:
    """Return the checksums of all tensors by name; raise ValueError if there is not one of eight digits for each."""
    if digits is None:
        return {}
    if len(digits) != 8 * len(tensors) or not set(digits) <= set("0123456789abcdef"):
        raise ValueError(f"{CHECKSUMS} has {len(digits):,} characters, needs eight hexadecimal digits per tensor")
    return {name: int(digits[8 * i : 8 * i + 8], 16) for i, name in enumerate(tensors)}

"""On-disk tensor layout: names, dtypes, shapes and header bytes. Does not import torch.

A compressed parameter `X.weight` is stored as two tensors, `X.weight.coefficients` and `X.weight.positions`. If the
coefficients are integers, there is a third one, `X.weight.scales`. Bit-packed integers and coded positions are uint8.
Dense tensors may be coded together in one tensor (`tenreo.files.dense_stream`).
"""

import json
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

from tenreo.codec.shape import CODED_HEADER, Positions, Precision
from tenreo.files.records import LayerRecord
from tenreo.sizes import packed_size

COEFFICIENTS = ".coefficients"
POSITIONS = ".positions"
SCALES = ".scales"
DENSE = "tenreo.dense"  # name of the tensor, and of the metadata, of coded dense tensors
VERSION_KEY, CHECKSUMS = "tenreo.version", "tenreo.checksums"  # keys of the metadata
SUFFIXES = (POSITIONS, COEFFICIENTS, SCALES)
# Bytes per element, in the order of the dtypes in safetensors: tensors are stored by falling dtype, then by name.
ITEMSIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8,
    "I64": 8, "U64": 8,
}  # fmt: skip
FLOATING = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class TensorRecord:
    """The dtype and shape of a tensor in a file.

    Attributes:
        dtype: safetensors' name of the dtype, such as F32.
        shape: shape of the tensor.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Number of bytes of the elements in a file."""
        return self.numel * ITEMSIZE.get(self.dtype, 1)

    @property
    def is_floating(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype in FLOATING


def split_name(name: str) -> tuple[str, str]:
    """Split the name of a compressed layer's tensor into layer and suffix; for any other tensor the suffix is "".

    >>> split_name("fc.weight.positions"), split_name("attn.in_proj_weight.positions")
    (('fc', '.positions'), ('attn.in_proj_weight', '.positions'))
    """
    suffix = next((s for s in SUFFIXES if name.endswith(s)), "")
    return (name.removesuffix(suffix).removesuffix(".weight") if suffix else name), suffix


def layer_name(parameter: str) -> str:
    """Return the name of the layer of a parameter: the parameter's without `.weight`.

    >>> layer_name("fc.weight"), layer_name("attn.in_proj_weight"), layer_name("weight")
    ('fc', 'attn.in_proj_weight', 'weight')
    """
    return parameter.removesuffix(".weight") or parameter


def parameter_name(layer: str, names: Container[str]) -> str:
    """Return the name of a compressed layer's parameter in the dense model's state dict.

    >>> parameter_name("fc", ["fc.weight.positions"])
    'fc.weight'

    Args:
        layer: name of the layer: the name of the module, or the full name of a parameter not called `weight`.
        names: names of the file's tensors.
    """
    return f"{layer}.weight" if any(f"{layer}.weight{suffix}" in names for suffix in SUFFIXES) else layer


def layer_tensors(layer: LayerRecord, dtype: str = "F32") -> dict[str, TensorRecord]:
    """Return the tensors that store a compressed layer, by suffix.

    Args:
        layer: record of the layer. Coded positions and coefficients vary in length; the result has their maximum.
        dtype: dtype of the dense weight, which is that of coefficients in full precision.
    """
    curve = layer.curve
    positions = {
        Positions.INT32: TensorRecord("I32", (layer.columns,)),
        Positions.PACKED: TensorRecord("U8", (packed_size(layer.columns, curve.position_bits),)),
        Positions.CODED: TensorRecord("U8", (CODED_HEADER + packed_size(layer.columns, curve.position_bits),)),
    }[layer.positions]
    if curve.precision.is_integer:
        packed = packed_size(curve.coefficients, curve.precision.bits)
        return {
            POSITIONS: positions,
            COEFFICIENTS: TensorRecord("U8", (packed,)),
            SCALES: TensorRecord("BF16", (curve.groups, curve.bands)),
        }
    stored = {Precision.FLOAT16: "F16", Precision.BFLOAT16: "BF16"}.get(curve.precision, dtype)
    shape = (curve.groups, curve.coefficients_per_row)
    return {POSITIONS: positions, COEFFICIENTS: TensorRecord(stored, shape)}


def file_order(tensors: Mapping[str, TensorRecord]) -> list[str]:
    """Return the names of tensors in the order in which a file stores them."""
    rank = {dtype: i for i, dtype in enumerate(ITEMSIZE)}
    return sorted(tensors, key=lambda name: (-rank[tensors[name].dtype], name))


def header_bytes(
    tensors: Mapping[str, TensorRecord], metadata: Mapping[str, str], checksums: Mapping[str, int] | None = None
) -> bytes:
    """Return the header of a safetensors file: its length in eight bytes, then JSON, padded to a multiple of eight.

    The keys of the metadata are sorted, so that equal content gives equal bytes.
    See https://github.com/huggingface/safetensors#format.

    Args:
        tensors: dtypes and shapes of the tensors by name.
        metadata: metadata of the file. If they are tenreo's, they get checksums.
        checksums: CRC-32 of the bytes of every tensor by name; 0 if they are not known yet.
    """
    if VERSION_KEY in metadata:
        digits = (f"{checksums[name] if checksums else 0:08x}" for name in file_order(tensors))
        metadata = {**metadata, CHECKSUMS: "".join(digits)}
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in file_order(tensors):
        tensor = tensors[name]
        end = offset + tensor.bytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def file_size(tensors: Mapping[str, TensorRecord], metadata: Mapping[str, str]) -> int:
    """Return the size in bytes of a safetensors file with these tensors and metadata."""
    return len(header_bytes(tensors, metadata)) + sum(tensor.bytes for tensor in tensors.values())

"""How tensors lie in a file: names, dtypes, shapes, and the header's own bytes. No torch.

A compressed parameter `X.weight` is two tensors, `X.weight.coefficients` and `X.weight.positions`, and a third,
`X.weight.scales`, where coefficients are integers. Positions and integer coefficients are packed bits in uint8.
"""

from __future__ import annotations

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
SUFFIXES = (POSITIONS, COEFFICIENTS, SCALES)
# In the order of the safetensors format, which stores tensors by falling alignment and then by name.
ITEMSIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8,
    "I64": 8, "U64": 8,
}  # fmt: skip
FLOATING = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class TensorRecord:
    """A tensor of a file without its values.

    Attributes:
        dtype: as safetensors names it, such as F32.
        shape: of the tensor.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of its elements in a file."""
        return self.numel * ITEMSIZE.get(self.dtype, 1)

    @property
    def is_floating(self) -> bool:
        """Whether its elements are floating-point numbers."""
        return self.dtype in FLOATING


def split_name(name: str) -> tuple[str, str]:
    """The layer and the suffix of a compressed layer's tensor; the whole name and "" of any other.

    >>> split_name("fc.weight.positions"), split_name("attn.in_proj_weight.positions")
    (('fc', '.positions'), ('attn.in_proj_weight', '.positions'))
    """
    suffix = next((s for s in SUFFIXES if name.endswith(s)), "")
    return (name.removesuffix(suffix).removesuffix(".weight") if suffix else name), suffix


def parameter_name(layer: str, names: Container[str]) -> str:
    """The name of a compressed layer's weight in a dense model's state dict.

    >>> parameter_name("fc", ["fc.weight.positions"])
    'fc.weight'

    Args:
        layer: its name: the module's, or where the weight has another name than `weight` that of the parameter.
        names: of the file's tensors.
    """
    return f"{layer}.weight" if any(f"{layer}.weight{suffix}" in names for suffix in SUFFIXES) else layer


def layer_tensors(layer: LayerRecord, dtype: str = "F32") -> dict[str, TensorRecord]:
    """The tensors that a compressed layer is in a file, by suffix; of coded positions as many bytes as there can be.

    Args:
        layer: its record.
        dtype: of coefficients in full precision: that of the dense weight.
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
    """The names of tensors in the order in which they lie in a file."""
    rank = {dtype: i for i, dtype in enumerate(ITEMSIZE)}
    return sorted(tensors, key=lambda name: (-rank[tensors[name].dtype], name))


def header_bytes(tensors: Mapping[str, TensorRecord], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file: eight bytes of length, then JSON padded with spaces to eight bytes.

    Args:
        tensors: by name; offsets follow from their order in the format.
        metadata: written in the order of its keys, so that the same content is always the same bytes.

    See https://github.com/huggingface/safetensors#format.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
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
    """The bytes of a safetensors file of these tensors and this metadata."""
    return len(header_bytes(tensors, metadata)) + sum(tensor.bytes for tensor in tensors.values())

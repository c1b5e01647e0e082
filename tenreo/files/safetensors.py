"""Tensors to safetensors files and back, and the state dicts of torch's own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write
from tenreo.files.layout import TensorRecord, header_bytes

DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip


def record(tensor: Tensor) -> TensorRecord:
    """A tensor without its values.

    >>> record(torch.zeros(2, 3))
    TensorRecord(dtype='F32', shape=(2, 3))
    """
    return TensorRecord(DTYPES.get(tensor.dtype, "U8"), tuple(tensor.shape))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; the same content is always the same bytes.

    Args:
        path: replaced as a whole.
        tensors: by name, on the CPU.
        metadata: of the file.

    Raises:
        TenreoError: when the file can not be written; an older one is then untouched.
    """
    # Copies: tensors that share memory are no safetensors file.
    copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    header = header_bytes({name: record(tensor) for name, tensor in copies.items()}, metadata)
    with atomic_write(path) as temporary:
        try:
            save_file(copies, temporary, dict(metadata))
        except SafetensorError as error:  # a full disk, for one
            raise TenreoError(f"{path}: can not be written: {error}; choose another path") from error
        # The library writes metadata in a random order, never twice alike; the sorted header is as long.
        with temporary.open("rb+") as file:
            file.write(header)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file whose header was read, and so checked, before."""
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a .pth file, plain or under `state_dict` or `model`, unprefixed.

    Raises:
        TenreoError: when it holds anything but tensors and plain values, or no state dict.
    """
    try:
        values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise TenreoError(f"{path}: can not be read as a torch file of plain tensors: {why}") from error
    for key in ("state_dict", "model"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    if not isinstance(values, dict) or not values or not all(isinstance(v, Tensor) for v in values.values()):
        raise TenreoError(f"{path}: holds no state dict (names and tensors)")
    return {str(key).removeprefix("module."): tensor.detach() for key, tensor in values.items()}

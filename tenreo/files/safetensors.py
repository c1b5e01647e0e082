"""Writing and reading the tensors of safetensors files."""

from collections.abc import Container, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import torch
from torch import Tensor

from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write
from tenreo.files.header import Header, check_sum, header_of
from tenreo.files.layout import TensorRecord, file_order, header_bytes
from tenreo.files.paths import check_ending, opened
from tenreo.files.provenance import state_digest
from tenreo.files.values import check_name

DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16",
    torch.int32: "I32", torch.uint32: "U32", torch.int64: "I64", torch.uint64: "U64", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


def record(tensor: Tensor) -> TensorRecord:
    """Return the dtype and shape of a tensor as a file stores them.

    >>> record(torch.zeros(2, 3))
    TensorRecord(dtype='F32', shape=(2, 3))
    """
    return TensorRecord(DTYPES.get(tensor.dtype, "U8"), tuple(tensor.shape))


def check_plain(name: str, tensor: Tensor, *, values: bool = True) -> None:
    """Raise unless a tensor can be stored in a safetensors file.

    Args:
        name: name of the tensor in the file.
        tensor: any tensor.
        values: whether it needs values; if not, it may be on the meta device.

    Raises:
        ValueError: if the tensor is sparse, quantized, nested or on the meta device, has a dtype that safetensors files
            cannot store, or has a name that is too long or not printable.
    """
    kind = None
    if tensor.is_nested:
        kind = "nested"
    elif tensor.layout != torch.strided:
        kind = "sparse"
    elif tensor.is_quantized:
        kind = "quantized"
    elif tensor.is_meta and values:
        kind = "on the meta device, which stores no values"
    elif tensor.dtype not in DTYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
    if kind is not None:
        raise ValueError(f"{name} is {kind}, needs a dense tensor of dtype {' or '.join(DTYPES.values())}")
    check_name(name)


def check_values(
    source: object, own: Mapping[str, Tensor], given: Mapping[str, Tensor], parameters: Container[str]
) -> None:
    """Raise an error unless parameters and BatchNorm statistics are finite, and variances are not negative.

    Other buffers, such as masks, need not be finite. Floating-point tensors must be floating-point in the model, too.
    Tensors that the model lacks are ignored.

    Raises:
        TenreoError: if a tensor fails a check; the message contains its name.
    """
    for name in own:
        tensor = given.get(name)
        if tensor is None:
            continue
        if own[name].is_floating_point() != tensor.is_floating_point():
            raise TenreoError(f"{source}: {name} is {tensor.dtype}, the model's is {own[name].dtype}")
        statistics = name.endswith((".running_mean", ".running_var"))
        if (statistics or name in parameters) and not torch.isfinite(tensor).all():
            raise TenreoError(f"{source}: {name} contains NaN or infinity")
        if name.endswith(".running_var") and (tensor < 0).any():
            raise TenreoError(f"{source}: {name} contains a negative variance")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically. Equal content gives equal bytes.

    Args:
        path: path of the file; an existing file is replaced.
        tensors: tensors on the CPU by name.
        metadata: metadata of the file.

    Raises:
        TenreoError: if the file cannot be written, its ending belongs to another format, or a tensor cannot be stored;
            an existing file then stays unchanged.
    """
    check_ending(path, ".safetensors")
    try:
        for name, tensor in tensors.items():
            check_plain(name, tensor)
    except ValueError as error:
        raise TenreoError(f"{path}: cannot be written: {error}") from error
    records = {name: record(tensor) for name, tensor in tensors.items()}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(header_bytes(records, metadata, {name: crc32(bytes_of(tensors[name])) for name in records}))
        for name in file_order(records):
            file.write(bytes_of(tensors[name]))


def bytes_of(tensor: Tensor) -> Any:
    """Return the elements of a tensor on the CPU as a file stores them, (bytes,) uint8."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def tensor_of(content: Any, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Return the tensor of these stored bytes, (bytes,) uint8 of NumPy: the inverse of `bytes_of`."""
    if not len(content):  # an empty array has the stride 0, which torch does not view as another dtype
        return torch.empty(tuple(shape), dtype=dtype, device="cpu")
    return torch.from_numpy(content).view(dtype).reshape(tuple(shape))


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of tensors on the CPU that a file states as their origin."""
    return state_digest((name, record(tensor), tensor_digest(tensor)) for name, tensor in tensors.items())


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 of the bytes of a tensor on the CPU."""
    return sha256(bytes_of(tensor)).hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        TenreoError: if the file is damaged.
    """
    with opened(path) as file:
        return tensors_of(header_of(file), file)


def tensors_of(header: Header, file: IO[bytes]) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file that is opened for reading, after its header.

    The bytes are read instead of mapped, since reading a map of a file that another process shortens is a bus error.

    Args:
        header: header of the file, by `header_of`.
        file: the same file; its position is that of the first tensor.

    Raises:
        TenreoError: if another process has shortened the file.
    """
    data = torch.empty(sum(each.bytes for each in header.tensors.values()), dtype=torch.uint8, device="cpu")
    if file.readinto(data.numpy()) != len(data):  # type: ignore[attr-defined]
        raise TenreoError(f"{header.path}: became shorter while it was read; read it again")
    tensors, end = {}, 0
    for name, each in header.tensors.items():
        start, end = end, end + each.bytes
        check_sum(header, name, data[start:end].numpy())
        dtype = TORCH_DTYPES[each.dtype]
        # Files of other programs may contain tensors at addresses that are not multiples of their elements.
        values = data[start:end] if start % dtype.itemsize == 0 else data[start:end].clone()
        tensors[name] = values.view(dtype).reshape(each.shape)
    return tensors

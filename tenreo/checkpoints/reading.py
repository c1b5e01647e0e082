"""Reading compressed or dense files as tensors, and writing plain files from compressed ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenreo.files.atomic import atomic_write, make_folder
from tenreo.files.checkpoints import CheckpointFiles, find_files, finish_folder
from tenreo.files.header import is_pickle
from tenreo.files.layout import TensorRecord, file_order, header_bytes
from tenreo.files.paths import as_path
from tenreo.files.pickles import read_pickle
from tenreo.files.quantization_config import dense_config
from tenreo.files.safetensors import TORCH_DTYPES, bytes_of, tensor_of
from tenreo.files.tensor_reader import FileMapping, TensorFile, open_files
from tenreo.planning.dense_storage import stored_dense
from tenreo.planning.recipe import DenseDtype


def read_tensor(file: TensorFile, name: str) -> Tensor:
    """Return a tensor of the dense model on the CPU."""
    record = file.tensors[name]
    dtype = TORCH_DTYPES[record.dtype]
    if name in file.header.tensors:
        return tensor_of(file.content(name), dtype, record.shape)
    return torch.from_numpy(file.read(name)).to(dtype)


def read(path: str | Path) -> Mapping[str, Tensor]:
    """Open a file or folder of tensors, compressed or dense, without a model.

    `write` has an example. No other tensor is read for one that is asked for.

    Args:
        path: path of a safetensors file, of a folder of shards, or of a state dict of torch.

    Returns:
        A mapping of names to tensors on the CPU. Each is decoded when it is asked for.

    Raises:
        TenreoError: if a file is damaged; for most damage, when a tensor is asked for.
    """
    files = find_files(as_path("path", path))
    if is_pickle(files.weights[0]):
        return {name: tensor for file in files.weights for name, tensor in read_pickle(file).items()}
    return FileMapping(open_files(files), read_tensor)


def decompress_file(path: Path, target: Path, dtype: DenseDtype | None = None) -> int:
    """Write the dense tensors of a file, one after another; return the bytes of the file that is written.

    Args:
        path: path of a file of tenreo.
        target: path of a plain safetensors file.
        dtype: number format of floating-point tensors; by default, each keeps its own.

    Raises:
        TenreoError: if the file is damaged, a value does not fit into the format, or the target cannot be written.
    """
    file = TensorFile(path)
    form = None if dtype is None else {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    records = {
        name: TensorRecord(form or each.dtype if each.is_floating else each.dtype, each.shape)
        for name, each in file.tensors.items()
    }
    own = {key: value for key, value in file.header.metadata.items() if not key.startswith("tenreo.")}
    with atomic_write(target) as temporary, temporary.open("wb") as output:
        output.write(header_bytes(records, own))
        for name in file_order(records):
            output.write(_content(file, name, dtype))
    return target.stat().st_size


def _content(file: TensorFile, name: str, dtype: DenseDtype | None) -> Any:
    tensor = read_tensor(file, name)
    if dtype is not None:
        tensor = stored_dense(name, tensor, dtype)
        tensor = tensor.float() if dtype is DenseDtype.FLOAT32 and tensor.is_floating_point() else tensor
    return bytes_of(tensor)


def decompress_folder(files: CheckpointFiles, target: Path, own: list[Path], dtype: DenseDtype | None = None) -> None:
    """Write the dense tensors of the files of a folder to files of the same names.

    Args:
        files: files of the folder.
        target: folder to write to.
        own: the files that this process writes.
        dtype: as for `decompress_file`.
    """
    make_folder(target)
    for path in own:
        decompress_file(path, target / path.name, dtype)


def finish_decompressed(files: CheckpointFiles, target: Path) -> None:
    """Copy the other files of a folder to that of the decompressed files, and write their index."""
    written = [TensorFile(target / path.name) for path in files.weights]
    where = {name: file.path.name for file in written for name in file.tensors}
    size = sum(each.bytes for file in written for each in file.tensors.values())
    finish_folder(files, target, where, size, dense_config)

"""Reading ONNX files strictly, and writing them, with external data where a file would be too large."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenreo.errors import TenreoError, raise_if_out_of_memory, shown
from tenreo.exporting.formats import DATA_ENDING
from tenreo.exporting.onnx_names import all_nodes
from tenreo.exporting.programs import MOST_BYTES, first_line
from tenreo.files.atomic import atomic_write
from tenreo.files.paths import kind_of, opened

_EXTERNAL = 1  # ONNX's number of a tensor whose values are in another file
_STRING = 8
_LEAST_EXTERNAL = 1024  # bytes of a tensor that is stored outside
_ALIGNMENT = 64


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model that was read from a file.

    Attributes:
        path: path of the file.
        model: the model, with all values inside.
        files: the file itself and its files of external data.
        bytes: size of these files.
    """

    path: Path
    model: Any
    files: tuple[Path, ...]
    bytes: int


def read_onnx(path: Path) -> OnnxFile:
    """Read an ONNX model and check all that the file itself states; nothing is run.

    Raises:
        TenreoError: if the file is not ONNX, is damaged, or needs files that are missing or outside of its folder.
    """
    import onnx

    with opened(path) as file:
        if os.fstat(file.fileno()).st_size >= MOST_BYTES:
            raise TenreoError(f"{path}: has {MOST_BYTES:,} bytes or more, which no ONNX file has; give another file")
        content = file.read()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's class depends on its version
        raise TenreoError(f"{path}: is not an ONNX file, or is damaged; give another file") from error
    if not model.opset_import or not model.graph.node:
        raise TenreoError(f"{path}: is not an ONNX file, or has no operators; give another file")
    _check_functions(path, model)
    files = {path: len(content)}
    for tensor in _tensors(model):
        if tensor.data_location == _EXTERNAL:
            name, size = _load_external_(path, tensor)
            files[name] = size
        _check_tensor(path, tensor)
    if size_of(model) < MOST_BYTES:
        _check_model(path, model)
    return OnnxFile(path, model, tuple(files), sum(files.values()))


def _check_model(path: Path, model: Any) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises errors of several classes
        raise_if_out_of_memory(error)
        raise TenreoError(f"{path}: is not a valid ONNX model: {first_line(error)}") from error


def _tensors(model: Any) -> Iterator[Any]:
    """Yield all tensors of a model: initializers and attributes, also in inner graphs and functions."""
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for owner in (model.graph, *model.functions):
        for node in all_nodes(owner):
            for attribute in node.attribute:
                yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
                for inner in (attribute.g, *attribute.graphs):
                    yield from inner.initializer


def _check_tensor(path: Path, tensor: Any) -> None:
    """Raise unless the values of a tensor have the size that its dimensions state."""
    from onnx import helper

    if tensor.data_type == _STRING:
        return
    try:
        width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except Exception:  # of an unknown type, which the checker refuses
        return
    dims, count = list(tensor.dims), math.prod(tensor.dims)
    packed = tensor.data_type in _packed_types()
    if min(dims, default=0) < 0 or (
        tensor.HasField("raw_data") and not packed and len(tensor.raw_data) != width * count
    ):
        raise TenreoError(
            f"{path}: the tensor {shown(tensor.name)} has the dimensions {shown(dims)} and {len(tensor.raw_data):,} "
            "bytes, which do not fit; the file is damaged"
        )
    if count > 8 * tensor.ByteSize():  # no type has fewer than one bit for each value
        raise TenreoError(
            f"{path}: the tensor {shown(tensor.name)} has the dimensions {shown(dims)}, but only "
            f"{tensor.ByteSize():,} bytes; the file is damaged"
        )


def _packed_types() -> set[int]:
    """Return ONNX's numbers of the types of which a byte holds several values."""
    from onnx import TensorProto

    names = [name for name in TensorProto.DataType.keys() if name.endswith(("INT4", "INT2", "E2M1"))]  # noqa: SIM118
    return {TensorProto.DataType.Value(name) for name in names}


def _check_functions(path: Path, model: Any) -> None:
    """Raise if a function of a model calls itself, directly or through others."""
    functions = {(each.domain, each.name): each for each in model.functions}
    calls = {
        key: {(n.domain, n.op_type) for n in all_nodes(each)} & functions.keys() for key, each in functions.items()
    }
    while leaves := [key for key, names in calls.items() if not names & calls.keys()]:
        for key in leaves:
            del calls[key]
    if calls:
        name = "::".join(min(calls))
        raise TenreoError(f"{path}: the function {shown(name)} calls itself, which ONNX does not permit")


def _load_external_(path: Path, tensor: Any) -> tuple[Path, int]:
    """Read the values of a tensor from another file of the model's folder; return that file and its size."""
    entries = {each.key: each.value for each in tensor.external_data}
    file = _external_path(path, tensor.name, entries.get("location", ""))
    with opened(file) as source:
        size = os.fstat(source.fileno()).st_size
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", size - offset))
        except ValueError as error:
            raise TenreoError(f"{path}: {shown(tensor.name)}: a place in {file.name} is no number") from error
        if not 0 <= offset <= offset + length <= size:
            raise TenreoError(
                f"{path}: {shown(tensor.name)} is at bytes {shown(offset)} to {shown(offset + length)} of {file.name}, "
                f"which has {size:,}; copy both files again"
            )
        source.seek(offset)
        tensor.raw_data = source.read(length)
    tensor.ClearField("data_location")
    del tensor.external_data[:]
    return file, size


def _external_path(path: Path, tensor: str, location: str) -> Path:
    parts = Path(location).parts
    file = path.parent / location
    if not location or "\0" in location or Path(location).is_absolute() or ".." in parts or "\\" in location:
        raise TenreoError(f"{path}: {shown(tensor)} is in {shown(location)}, which is not in the folder of the model")
    folder = path.parent
    for part in parts:
        folder = folder / part
        try:
            kind = kind_of(folder.lstat().st_mode)
        except OSError as error:
            raise TenreoError(
                f"{path}: needs {shown(location)}, the file with its values, in the same folder; copy both files"
            ) from error
        if kind is not None and (folder == file or kind != "a folder"):
            raise TenreoError(f"{path}: {shown(location)}, the file with its values, is {kind}, needs a regular file")
    return file


def size_of(model: Any) -> int:
    """Return the size in bytes of a model, or nearly if it is too large for a file."""
    inside = sum(len(each.raw_data) for each in model.graph.initializer)
    return inside if inside >= MOST_BYTES else int(model.ByteSize())  # protobuf cannot count larger messages


def write_onnx(model: Any, path: Path, most_bytes: int = MOST_BYTES) -> int:
    """Write an ONNX model; if it is too large for one file, the values of its tensors go to another one.

    Args:
        model: the model; with external data, its initializers lose their values.
        path: path of the file. That of the values has the same name and `.data`.
        most_bytes: size from which on a file is too large.

    Returns:
        The size of the files in bytes.

    Raises:
        TenreoError: if a file cannot be written.
    """
    large = [x for x in model.graph.initializer if len(x.raw_data) >= _LEAST_EXTERNAL]
    if size_of(model) < most_bytes:
        with atomic_write(path) as temporary:
            temporary.write_bytes(model.SerializeToString())
        return path.stat().st_size
    data = path.with_name(path.name + DATA_ENDING)
    with atomic_write(data) as temporary:
        with temporary.open("wb") as file:
            for tensor in large:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                _refer_(tensor, data.name, file.tell())
                file.write(tensor.raw_data)
                tensor.ClearField("raw_data")
        if model.ByteSize() >= most_bytes:
            raise TenreoError(f"{path}: the graph alone has {model.ByteSize():,} bytes, too many for ONNX")
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return path.stat().st_size + data.stat().st_size


def _refer_(tensor: Any, location: str, offset: int) -> None:
    """Say in a tensor where its values are."""
    tensor.data_location = _EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", len(tensor.raw_data))):
        tensor.external_data.add(key=key, value=str(value))

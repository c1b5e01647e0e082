"""Reading the tensors of a file or folder one by one, compressed or dense, without torch.

Numbers in bfloat16, which NumPy lacks, become float32 of the same values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tenreo.codec.bit_packing import unpack_integers
from tenreo.codec.curve_values import decode_curve, dequantize, integer_codes
from tenreo.codec.grid_decoding import decode_values
from tenreo.codec.pieces import pieces
from tenreo.codec.position_decoding import columns_per_output, decode_stream
from tenreo.codec.shape import Positions
from tenreo.errors import TenreoError
from tenreo.files.checkpoints import CheckpointFiles, check_index, find_files
from tenreo.files.header import Header, check_sum, header_of
from tenreo.files.layout import COEFFICIENTS, DENSE, POSITIONS, SCALES, TensorRecord, layer_name
from tenreo.files.paths import as_path, opened
from tenreo.files.records import LayerRecord

_T = TypeVar("_T")
VARIANCE = ".running_var"  # ending of the names of tensors that are coded on logarithmic grids
_NUMPY = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "BF16": "<u2", "I32": "<i4",
    "U32": "<u4", "F32": "<f4", "F64": "<f8", "I64": "<i8", "U64": "<u8",
}  # fmt: skip


class TensorFile:
    """A safetensors file whose tensors are read and decoded one by one; threads may share it.

    Args:
        path: path of the file.

    Raises:
        TenreoError: if the file cannot be read, or its header is damaged; in every method, if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        with opened(path) as file:
            self.header: Header = header_of(file)
            start, self._version = file.tell(), _version(file)
        self.tensors = self.header.dense_tensors()
        self._lock = Lock()
        self._coded: dict[str, NDArray[np.float64]] | None = None
        self._offsets: dict[str, int] = {}
        for name, tensor in self.header.tensors.items():
            self._offsets[name], start = start, start + tensor.bytes

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.header.path

    def layer(self, name: str) -> LayerRecord | None:
        """Return the record of a compressed tensor; None for any other."""
        return self.header.layers.get(layer_name(name)) if name + COEFFICIENTS in self._offsets else None

    def content(self, name: str, first: int = 0, count: int | None = None, check: bool = True) -> NDArray[np.uint8]:
        """Read bytes of a tensor as they are stored; those of a whole tensor have to have its checksum.

        Args:
            name: name of the tensor in the file.
            first: first byte.
            count: number of bytes; by default, all.
            check: whether the checksum is checked.
        """
        whole = count is None
        content = np.empty(self.header.tensors[name].bytes - first if count is None else count, np.uint8)
        with opened(self.path) as file:
            if _version(file) != self._version:
                raise TenreoError(f"{self.path}: changed while it was read; read it again")
            file.seek(self._offsets[name] + first)
            if file.readinto(content) != len(content):  # type: ignore[attr-defined]
                raise TenreoError(f"{self.path}: became shorter while it was read; read it again")
        if whole and check:
            check_sum(self.header, name, content)
        return content

    def read(self, name: str) -> NDArray[Any]:
        """Return a tensor of the dense model by name."""
        record = self.tensors[name]
        if name in self.header.coded:
            return _cast(self._coded_values()[name].copy(), record.dtype).reshape(record.shape)
        layer = self.layer(name)
        return self._stored(name) if layer is None else self._decoded(name, layer, record)

    def _stored(self, name: str) -> NDArray[Any]:
        record = self.header.tensors[name]
        values = self.content(name).view(_NUMPY[record.dtype]).reshape(record.shape)
        return (values.astype(np.uint32) << 16).view(np.float32) if record.dtype == "BF16" else values

    def _coded_values(self) -> dict[str, NDArray[np.float64]]:
        with self._lock:
            if self._coded is None:
                coded = self.header.coded
                sizes = [(each.numel, name.endswith(VARIANCE) and each.is_floating) for name, each in coded.items()]
                with self._damage_named(DENSE):
                    values = decode_values(self.content(DENSE), sizes)
                self._coded = dict(zip(coded, values, strict=True))
        return self._coded

    @contextmanager
    def _damage_named(self, name: str) -> Iterator[None]:
        try:
            yield
        except TenreoError as error:
            raise TenreoError(f"{self.path}: {name}: {error}") from error

    def _decoded(self, name: str, layer: LayerRecord, record: TensorRecord) -> NDArray[Any]:
        curve = layer.curve
        coefficients = self._stored(name + COEFFICIENTS)
        if curve.precision.is_integer:
            with self._damage_named(name):
                codes = integer_codes(coefficients, curve, layer.coded_coefficients)
            coefficients = dequantize(codes, self._stored(name + SCALES), curve)
        wide = np.float64 if coefficients.dtype == np.float64 else np.float32
        values = decode_curve(coefficients.astype(wide), self._positions(name, layer), curve)
        return _cast(values, record.dtype).reshape(record.shape)

    def _positions(self, name: str, layer: LayerRecord) -> NDArray[Any]:
        stored, curve = self._stored(name + POSITIONS), layer.curve
        if layer.positions == Positions.CODED:
            row = columns_per_output(layer.shape)
            with self._damage_named(name):
                stored = decode_stream(stored, layer.columns, curve.length, row, curve.basis)
        if layer.positions == Positions.PACKED:
            stored = unpack_integers(stored, curve.position_bits, layer.columns)
        if len(stored) and not 0 <= int(stored.min()) <= int(stored.max()) < curve.length:
            raise TenreoError(
                f"{self.path}: {name + POSITIONS} has values outside [0, {curve.length}); the file is damaged"
            )
        return stored


def _version(file: IO[bytes]) -> tuple[int, ...]:
    """Return numbers that change if another process replaces or writes a file, which need not have checksums."""
    state = os.fstat(file.fileno())
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _cast(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Convert values, in place if possible, to a dtype of safetensors; bfloat16 is float32, rounded to the nearest."""
    with np.errstate(over="ignore"):  # of a damaged file
        result = values.astype(np.float32 if dtype == "BF16" else _NUMPY[dtype], order="C", copy=False)
    if dtype == "BF16":
        every = result.reshape(-1).view(np.uint32)
        for part in pieces(len(every)):
            bits = every[part]
            every[part] = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return result


def open_files(files: CheckpointFiles) -> dict[str, TensorFile]:
    """Open the files of a checkpoint; return the file of every tensor of the dense model by name.

    Raises:
        TenreoError: if a file is damaged, two files contain a tensor of the same name, or one of the index is missing.
    """
    found: dict[str, TensorFile] = {}
    for path in files.weights:
        file = TensorFile(path)
        for name in file.tensors:
            if name in found:
                raise TenreoError(f"{path}: contains {name}, as does {found[name].path.name}; remove one of the files")
            found[name] = file
    check_index(files, {name: file.path.name for name, file in found.items()})
    return found


class FileMapping(Mapping[str, _T]):
    """The tensors of a file or folder by name; each is read and decoded when it is asked for, and not kept.

    Args:
        files: file of every tensor by name.
        read: function that reads a tensor of a file.

    Attributes:
        tensors: dtypes and shapes by name.
    """

    def __init__(self, files: Mapping[str, TensorFile], read: Callable[[TensorFile, str], _T]) -> None:
        self._files, self._read = files, read
        self.tensors = {name: file.tensors[name] for name, file in files.items()}

    def __getitem__(self, name: str) -> _T:
        return self._read(self._files[name], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files


def read_numpy(path: str | Path) -> FileMapping[NDArray[Any]]:
    """Open a safetensors file or folder, compressed or dense, without torch.

    >>> from tenreo.files.tensor_reader import read_numpy
    >>> len(read_numpy("tests/data/version4.safetensors"))  # doctest: +SKIP
    6

    Args:
        path: path of a file, or of a folder of shards.

    Returns:
        A mapping of names to arrays. Each is decoded when it is asked for; numbers in bfloat16 become float32.

    Raises:
        TenreoError: if a file is damaged; for most damage, when a tensor is asked for.
    """
    return FileMapping(open_files(find_files(as_path("path", path))), TensorFile.read)

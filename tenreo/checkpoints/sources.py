"""The dense tensors that are compressed: those of files, or of a state dict, read one at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tenreo.errors import TenreoError
from tenreo.files.checkpoints import SINGLE, CheckpointFiles, check_index, find_files
from tenreo.files.header import is_pickle
from tenreo.files.layout import ITEMSIZE, TensorRecord
from tenreo.files.pickles import read_pickle
from tenreo.files.safetensors import TORCH_DTYPES, check_plain, record, tensor_of
from tenreo.files.tensor_reader import TensorFile, open_files
from tenreo.planning.rules import Traits, traits_of_tensors

# Names of the tensors that are parameters.
_PARAMETER = re.compile(r"(^|[._])(weight|bias|gamma|beta|scale|embed\w*|token)\w*$")


class Source:
    """Dense tensors by name.

    Attributes:
        name: name of the file or folder; empty for tensors in memory.
        tensors: dtypes and shapes by name.
        layout: names of the tensors in each file, by the file's name.
        metadata: metadata of each file.
        files: the files; None for tensors in memory.
    """

    def __init__(self, name: str, state: Mapping[str, Tensor], files: CheckpointFiles | None = None) -> None:
        self.name, self.files, self._state = name, files, state
        self.tensors = {key: record(tensor) for key, tensor in state.items()}
        self.layout = {SINGLE: list(state)}
        self.metadata: dict[str, dict[str, str]] = {SINGLE: {"format": "pt"}}

    @property
    def traits(self) -> list[Traits]:
        """Traits of the tensors that may be weights."""
        return traits_of_tensors(self.tensors)

    def is_parameter(self, name: str) -> bool:
        """Return whether a tensor is a parameter rather than a buffer, which may need any digit."""
        return _PARAMETER.search(name) is not None

    def read(self, name: str) -> Tensor:
        """Return a tensor on the CPU."""
        return self._state[name].detach().cpu()

    def elements(self, name: str, first: int, count: int) -> Tensor:
        """Return consecutive elements of a flattened tensor."""
        return self.read(name).reshape(-1)[first : first + count]


class _Files(Source):
    """The tensors of safetensors files."""

    def __init__(self, files: CheckpointFiles, opened: Mapping[str, TensorFile]) -> None:
        self.name, self.files, self._opened = files.path.name or files.path.resolve().name, files, opened
        self.tensors: dict[str, TensorRecord] = {name: file.tensors[name] for name, file in opened.items()}
        self.layout, self.metadata = {}, {}
        for name, file in opened.items():
            self.layout.setdefault(file.path.name, []).append(name)
            self.metadata[file.path.name] = file.header.metadata

    def read(self, name: str) -> Tensor:
        """Return a tensor; it is not kept."""
        return self.elements(name, 0, self.tensors[name].numel)

    def elements(self, name: str, first: int, count: int) -> Tensor:
        """Read consecutive elements of a tensor."""
        each = self.tensors[name]
        size = ITEMSIZE[each.dtype]
        content = self._opened[name].content(name, first * size, count * size)
        return tensor_of(content, TORCH_DTYPES[each.dtype], each.shape if count == each.numel else (count,))


def open_source(path: Path) -> Source:
    """Open a dense checkpoint: a safetensors file, a state dict of torch, or a folder.

    Raises:
        TenreoError: if it is damaged, contains no tensors, or is compressed already.
    """
    files = find_files(path)
    if is_pickle(files.weights[0]):
        state: dict[str, Tensor] = {}
        found: dict[str, str] = {}
        for file in files.weights:
            own = read_pickle(file)
            found |= dict.fromkeys(own, file.name)
            state |= own
        check_index(files, found)
        return Source(files.path.name, state, files)
    opened = open_files(files)
    compressed = next((file.path for file in opened.values() if file.header.layers or file.header.coded), None)
    if compressed is not None:
        raise TenreoError(f"{compressed}: is already compressed; give the file of the dense weights")
    if not opened:
        raise TenreoError(f"{path}: contains no tensors")
    return _Files(files, opened)


def state_source(tensors: Mapping[str, Tensor]) -> Source:
    """Return the source of tensors in memory.

    Raises:
        TenreoError: if a value is not a tensor that a file can store.
    """
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TenreoError(f"tensors: given {name!r} with a {type(tensor).__name__}, needs names and tensors")
        try:
            check_plain(name, tensor)
        except ValueError as error:
            raise TenreoError(f"tensors: {error}") from error
    if not tensors:
        raise TenreoError("tensors: given none, needs at least one")
    return Source("", tensors)

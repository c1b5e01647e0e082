"""Checks of a file in torch's format before it is loaded, by simulating its pickles without creating objects.

torch.load with `weights_only=True` executes no code of the file, but it accepts calls that allocate memory or take time
out of proportion to the file, and tensors whose values are not in the file.
"""

from __future__ import annotations

import pickletools
import re
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import IO, Any

import torch

_MOST_INSTRUCTIONS = 500_000  # instructions of a pickle; that of ResNet-152 with an optimizer's state has 120,000
_DEEPEST_TUPLE = 10
_LARGEST_TUPLE = 10_000  # elements of a tuple and of all tuples in it
_SPARE = 1_000_000  # characters and elements that calls may receive in addition to twice those of the pickle
_LARGE = 2**63  # integers beyond it may have equal hashes, which makes dictionaries and sets slow
_ENCODINGS = ("latin1", "latin-1", "utf-8", "utf8", "ascii")  # other codecs may take quadratic time, or decompress
_ITEMSIZES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1,
    "ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "QInt32Storage": 4, "QInt8Storage": 1, "QUInt8Storage": 1,
    "QUInt4x2Storage": 1, "QUInt2x4Storage": 1,
}  # fmt: skip
_NUMPY_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,3})")  # numbers and short strings
_LARGEST_ELEMENT = 4000  # bytes of an element of a NumPy array
_STRIDED = {f"torch._utils.{n}" for n in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3",
                                          "_rebuild_qtensor")}  # fmt: skip


def check_torch_file(file: IO[bytes]) -> None:
    """Refuse a file whose loading would take time or memory out of proportion, or whose tensors it does not contain.

    Args:
        file: file in torch's format, opened for reading; its position is changed.

    Raises:
        ValueError: with the reason.
        Exception: of any other type if the pickle is damaged.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(2) != b"PK":
        _check_legacy(file, size)
        return
    file.seek(0)
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise ValueError("its end is missing or damaged; copy or download it again") from error
    with archive:
        _check_archive(archive, size)


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Check the pickles of a zip archive, and that it contains the values of all tensors."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in entries):
        raise ValueError("it is a TorchScript archive; save the model's state_dict() instead")
    if entries and all(name.endswith(".npy") for name in entries):
        raise ValueError(
            "it is a NumPy archive (.npz); load it with numpy.load, and save a dictionary of tensors with torch.save"
        )
    plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries.values())
    if not plain or sum(entry.file_size for entry in archive.infolist()) > size:
        raise ValueError("the archive is compressed, or its entries overlap; pack it without compression")
    # torch finds names without regard to case, and reads the last end of an archive.
    if len({name.lower() for name in entries}) != len(archive.infolist()) or archive.comment:
        raise ValueError("the archive has two entries of one name, or a comment; save it again with torch.save")
    folder = next(iter(entries), "").partition("/")[0]
    if f"{folder}/data.pkl" not in entries:
        raise ValueError("it is a zip archive that torch.save did not write; unpack it, or give another file")
    for name, entry in entries.items():
        if name.endswith(".pkl"):
            with archive.open(entry) as file:
                storages = _Simulation().run(file).storages
            for key, (itemsize, count) in storages.items():
                stored = entries.get(f"{folder}/data/{key}")
                _check_stored(key, itemsize * count, None if stored is None else stored.file_size)


def _check_legacy(file: IO[bytes], size: int) -> None:
    """Check the pickles of torch's format before version 1.6, and the values of the tensors that follow them."""
    file.seek(0)
    magic = _Simulation().run(file).result
    if magic != torch.serialization.MAGIC_NUMBER:
        raise ValueError("it is a pickle that torch.save did not write; load it there, and save the state_dict()")
    for _ in range(2):  # a version and the sizes of integers
        _Simulation().run(file)
    storages = _Simulation().run(file).storages
    keys = _Simulation().run(file).result
    if not isinstance(keys, _Container):
        raise ValueError("the names of its storages are not a list")
    for key in keys.items:
        if key not in storages:
            raise ValueError("it contains values of a tensor that it does not describe")
        itemsize, count = storages.pop(key)
        given = int.from_bytes(file.read(8), sys.byteorder) * itemsize
        _check_stored(key, itemsize * count, min(given, size - file.tell()))
        file.seek(itemsize * count, 1)
    for key, (itemsize, count) in storages.items():
        _check_stored(key, itemsize * count, None)


def _check_stored(key: Any, needed: int, given: int | None) -> None:
    if given is None or given < needed:
        raise ValueError(
            f"the values of the tensor storage {str(key)[:50]!r} are not in the file: it contains {given or 0:,} of "
            f"{needed:,} bytes; copy or download the file again"
        )


class _Tuple:
    """A tuple in a pickle, with its nesting depth and the number of elements in it and in the tuples inside it."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        inner = [each for each in items if isinstance(each, _Tuple)]
        self.depth: int = 1 + max((each.depth for each in inner), default=0)
        self.size: int = len(items) + sum(each.size for each in inner)
        if self.depth > _DEEPEST_TUPLE or self.size > _LARGEST_TUPLE:
            raise ValueError(f"a tuple has more than {_DEEPEST_TUPLE} levels or more than {_LARGEST_TUPLE:,} elements")


class _Container:
    """A list, dictionary or set in a pickle; the items of a dictionary are its keys and values in turn."""

    def __init__(self) -> None:
        self.items: list[Any] = []


class _Global:
    """A class or function that a pickle names."""

    def __init__(self, text: str) -> None:
        module, _, name = text.partition(" ")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        self.name = f"{module}.{name}"


class _Object:
    """The result of a call."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Storage:
    """The memory of tensors: number of elements and bytes of each."""

    def __init__(self, itemsize: int, count: int) -> None:
        self.itemsize, self.count = itemsize, count


class _Simulation:
    """The stack of a pickle, which consists of strings, numbers, None and the classes above.

    Attributes:
        storages: bytes per element and number of elements of every storage by its key in the file.
        result: the pickled object.
    """

    def __init__(self) -> None:
        self.storages: dict[Any, tuple[int, int]] = {}
        self.result: Any = None
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[Any, Any] = {}
        self._allowance = _SPARE

    def run(self, file: IO[bytes]) -> _Simulation:
        """Simulate the pickle that begins at the position of a file, and return this object.

        Raises:
            ValueError: if the pickle is too long, contains a tuple that by references to itself becomes exponentially
                large, has a key that is slow to hash, or makes a call that a state dict does not need.
        """
        for number, (code, value, _) in enumerate(pickletools.genops(file)):
            if number > _MOST_INSTRUCTIONS:
                raise ValueError(
                    f"the pickle has more than {_MOST_INSTRUCTIONS:,} instructions; save a state dict alone"
                )
            self._step(code.name, value)
        self.result = self._stack[-1]
        return self

    def _step(self, name: str, value: Any) -> None:
        stack = self._stack
        if name == "MARK":
            self._marks.append(stack)
            self._stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            self._stack = self._marks.pop()
            if name == "TUPLE":
                self._stack.append(_Tuple(stack))
            else:
                self._extend(stack, keys=name == "SETITEMS")
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [_Tuple(stack[-count:])]
        elif name in ("SETITEM", "APPEND"):
            count = 2 if name == "SETITEM" else 1
            items = stack[-count:]
            del stack[-count:]
            self._extend(items, keys=name == "SETITEM")
        elif name == "BUILD":
            self._build(stack.pop(), stack[-1])
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            if not isinstance(called, _Global) or not isinstance(arguments, _Tuple):
                raise ValueError("it calls something other than a function, or without a tuple of arguments")
            self._call(called.name, arguments.items)
            stack.append(_Object(called.name))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[value])
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "EMPTY_TUPLE":
            stack.append(_Tuple([]))
        elif name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            stack.append(_Container())
        elif name == "GLOBAL":
            stack.append(_Global(value))
        elif name not in ("PROTO", "STOP"):  # all instructions left that torch accepts push one value
            self._allowance += 2 * len(value) if isinstance(value, (str, bytes)) else 2
            stack.append(value)

    def _extend(self, items: list[Any], keys: bool) -> None:
        """Add items to the container on top of the stack."""
        if keys:
            _check_keys(items[::2])
        if isinstance(self._stack[-1], _Container):
            self._stack[-1].items += items

    def _spend(self, values: list[Any]) -> None:
        """Count what a call receives; a pickle could pass one long value to many calls, which each copy it."""
        for value in values:
            inner = value.items if isinstance(value, (_Container, _Tuple)) else value
            self._allowance -= len(inner) if isinstance(inner, (list, str, bytes)) else 1
        if self._allowance < 0:
            raise ValueError("it passes one long value to many calls; save a state dict alone")

    def _build(self, state: Any, target: Any) -> None:
        name = target.name if isinstance(target, (_Object, _Global)) else ""
        if _is_tensor(name) or "_rebuild_" in name:
            raise ValueError("it changes the memory of a tensor after creating it; save the state dict again")
        items = state.items if isinstance(state, _Tuple) else []
        # Fields and subarrays could make an element of an array large, or a reference to an object.
        if name == "numpy.dtype" and (items[2:5] != [None] * 3 or _whole(max(0, items[5])) > _LARGEST_ELEMENT):
            raise ValueError("it contains a NumPy array of objects or records; save the state dict alone")
        self._spend([state, *items])

    def _call(self, name: str, arguments: list[Any]) -> None:
        """Check a call of a class or function that torch allows; torch itself refuses all other ones."""
        self._spend(arguments)
        first = arguments[0] if arguments else None
        right = True
        if name == "collections.OrderedDict":  # Python 2 passes a list of pairs
            pairs = first.items if isinstance(first, _Container) else []
            right = not arguments or all(isinstance(each, (_Container, _Tuple)) and each.items for each in pairs)
            _check_keys([each.items[0] for each in pairs if isinstance(each, (_Container, _Tuple)) and each.items])
        elif name in ("builtins.set", "collections.Counter"):
            right = not arguments or isinstance(first, _Container)
            _check_keys(first.items if isinstance(first, _Container) else [])
        elif name == "builtins.bytearray":
            right = not arguments or isinstance(first, (str, bytes, _Object))
        elif name == "_codecs.encode":
            right = len(arguments) == 2 and isinstance(first, str) and arguments[1] in _ENCODINGS
        elif name == "torch._tensor._rebuild_from_type_v2":
            right = isinstance(first, _Global) and "_rebuild_" in first.name and isinstance(arguments[2], _Tuple)
            if right and isinstance(first, _Global):
                self._call(first.name, arguments[2].items)
        elif name == "builtins.bytes":  # the values of an empty array
            right = not arguments
        elif name == "numpy.dtype":
            right = isinstance(first, str) and _NUMPY_DTYPE.fullmatch(first) is not None
        elif name.endswith(".multiarray.scalar"):
            right = len(arguments) == 2 and isinstance(first, _Object) and first.name == "numpy.dtype"
        elif name.endswith(".multiarray._reconstruct"):  # the empty array that a state then fills
            right = len(arguments) == 3 and isinstance(arguments[1], _Tuple) and arguments[1].items == [0]
        elif name in _STRIDED:
            _check_view(arguments)
        elif _is_tensor(name) or name == "torch.nn.parameter.Parameter":
            right = not any(isinstance(each, (int, _Tuple)) and not isinstance(each, bool) for each in arguments)
        if not right:
            raise ValueError(f"it calls {name} with arguments that a state dict does not need")

    def _storage(self, saved: Any) -> _Storage:
        """Return the storage with the identifier ("storage", type, key, device, number of elements, [view])."""
        items = saved.items if isinstance(saved, _Tuple) else []
        if len(items) not in (5, 6) or not isinstance(items[1], _Global) or not isinstance(items[2], (str, int)):
            raise ValueError("it describes the storage of a tensor in an unknown way")
        itemsize, key, count = _ITEMSIZES.get(items[1].name.rpartition(".")[2], 0), items[2], _whole(items[4])
        if not itemsize or self.storages.setdefault(key, (itemsize, count)) != (itemsize, count):
            raise ValueError(f"it describes the tensor storage {str(key)[:50]!r} in two ways, or with an unknown type")
        view = items[5] if len(items) == 6 else None
        if view is None:
            return _Storage(itemsize, count)
        _, start, length = view.items
        if _whole(start) + _whole(length) > count:
            raise ValueError("a view is larger than its storage")
        return _Storage(itemsize, length)


def _is_tensor(name: str) -> bool:
    """Return whether a class of torch is one of tensors or their memory, which can be created without values."""
    return name.startswith("torch.") and name.endswith(("Tensor", "Storage"))


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("the size of a tensor is not a whole number")
    return value


def _check_view(arguments: list[Any]) -> None:
    """Raise unless a strided tensor is inside its storage, which torch would enlarge by uninitialized memory."""
    storage, offset, size, stride, *rest = arguments
    if not isinstance(storage, _Storage) or not isinstance(size, _Tuple) or not isinstance(stride, _Tuple):
        raise ValueError("a tensor has no storage in the file")
    sizes, strides = ([_whole(each) for each in values.items] for values in (size, stride))
    itemsize = storage.itemsize
    for each in rest:  # the dtype of tensors with untyped storages
        if isinstance(each, _Global) and isinstance(getattr(torch, each.name.partition(".")[2], None), torch.dtype):
            itemsize = getattr(torch, each.name.partition(".")[2]).itemsize
    last = sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1 if all(sizes) else 0
    if (_whole(offset) + last) * itemsize > storage.count * storage.itemsize:
        raise ValueError("a tensor is larger than its storage, so its values are not in the file")


def _check_keys(keys: list[Any]) -> None:
    """Raise unless the keys of a dictionary or the elements of a set are strings, small numbers or None."""
    for key in keys:
        small = isinstance(key, (int, float)) and abs(key) < _LARGE
        if not small and not isinstance(key, (str, bytes, _Global, type(None))):
            raise ValueError("the key of a dictionary or the element of a set is neither a string nor a small number")

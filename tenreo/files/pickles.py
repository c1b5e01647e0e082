"""The state dicts of torch's own files, whatever they are wrapped in; no code of a file is ever run."""

from __future__ import annotations

import argparse
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from tenreo.errors import TenreoError
from tenreo.files.paths import check_readable
from tenreo.files.safetensors import check_plain

# The keys under which training programs keep a state dict beside other things; averaged weights where there are no
# others.
_WRAPPERS = (
    "state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "state_dict_ema",
    "model_ema", "ema_state_dict", "ema",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_MOST_WRAPPERS = 8  # around one another
_MOST_INSTRUCTIONS = 500_000  # of a pickle; ResNet-152 with an optimizer's state has 120,000
_DEEPEST_TUPLE = 10
_LARGEST_TUPLE = 10_000  # elements, those of the tuples in it included


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a .pth file, plain or in a checkpoint, with the names of the model itself.

    Raises:
        TenreoError: when it holds anything but tensors and plain values, or no state dict.
    """
    check_readable(path)
    try:
        _check_before_loading(path)
        with _namespaces_allowed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused
            values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        raise TenreoError(f"{path}: can not be read as a torch file of plain tensors: {_why(error)}") from error
    state = _unwrapped(values)
    if not state or not all(isinstance(key, str) and isinstance(v, Tensor) for key, v in state.items()):
        raise TenreoError(f"{path}: holds no state dict (names and tensors)")
    plain = {name: tensor.detach() for name, tensor in named_as_the_model(state).items()}
    try:
        for name, tensor in plain.items():
            check_plain(name, tensor)
            if tensor.nbytes > tensor.untyped_storage().nbytes():
                raise ValueError(
                    f"{name} {list(tensor.shape)} repeats the few numbers that it holds; save it after contiguous()"
                )
    except ValueError as error:
        raise TenreoError(f"{path}: {error}") from error
    return plain


def named_as_the_model(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without what DataParallel, DistributedDataParallel, AveragedModel and compiling add to names.

    >>> named_as_the_model({"n_averaged": 3, "module._orig_mod.fc.bias": 1, "module.layer1._orig_mod.0.bias": 2})
    {'fc.bias': 1, 'layer1.0.bias': 2}
    """
    names = {key: key.replace("._orig_mod.", ".") for key in state if key != "n_averaged"}
    while names and any(all(name.startswith(prefix) for name in names.values()) for prefix in _PREFIXES):
        names = {key: name.partition(".")[2] for key, name in names.items()}
    return {name: state[key] for key, name in names.items()}


def _unwrapped(values: Any) -> Mapping[Any, Any]:
    """The state dict in a checkpoint; empty where there is none."""
    for _ in range(_MOST_WRAPPERS):
        inner = [values[key] for key in _WRAPPERS if isinstance(values, dict) and isinstance(values.get(key), dict)]
        if not inner:
            break
        values = inner[0]
    return values if isinstance(values, dict) else {}


class _namespaces_allowed(torch.serialization.safe_globals):
    """Inside the context, torch reads the options that training programs keep: plain values with names."""

    def __init__(self) -> None:
        known = torch.serialization.get_safe_globals()
        super().__init__([] if argparse.Namespace in known else [argparse.Namespace])


def _why(error: Exception) -> str:
    """A line about an error of reading."""
    text = str(error)
    found = re.search(r"GLOBAL (\S+)", text)
    if found:
        return (
            f"it holds an object of {found[1]}, and only running its code could make that; where the code is, load "
            "the file with weights_only=False and save model.state_dict()"
        )
    return (text.splitlines() or [type(error).__name__])[0]


def _check_before_loading(path: Path) -> None:
    """Refuse what would take time or memory out of proportion to the file.

    Raises:
        ValueError: naming what.
    """
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            for _ in range(5):  # a number, a version, the machine's sizes, the object, the names of its storages
                _check_pickle(file)
            return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise ValueError("it is a TorchScript archive; save the model's state_dict() instead")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("the archive is compressed, or its entries overlap; pack it without compression")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                with archive.open(entry) as file:
                    _check_pickle(file)


class _Tuple:
    """A tuple of a pickle: how deep tuples are nested in it, and how many elements they have together."""

    def __init__(self, items: list[Any]) -> None:
        inner = [each for each in items if isinstance(each, _Tuple)]
        self.depth: int = 1 + max((each.depth for each in inner), default=0)
        self.size: int = len(items) + sum(each.size for each in inner)
        if self.depth > _DEEPEST_TUPLE or self.size > _LARGEST_TUPLE:
            raise ValueError(f"tuples are nested more than {_DEEPEST_TUPLE} deep, or {_LARGEST_TUPLE:,} elements large")


def _check_pickle(file: IO[bytes]) -> None:
    """Follow a pickle's instructions, making nothing, and refuse keys that take for ever to hash.

    Raises:
        ValueError: when a tuple is large by its nesting, or the key of a dictionary is no name or small number.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    for number, (code, value, _) in enumerate(pickletools.genops(file)):
        if number > _MOST_INSTRUCTIONS:
            raise ValueError(f"it holds more than its tensors: {_MOST_INSTRUCTIONS:,} instructions are read at most")
        name = code.name
        if name == "MARK":
            marks.append(stack)
            stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, marks.pop()
            if name == "TUPLE":
                stack.append(_Tuple(items))
            elif name == "SETITEMS":
                _check_keys(items[::2])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [_Tuple(stack[-count:])]
        elif name == "SETITEM":
            _check_keys(stack[-2:-1])
            del stack[-2:]
        elif name in ("APPEND", "BUILD"):
            stack.pop()
        elif name in ("REDUCE", "NEWOBJ"):
            stack[-2:] = [None]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "BINPERSID":
            stack[-1] = None
        elif name not in ("PROTO", "STOP"):  # it pushes a value; torch refuses all others
            stack.append(value)


def _check_keys(keys: list[Any]) -> None:
    for key in keys:
        if isinstance(key, _Tuple) or (isinstance(key, (int, float)) and abs(key) >= 2**63):
            raise ValueError("the key of a dictionary is no name or number")

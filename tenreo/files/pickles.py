"""Reading state dicts from torch's own files, bare or inside a checkpoint. No code in a file is ever executed."""

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

# The keys under which checkpoints of training programs contain the state dict, in the order of preference: averaged
# weights come last.
_WRAPPERS = (
    "state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "state_dict_ema",
    "model_ema", "ema_state_dict", "ema",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_MOST_WRAPPERS = 8  # levels of dictionaries around the state dict
_MOST_INSTRUCTIONS = 500_000  # instructions of a pickle; that of ResNet-152 with an optimizer's state has 120,000
_DEEPEST_TUPLE = 10
_LARGEST_TUPLE = 10_000  # elements of a tuple and of all tuples in it


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the state dict from a .pth file or checkpoint, and remove the prefixes that wrappers add to its names.

    Raises:
        TenreoError: if the file contains objects other than tensors and plain values, or no state dict.
    """
    check_readable(path)
    try:
        _check_before_loading(path)
        with _namespaces_allowed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused below
            values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        raise TenreoError(f"{path}: cannot be read as a torch file of plain tensors: {_why(error)}") from error
    state = _unwrapped(values)
    if not state or not all(isinstance(key, str) and isinstance(v, Tensor) for key, v in state.items()):
        raise TenreoError(f"{path}: contains no state dict (names and tensors)")
    plain = {name: tensor.detach() for name, tensor in _without_prefixes(state).items()}
    try:
        for name, tensor in plain.items():
            check_plain(name, tensor)
            if tensor.nbytes > tensor.untyped_storage().nbytes():
                raise ValueError(
                    f"{name} {list(tensor.shape)} is an expanded view of fewer numbers; save it after contiguous()"
                )
    except ValueError as error:
        raise TenreoError(f"{path}: {error}") from error
    return plain


def _without_prefixes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the prefixes that DataParallel, DistributedDataParallel, AveragedModel and torch.compile add to names.

    >>> _without_prefixes({"n_averaged": 3, "module._orig_mod.fc.bias": 1, "module.layer1._orig_mod.0.bias": 2})
    {'fc.bias': 1, 'layer1.0.bias': 2}
    """
    names = {key: key.replace("._orig_mod.", ".") for key in state if key != "n_averaged"}
    while names and any(all(name.startswith(prefix) for name in names.values()) for prefix in _PREFIXES):
        names = {key: name.partition(".")[2] for key, name in names.items()}
    return {name: state[key] for key, name in names.items()}


def _unwrapped(values: Any) -> Mapping[Any, Any]:
    """Return the state dict in a checkpoint, or an empty one if there is none."""
    for _ in range(_MOST_WRAPPERS):
        inner = [values[key] for key in _WRAPPERS if isinstance(values, dict) and isinstance(values.get(key), dict)]
        if not inner:
            break
        values = inner[0]
    return values if isinstance(values, dict) else {}


class _namespaces_allowed(torch.serialization.safe_globals):
    """Context in which torch.load accepts argparse.Namespace, which checkpoints use for command-line options."""

    def __init__(self) -> None:
        known = torch.serialization.get_safe_globals()
        super().__init__([] if argparse.Namespace in known else [argparse.Namespace])


def _why(error: Exception) -> str:
    """Return a one-line explanation of an error of torch.load."""
    text = str(error)
    match = re.search(r"GLOBAL (\S+)", text)
    if match:
        return (
            f"it contains an object of {match[1]}, which only executing code could create; if you trust the file, load "
            "it with weights_only=False and save model.state_dict()"
        )
    return (text.splitlines() or [type(error).__name__])[0]


def _check_before_loading(path: Path) -> None:
    """Refuse files whose loading would take time or memory out of proportion to their size.

    Raises:
        ValueError: with the reason.
    """
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            for _ in range(5):  # a magic number, a version, sizes of integers, the object, the names of its storages
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
    """Nesting depth and total number of elements of a tuple in a pickle, including the tuples inside it."""

    def __init__(self, items: list[Any]) -> None:
        inner = [each for each in items if isinstance(each, _Tuple)]
        self.depth: int = 1 + max((each.depth for each in inner), default=0)
        self.size: int = len(items) + sum(each.size for each in inner)
        if self.depth > _DEEPEST_TUPLE or self.size > _LARGEST_TUPLE:
            raise ValueError(f"a tuple has more than {_DEEPEST_TUPLE} levels or more than {_LARGEST_TUPLE:,} elements")


def _check_pickle(file: IO[bytes]) -> None:
    """Simulate a pickle's stack without creating objects, and refuse dictionary keys that are very slow to hash.

    By references to themselves, nested tuples can become exponentially large; many large integers can share one hash.

    Raises:
        ValueError: if a tuple is too large, or a dictionary has a key that is neither a string nor a small number.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    for number, (code, value, _) in enumerate(pickletools.genops(file)):
        if number > _MOST_INSTRUCTIONS:
            raise ValueError(f"the pickle has more than {_MOST_INSTRUCTIONS:,} instructions; save a state dict alone")
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
        elif name not in ("PROTO", "STOP"):  # all instructions left that torch accepts push one value
            stack.append(value)


def _check_keys(keys: list[Any]) -> None:
    for key in keys:
        if isinstance(key, _Tuple) or (isinstance(key, (int, float)) and abs(key) >= 2**63):
            raise ValueError("the key of a dictionary is neither a string nor a small number")

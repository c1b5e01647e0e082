"""Reading state dicts from torch's own files, bare or inside a checkpoint. No code in a file is ever executed."""

import argparse
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tenreo.errors import TenreoError, raise_if_out_of_memory
from tenreo.files.formats import holds_pickle
from tenreo.files.paths import opened
from tenreo.files.pickle_checks import check_torch_file
from tenreo.files.safetensors import check_plain

# The keys under which checkpoints of training programs contain the state dict, in the order of preference: averaged
# weights come last.
_WRAPPERS = (
    "state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "state_dict_ema",
    "model_ema", "ema_state_dict", "ema",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_FUNCTIONS: tuple[Any, ...] = (np.zeros(0).__reduce__()[0], np.float64().__reduce__()[0])  # _reconstruct and scalar
_NUMPY: tuple[Any, ...] = (
    bytes, np.dtype, np.ndarray, *{type(np.dtype(code)) for code in "?bhilqBHILQefdFDSU"},
    # The module has another name since NumPy 2.0.
    *((each, f"numpy.{core}.multiarray.{each.__name__}") for core in ("core", "_core") for each in _FUNCTIONS),
)  # fmt: skip
_MOST_WRAPPERS = 8  # levels of dictionaries around the state dict


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the state dict from a .pth file or checkpoint, and remove the prefixes that wrappers add to its names.

    Raises:
        TenreoError: if the file contains objects other than tensors and plain values, or no state dict.
    """
    with opened(path) as file:
        holds_pickle(file)  # raises for other formats
        return state_of(file)


def state_of(file: IO[bytes], note: Callable[[str], None] | None = None) -> dict[str, Tensor]:
    """Read the state dict from a file that is opened for reading, like `read_pickle`.

    Args:
        file: the file.
        note: function that is told about values of the state dict that are not tensors but are read as such.
    """
    path = Path(file.name)
    try:
        with _plain_values_allowed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused below
            check_torch_file(file)
            file.seek(0)
            values: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        raise_if_out_of_memory(error)
        raise TenreoError(f"{path}: cannot be read as a torch file of plain tensors: {_why(error)}") from error
    unwrapped = _unwrapped(values)
    state = {key: _tensor(value) for key, value in unwrapped.items()}
    arrays = [str(key) for key, value in state.items() if value is not unwrapped[key]]
    if arrays and note is not None:
        note(f"{path}: {len(arrays):,} of its values, such as {arrays[0]}, are NumPy arrays; they are read as tensors")
    if not state or not all(isinstance(key, str) and isinstance(v, Tensor) for key, v in state.items()):
        raise TenreoError(f"{path}: contains no state dict (names and tensors)")
    plain = {name: tensor.detach() for name, tensor in without_prefixes(state).items()}
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


def _tensor(value: Any) -> Any:
    """Return a NumPy array of numbers as a tensor, and any other value unchanged."""
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("="))) if numbers else value


def without_prefixes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the prefixes that DataParallel, DistributedDataParallel, AveragedModel and torch.compile add to names.

    >>> without_prefixes({"n_averaged": 3, "module._orig_mod.fc.bias": 1, "module.layer1._orig_mod.0.bias": 2})
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


class _plain_values_allowed(torch.serialization.safe_globals):
    """Context in which torch.load accepts NumPy's scalars and arrays of numbers, and argparse.Namespace.

    Checkpoints contain them as metrics, random states and command-line options.
    """

    def __init__(self) -> None:
        known = torch.serialization.get_safe_globals()
        super().__init__([each for each in (argparse.Namespace, *_NUMPY) if each not in known])


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

"""Validation of a saved training state; `load_state_dict` of torch accepts many invalid values."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_COUNTER = "num_batches_tracked"  # buffer of BatchNorm, the only integers that training changes
_MAX_COUNT = 2**53  # float64 represents all integers up to this one
# Entries that an optimizer stores for every parameter.
_OPTIMIZER_ENTRIES = {torch.optim.SGD: {"momentum_buffer"}, torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}}


def check_compatible(name: str, own: Any, saved: Any) -> None:
    """Raise ValueError unless training could have changed the current value into the saved one.

    Args:
        name: name of the value, for the error message.
        own: current value: tensors, numbers and strings, in dictionaries and sequences.
        saved: value from a state file.
    """
    if isinstance(own, Tensor):
        _check_tensor(name, own, saved)
    elif isinstance(own, Mapping):
        if not isinstance(saved, Mapping) or set(saved) != set(own):
            raise ValueError(f"{name} has other keys")
        for key, value in own.items():
            check_compatible(str(key), value, saved[key])
    elif isinstance(own, (list, tuple)):
        if type(saved) is not type(own) or len(saved) != len(own):
            raise ValueError(f"{name} has another length")
        for value, other in zip(own, saved, strict=True):
            check_compatible(name, value, other)
    elif isinstance(own, (int, float)) and not isinstance(own, bool):
        check_number(name, saved, whole=isinstance(own, int))
    elif type(saved) is not type(own) or (isinstance(own, (bool, str)) and saved != own):
        raise ValueError(f"{name} is another value")


def check_number(name: str, value: Any, *, whole: bool) -> None:
    """Raise ValueError unless a value is a finite number, or if `whole` is set, a non-negative integer."""
    if whole:
        valid = type(value) is int and 0 <= value <= _MAX_COUNT
    else:
        valid = type(value) in (int, float) and abs(value) < math.inf
    if not valid:
        raise ValueError(f"{name} is {str(value)[:50]!r}, needs a {'count' if whole else 'finite number'}")


def _check_tensor(name: str, own: Tensor, saved: Any) -> None:
    plain = isinstance(saved, Tensor) and saved.layout == torch.strided and saved.device.type == "cpu"
    if not plain or saved.shape != own.shape or saved.dtype != own.dtype:
        raise ValueError(f"{name} is not a tensor of {own.dtype} and shape {list(own.shape)}")
    if not own.is_floating_point():
        is_counter = name.endswith(_COUNTER) and bool((saved >= 0).all())
        if not is_counter and not torch.equal(saved, own.cpu()):
            raise ValueError(f"{name} differs, although training does not change it")


def check_optimizer(optimizer: torch.optim.Optimizer, saved: Any) -> None:
    """Raise ValueError unless a saved state is a valid state of an optimizer.

    Args:
        optimizer: SGD or AdamW optimizer.
        saved: value of its `state_dict` from a state file.
    """
    own = optimizer.state_dict()["param_groups"]
    if set(saved) != {"state", "param_groups"} or len(saved["param_groups"]) != len(own):
        raise ValueError("the optimizer has other keys")
    for group, other in zip(own, saved["param_groups"], strict=True):
        check_number("lr", other["lr"], whole=False)
        if other != {**group, "lr": other["lr"]}:
            raise ValueError("the optimizer has other settings")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known = _OPTIMIZER_ENTRIES[type(optimizer)]
    for index, entries in saved["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters) or not set(entries) <= known:
            raise ValueError("the optimizer has entries of other names or parameters")
        for name, value in entries.items():
            if name == "step":
                check_number(name, value.item(), whole=False)
                if not 0 <= value.item() <= _MAX_COUNT:
                    raise ValueError(f"the optimizer is at step {value.item()}")
            elif value is not None:
                _check_tensor(name, parameters[index], value)

"""Whether what a state file holds can be what the parts of a run take; torch itself takes nearly anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_COUNTED = "num_batches_tracked"  # of BatchNorm: the integers that training changes
_MOST = 2**53
# What the optimizers remember of a parameter.
_REMEMBERED = {torch.optim.SGD: {"momentum_buffer"}, torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}}


def check_alike(name: str, own: Any, saved: Any) -> None:
    """Raise ValueError unless a saved value is one that one's own could have become by training.

    Args:
        name: of the value.
        own: tensors, numbers and words, in dictionaries and sequences.
        saved: what a file holds instead.
    """
    if isinstance(own, Tensor):
        _check_tensor(name, own, saved)
    elif isinstance(own, Mapping):
        if not isinstance(saved, Mapping) or set(saved) != set(own):
            raise ValueError(f"{name} has other keys")
        for key, value in own.items():
            check_alike(str(key), value, saved[key])
    elif isinstance(own, (list, tuple)):
        if type(saved) is not type(own) or len(saved) != len(own):
            raise ValueError(f"{name} has another length")
        for value, other in zip(own, saved, strict=True):
            check_alike(name, value, other)
    elif isinstance(own, (int, float)) and not isinstance(own, bool):
        check_number(name, saved, whole=isinstance(own, int))
    elif type(saved) is not type(own) or (isinstance(own, (bool, str)) and saved != own):
        raise ValueError(f"{name} is another value")


def check_number(name: str, value: Any, *, whole: bool) -> None:
    """Raise ValueError unless a value is a finite number, a whole one being a count."""
    right = (
        type(value) is int and 0 <= value <= _MOST if whole else type(value) in (int, float) and abs(value) < math.inf
    )
    if not right:
        raise ValueError(f"{name} is {str(value)[:50]!r}, needs a {'count' if whole else 'finite number'}")


def _check_tensor(name: str, own: Tensor, saved: Any) -> None:
    given = isinstance(saved, Tensor) and saved.layout == torch.strided and saved.device.type == "cpu"
    if not given or saved.shape != own.shape or saved.dtype != own.dtype:
        raise ValueError(f"{name} is no {own.dtype} of shape {list(own.shape)}")
    if not own.is_floating_point():  # positions: training does not move them
        counts = name.endswith(_COUNTED) and bool((saved >= 0).all())
        if not counts and not torch.equal(saved, own.cpu()):
            raise ValueError(f"{name} differs, which training does not change")


def check_optimizer(optimizer: torch.optim.Optimizer, saved: Any) -> None:
    """Raise ValueError unless a saved state is one that an optimizer could have come to.

    Args:
        optimizer: SGD or AdamW.
        saved: what a file holds instead of its `state_dict`.
    """
    own = optimizer.state_dict()["param_groups"]
    if set(saved) != {"state", "param_groups"} or len(saved["param_groups"]) != len(own):
        raise ValueError("the optimizer has other keys")
    for group, other in zip(own, saved["param_groups"], strict=True):
        check_number("lr", other["lr"], whole=False)
        if other != {**group, "lr": other["lr"]}:
            raise ValueError("the optimizer has other settings")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known = _REMEMBERED[type(optimizer)]
    for index, entries in saved["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters) or not set(entries) <= known:
            raise ValueError("the optimizer remembers other things")
        for name, value in entries.items():
            if name == "step":
                check_number(name, value.item(), whole=False)
                if not 0 <= value.item() <= _MOST:
                    raise ValueError(f"the optimizer is at step {value.item()}")
            elif value is not None:
                _check_tensor(name, parameters[index], value)

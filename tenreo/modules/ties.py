"""The tensors of a model that a file holds, each of them once."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def tied_names(model: nn.Module) -> dict[str, str]:
    """Name of every tensor in a model's state dict -> the first name of the same tensor.

    >>> net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    >>> net[1].weight = net[0].weight
    >>> tied_names(net)
    {'0.weight': '0.weight', '1.weight': '0.weight'}

    Args:
        model: any module; what has no values, as lazy layers have before their first use, is left out, and so is what
            `get_extra_state` gives unless it is a tensor.
    """
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)  # the parameters and buffers themselves, which tell ties
    return {name: first.setdefault(id(x), name) for name, x in state.items() if has_values(x)}


def has_values(value: object) -> bool:
    """Whether what is in a state dict is a tensor that has a shape and values."""
    return isinstance(value, Tensor) and not is_lazy(value)


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's state dict under their first names, detached."""
    state = model.state_dict()
    return {name: state[name].detach() for name in dict.fromkeys(tied_names(model).values())}

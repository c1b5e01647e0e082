"""The tensors of a state dict without duplicates of tied tensors."""

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tenreo.errors import TenreoError


def tied_names(model: nn.Module) -> dict[str, str]:
    """Return, for the name of every tensor in a model's state dict, the first name of the same tensor.

    Lazy parameters without values are left out, as are results of `get_extra_state` that are not tensors.

    >>> net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    >>> net[1].weight = net[0].weight
    >>> tied_names(net)
    {'0.weight': '0.weight', '1.weight': '0.weight'}
    """
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)  # the parameter objects themselves; detached tensors would be new objects
    return {name: first.setdefault(id(x), name) for name, x in state.items() if has_values(x)}


def check_has_values(model: nn.Module) -> None:
    """Check that no parameter and no buffer of a model is on the meta device.

    Raises:
        TenreoError: naming the first one that is.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta:
            raise TenreoError(
                f"model: {name} is on the meta device, without values; build the model on the CPU, or call "
                "model.to_empty(device='cpu') and load weights into it"
            )


def has_values(value: object) -> bool:
    """Whether a value of a state dict is a tensor with a shape and values."""
    return isinstance(value, Tensor) and not is_lazy(value)


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model's state dict under their first names, detached."""
    state = model.state_dict()
    return {name: state[name].detach() for name in dict.fromkeys(tied_names(model).values())}

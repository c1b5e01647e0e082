"""Wrappers around a model: data parallelism, averaged weights, compilation and sharding."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tenreo.errors import TenreoError

_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside any number of wrappers.

    >>> unwrapped(nn.DataParallel(AveragedModel(nn.Linear(3, 2))))
    Linear(in_features=3, out_features=2, bias=True)

    Raises:
        TenreoError: if it is not a module, or is compiled by torch.jit.
    """
    if not isinstance(model, nn.Module):
        raise TenreoError(
            f"model: given an object of type {type(model).__name__}, needs a torch.nn.Module; load a state dict into "
            "its model first, or a file with tenreo.load"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TenreoError(
            "model: is compiled by torch.jit, whose layers cannot be replaced; give the model that it was made from"
        )
    while True:
        # The class that torch.compile returns is not public, but the name of its child is fixed.
        inner = model.module if isinstance(model, _WRAPPERS) else model._modules.get("_orig_mod")
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def require_replaceable(model: nn.Module) -> nn.Module:
    """Return the unwrapped model after checking that its parameters may be replaced.

    Raises:
        TenreoError: when it is not a module, when it is in DistributedDataParallel, which keeps references to the
            parameters that it was given, or when its parameters are sharded.
    """
    inner = unwrapped(model)
    check_unsharded(model)
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise TenreoError(
            "model: is in DistributedDataParallel, which keeps the parameters that it was given; compress or expand "
            "the model before wrapping it"
        )
    return inner


def check_unsharded(model: nn.Module) -> None:
    """Check that this process has all parameters completely.

    Raises:
        TenreoError: with the name of a parameter that is sharded over processes.
    """
    name = next((name for name, value in model.named_parameters() if hasattr(value, "full_tensor")), None)
    if name is not None:
        raise TenreoError(
            f"model: {name} is sharded over several processes; save the model with tenreo.save in each of them, and "
            "load that file"
        )


def full_tensor(value: Tensor) -> Tensor:
    """Return a tensor with all its shards; every process that has a shard must call this."""
    whole: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value  # only a DTensor has the method
    return whole

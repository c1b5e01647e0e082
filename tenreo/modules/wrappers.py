"""What training programs put around a model: data parallelism, averages of weights, compilation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tenreo.errors import TenreoError

_HOLDERS = (DataParallel, DistributedDataParallel, AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without what is put around it, however often.

    >>> unwrapped(nn.DataParallel(AveragedModel(nn.Linear(3, 2))))
    Linear(in_features=3, out_features=2, bias=True)
    """
    while True:
        compiled = model._modules.get("_orig_mod")  # torch.compile's; its class is not public
        inner = model.module if isinstance(model, _HOLDERS) else compiled
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def require_replaceable(model: nn.Module) -> nn.Module:
    """The model itself, where its parameters may be replaced.

    Raises:
        TenreoError: when DistributedDataParallel is around it, which keeps the parameters that it found, or processes
            share its parameters.
    """
    check_whole(model)
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise TenreoError(
            "model: is in DistributedDataParallel, which keeps the parameters that it found; compress or expand the "
            "model first, and wrap it then"
        )
    return unwrapped(model)


def check_whole(model: nn.Module) -> None:
    """Raise where each process has a part of the parameters alone.

    Raises:
        TenreoError: naming one of them.
    """
    name = next((name for name, value in model.named_parameters() if is_sharded(value)), None)
    if name is not None:
        raise TenreoError(
            f"model: {name} is sharded over several processes; save the model with tenreo.save in each of them, and "
            "use what tenreo.load gives"
        )


def is_sharded(value: object) -> bool:
    """Whether a tensor is a part of one that processes share (DTensor)."""
    return hasattr(value, "full_tensor")


def full_tensor(value: Tensor) -> Tensor:
    """The whole tensor, where it is sharded over processes; each of them has to ask for it."""
    whole: Tensor = value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]
    return whole

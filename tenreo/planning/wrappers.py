"""What training programs put around a model: data parallelism, averages of weights, compilation."""

from __future__ import annotations

from torch import nn
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


def changeable(model: nn.Module) -> nn.Module:
    """The model itself, where its parameters may be replaced.

    Raises:
        TenreoError: when DistributedDataParallel is around it, which keeps the parameters that it found.
    """
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise TenreoError(
            "model: is in DistributedDataParallel, which keeps the parameters that it found; compress or expand the "
            "model first, and wrap it then"
        )
    return unwrapped(model)

"""What training programs put around a model: data parallelism, averages of weights, compilation."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

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

"""Divergence of a training run: a loss, weights or statistics that are not finite."""

import math

import torch
from torch import nn

from tenreo.distributed import ProcessGroup
from tenreo.errors import TenreoError
from tenreo.modules.layer_types import is_batchnorm


def check_loss(loss: float, epoch: int, images: str = "training") -> None:
    """Raise TenreoError unless the loss of an epoch on training or evaluation images is finite."""
    if not math.isfinite(loss):
        raise _diverged(f"the loss became {loss} in epoch {epoch} on the {images} images")


def check_weights(model: nn.Module, epoch: int, group: ProcessGroup) -> None:
    """Raise TenreoError, in all processes, unless the parameters and BatchNorm statistics of all are finite.

    Otherwise a state or a model file would be written that is of no use.
    """
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        if is_batchnorm(module):
            tensors |= {f"{name}.{key}": buffer for key, buffer in module.named_buffers(recurse=False)}
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])
    infinite = group.sum((~finite).sum())  # of all processes
    if infinite:
        wrong = next((name for name, each in zip(tensors, finite.tolist(), strict=True) if not each), "")
        value = "nan" if wrong and tensors[wrong].isnan().any() else "inf"
        raise _diverged(
            f"the loss became {value} in epoch {epoch} ({wrong or 'a weight in another process'} is {value})"
        )


def _diverged(what: str) -> TenreoError:
    return TenreoError(
        f"{what}; start again with a smaller learning rate, a warm-up or gradient clipping (the model files "
        "of the epoch before are unchanged)"
    )

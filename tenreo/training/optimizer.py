"""The trainable parameters, and their optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tenreo.codec.shape import Basis
from tenreo.compression.parametrization import curves
from tenreo.errors import TenreoError
from tenreo.modules.layer_types import is_batchnorm
from tenreo.training.settings import Freeze, Optimizer, Settings, default_lr


@contextmanager
def frozen(model: nn.Module, freeze: Freeze, batchnorm: bool = False) -> Iterator[None]:
    """Disable the gradients of the frozen parameters inside the context.

    Args:
        model: compressed or dense model.
        freeze: group of parameters to freeze.
        batchnorm: whether to freeze the parameters of every BatchNorm as well.

    Raises:
        TenreoError: if no parameter is left to train.
    """
    coefficients = {id(curve.coefficients) for curve in curves(model)}
    batchnorms = {id(p) for m in model.modules() if batchnorm and is_batchnorm(m) for p in m.parameters(recurse=False)}

    def is_frozen(parameter: nn.Parameter) -> bool:
        chosen = Freeze.COEFFICIENTS if id(parameter) in coefficients else Freeze.DENSE
        return freeze == chosen or id(parameter) in batchnorms

    parameters = [p for p in model.parameters() if p.requires_grad and is_frozen(p)]
    for p in parameters:
        p.requires_grad_(False)
    try:
        if not any(p.requires_grad for p in model.parameters()):
            raise TenreoError(
                f"freeze: given {str(freeze)!r}, which leaves no parameter to train; freeze fewer parameters"
            )
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def set_training_mode(model: nn.Module, freeze: Freeze, batchnorm: bool = False) -> None:
    """Set a model to training mode, except frozen BatchNorms, whose running statistics then do not change.

    Args:
        model: model inside the context of `frozen`.
        freeze: group of parameters that is frozen.
        batchnorm: whether every BatchNorm is frozen.
    """
    model.train()
    for module in model.modules():
        if is_batchnorm(module):
            own = list(module.parameters(recurse=False))
            if not any(p.requires_grad for p in own) and (own or batchnorm or freeze == Freeze.DENSE):
                module.eval()


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Create the optimizer of all trainable parameters; `lr_scale` of a group is a factor of its learning rate."""
    lr = default_lr(None) if settings.lr is None else settings.lr
    parameters = _parameter_groups(model, settings)
    if settings.optimizer == Optimizer.ADAMW:
        return torch.optim.AdamW(parameters, lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, lr, settings.momentum, weight_decay=settings.weight_decay)


def _parameter_groups(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate and weight decay.

    Several columns of a weight may use the same sample of the curve, and each adds its gradient to that sample. A
    gradient step of the coefficients therefore changes the weight by T' T D times the gradient of the weight, where T
    is the transform and D is the diagonal matrix of the number of columns per sample. SGD compensates with the
    inverse of the mean of D, samples / columns. The mean is 1 in the paper's encoding, and thousands on curves of one
    row. The functions of a ramp have the maximum 1 instead of the norm 1, so it counts as one sample. AdamW needs no
    compensation, because its steps do not depend on the scale of the gradient.
    """
    samples_per_column = {
        id(curve.coefficients): samples / max(1, curve.record.columns)
        for curve in curves(model)
        for samples in [1 if curve.weight.curve.basis is Basis.RAMP else curve.weight.curve.length]
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        ratio = samples_per_column.get(id(parameter), 1.0) if settings.optimizer == Optimizer.SGD else 1.0
        scale = ratio if id(parameter) in samples_per_column else settings.dense_lr_scale
        if parameter.requires_grad:
            groups.setdefault((scale, ratio), []).append(parameter)
    # The division undoes the scale of the learning rate: the decoded weights decay at the rate of dense weights.
    return [
        {"params": group, "lr_scale": scale, "weight_decay": settings.weight_decay / ratio}
        for (scale, ratio), group in groups.items()
    ]

"""Which parameters are trained, and by which optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tenreo.compression.parametrization import curves
from tenreo.errors import TenreoError
from tenreo.modules.layer_types import is_batchnorm
from tenreo.training.settings import Freeze, Optimizer, Settings, default_lr


@contextmanager
def frozen(model: nn.Module, what: Freeze, batchnorm: bool = False) -> Iterator[None]:
    """Keep some parameters from being trained inside the context.

    Args:
        model: compressed.
        what: nothing, coefficients, or dense (all that is not coefficients).
        batchnorm: every BatchNorm as well.

    Raises:
        TenreoError: when nothing is left to train.
    """
    coefficients = _coefficients(model)
    norms = {id(p) for m in model.modules() if batchnorm and is_batchnorm(m) for p in m.parameters(recurse=False)}
    chosen = [
        p
        for p in model.parameters()
        if p.requires_grad
        and (id(p) in norms or (what != Freeze.NOTHING and (id(p) in coefficients) == (what == Freeze.COEFFICIENTS)))
    ]
    for p in chosen:
        p.requires_grad_(False)
    try:
        if not any(p.requires_grad for p in model.parameters()):
            raise TenreoError(f"freeze: given {str(what)!r}, which leaves nothing to train; freeze less")
        yield
    finally:
        for p in chosen:
            p.requires_grad_(True)


def _coefficients(model: nn.Module) -> set[int]:
    return {id(curve.coefficients) for curve in curves(model)}


def training_mode(model: nn.Module, what: Freeze, batchnorm: bool = False) -> None:
    """Set a model to training, but for the BatchNorms that are frozen: their running statistics stay as well.

    Args:
        model: inside `frozen`.
        what: is frozen.
        batchnorm: every BatchNorm is.
    """
    model.train()
    for module in model.modules():
        if is_batchnorm(module):
            own = list(module.parameters(recurse=False))
            if not any(p.requires_grad for p in own) and (own or batchnorm or what == Freeze.DENSE):
                module.eval()


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of everything that requires a gradient; `lr_scale` of a group is a factor of its learning rate."""
    lr = default_lr(None) if settings.lr is None else settings.lr
    parameters = _by_rate(model, settings)
    if settings.optimizer == Optimizer.ADAMW:
        return torch.optim.AdamW(parameters, lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, lr, settings.momentum, weight_decay=settings.weight_decay)


def _by_rate(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """What is trained, in groups of one rate.

    A step along the gradient of a curve moves the weights as often as columns share a sample: with T the transform and
    D the columns at each sample, by T' T D of their own gradient. Gradient descent divides that by the mean of D,
    columns / samples, which is 1 in the paper's encoding and thousands on curves of one row.
    """
    shares = {
        id(curve.coefficients): curve.weight.curve.length / max(1, curve.record.columns)
        for curve in curves(model)
    }  # fmt: skip
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        share = shares.get(id(parameter), 1.0) if settings.optimizer == Optimizer.SGD else 1.0
        scale = share if id(parameter) in shares else settings.dense_lr_scale
        if parameter.requires_grad:
            groups.setdefault((scale, share), []).append(parameter)
    # Weight decay is of the weights, and a coefficient stands for them all alike.
    return [
        {"params": group, "lr_scale": scale, "weight_decay": settings.weight_decay / share}
        for (scale, share), group in groups.items()
    ]

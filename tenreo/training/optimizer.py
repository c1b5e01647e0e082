"""Which parameters are trained, and by which optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tenreo.compression.corrected_layers import is_batchnorm
from tenreo.compression.parametrization import curves
from tenreo.errors import TenreoError
from tenreo.training.settings import Freeze, Optimizer, Settings, default_lr


@contextmanager
def frozen(model: nn.Module, what: Freeze) -> Iterator[None]:
    """Keep some parameters from being trained inside the context.

    Args:
        model: compressed.
        what: nothing, coefficients, or dense (all that is not coefficients).

    Raises:
        TenreoError: when nothing is left to train.
    """
    coefficients = {id(curve.coefficients) for curve in curves(model)}
    chosen = [
        p
        for p in model.parameters()
        if p.requires_grad and what != Freeze.NOTHING and (id(p) in coefficients) == (what == Freeze.COEFFICIENTS)
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


def training_mode(model: nn.Module, what: Freeze) -> None:
    """Set a model to training, but for the BatchNorms that are frozen: their running statistics stay as well.

    Args:
        model: inside `frozen`.
        what: is frozen.
    """
    model.train()
    for module in model.modules():
        if is_batchnorm(module):
            own = list(module.parameters(recurse=False))
            if not any(p.requires_grad for p in own) and (own or what == Freeze.DENSE):
                module.eval()


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of everything that requires a gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    lr = default_lr(None) if settings.lr is None else settings.lr
    if settings.optimizer == Optimizer.ADAMW:
        return torch.optim.AdamW(parameters, lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, lr, settings.momentum, weight_decay=settings.weight_decay)

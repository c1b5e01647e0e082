"""Which parameters are trained, and by which optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tenreo.compression.corrected_layers import is_batchnorm
from tenreo.compression.parametrization import curves
from tenreo.errors import TenreoError
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
    trained = [p for p in model.parameters() if p.requires_grad]
    parameters: list[dict[str, Any]] = [{"params": trained, "lr_scale": 1.0}]
    if settings.dense_lr_scale != 1:
        coefficients = _coefficients(model)
        parts = [[p for p in trained if (id(p) in coefficients) == own] for own in (True, False)]
        groups = zip(parts, (1.0, settings.dense_lr_scale), strict=True)
        parameters = [{"params": part, "lr_scale": scale} for part, scale in groups if part]
    if settings.optimizer == Optimizer.ADAMW:
        return torch.optim.AdamW(parameters, lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, lr, settings.momentum, weight_decay=settings.weight_decay)

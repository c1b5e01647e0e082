"""Which parameters are trained, and by which optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tenreo.compression import curves
from tenreo.errors import TenreoError
from tenreo.settings import Settings


@contextmanager
def frozen(model: nn.Module, what: str) -> Iterator[None]:
    """Keep some parameters from being trained for a while.

    Args:
        model: compressed.
        what: nothing, coefficients, or others (all that is not coefficients).

    Raises:
        TenreoError: when nothing is left to train.
    """
    coefficients = {id(layer.parametrizations.weight.original) for _, layer, _ in curves(model)}  # type: ignore[union-attr]
    chosen = [
        p
        for p in model.parameters()
        if p.requires_grad and what != "nothing" and (id(p) in coefficients) == (what == "coefficients")
    ]
    for p in chosen:
        p.requires_grad_(False)
    try:
        if not any(p.requires_grad for p in model.parameters()):
            raise TenreoError(f"freeze: given {what!r}, which leaves nothing to train; freeze less")
        yield
    finally:
        for p in chosen:
            p.requires_grad_(True)


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of everything that requires a gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay)

"""A new last layer for other classes."""

from __future__ import annotations

import torch
from torch import nn

from tenreo.errors import TenreoError


def new_head_(model: nn.Module, classes: int | None, wanted: int, seed: int = 0) -> None:
    """Replace the last layer of a model by a random dense one, in place.

    Args:
        model: dense or compressed, whose last Linear or Conv2d makes its outputs.
        classes: outputs that it has; None takes what the last layer says.
        wanted: outputs that it shall have.
        seed: of the new weights.

    Raises:
        TenreoError: when its last layer does not make as many outputs.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    name, old = layers[-1] if layers else ("", None)
    made = 0 if old is None else old.out_features if isinstance(old, nn.Linear) else old.out_channels
    if old is None or made != (classes or made):
        raise TenreoError(
            f"classes: the last layer of this model ({name or 'none'}) has {made} outputs, the model {classes}; give "
            "a model that ends in a Linear or Conv2d"
        )
    torch.manual_seed(seed)
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, wanted, bias=old.bias is not None)
    else:
        new = nn.Conv2d(old.in_channels, wanted, 1, bias=old.bias is not None)
    nn.init.normal_(new.weight, std=0.01)  # so that the first gradients are not those of wrong certainty
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, new)

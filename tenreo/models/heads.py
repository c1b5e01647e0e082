"""The last layer of a model, which computes its outputs, and its replacement for another number of outputs."""

import torch
from torch import nn

from tenreo.errors import TenreoError


def last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d | None, int]:
    """Return name, module and number of outputs of a model's last Linear or Conv2d; ("", None, 0) if it has none."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    if not layers:
        return "", None, 0
    name, layer = layers[-1]
    return name, layer, layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def new_head_(model: nn.Module, classes: int | None, wanted: int, seed: int = 0) -> None:
    """Replace the last layer of a model by a dense one with random weights, in place.

    Args:
        model: dense or compressed model whose last Linear or Conv2d computes its outputs.
        classes: number of outputs of the model; None takes that of its last layer.
        wanted: number of outputs of the new layer.
        seed: seed of the new weights.

    Raises:
        TenreoError: if the last layer does not have `classes` outputs.
    """
    name, old, outputs = last_layer(model)
    if old is None or outputs != (classes or outputs):
        raise TenreoError(
            f"classes: the last layer of this model ({name or 'none'}) has {outputs} outputs, the model {classes}; "
            "give a model that ends in a Linear or Conv2d"
        )
    torch.manual_seed(seed)
    new: nn.Linear | nn.Conv2d
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, wanted, bias=old.bias is not None)
    else:
        new = nn.Conv2d(old.in_channels, wanted, 1, bias=old.bias is not None)
    nn.init.normal_(new.weight, std=0.01)  # nearly equal logits: the first gradients come from no confident mistakes
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)

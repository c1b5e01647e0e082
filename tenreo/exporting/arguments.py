"""The arguments with which a model is traced and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tenreo.errors import shown
from tenreo.models.inputs import arguments_of, input_shape

_BATCH = 2  # a dimension of size 1 would be exported as a constant

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named


def example_inputs(model: nn.Module, size: int | tuple[int, ...] | None = None) -> tuple[Any, ...]:
    """Return the positional arguments of a call with random images.

    Args:
        model: compressed or dense model.
        size: side of the images in pixels, or the shape of one input; by default it is taken from the model.

    Raises:
        TenreoError: if the model does not take images, or their size is not known.
    """
    generator = torch.Generator().manual_seed(0)
    return arguments_of(model, torch.randn(_BATCH, *input_shape(model, size), generator=generator))


def call_arguments(model: nn.Module, inputs: Any) -> Arguments:
    """Return the arguments that given inputs stand for; None stands for random images."""
    if inputs is None:
        inputs = example_inputs(model)
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def cast(arguments: Arguments, model: nn.Module) -> Arguments:
    """Return the arguments on a model's device, floating-point tensors in its dtype."""
    known = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(known) if value.is_floating_point() else value.to(known.device)

    result: Arguments = tree_map(move, arguments)
    return result


def first_line(error: Exception) -> str:
    """Return the first line of an error's text that is not blank, or the name of its class."""
    return shown(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))

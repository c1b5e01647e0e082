"""Running a model on a batch, whatever the model takes: tensors, pairs, dictionaries, tuples, lists of images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.errors import TenreoError

Forward = Callable[[nn.Module, Any], Any]  # (model, batch) -> anything


def batches_of(images: Any) -> Iterable[Any]:
    """An iterable of batches; a single tensor or dictionary is one batch.

    >>> [batch.shape for batch in batches_of(torch.zeros(4, 3, 8, 8))]
    [torch.Size([4, 3, 8, 8])]
    """
    return [images] if isinstance(images, (Tensor, Mapping)) else images


def run(model: nn.Module, batch: Any, forward: Forward | None = None) -> None:
    """Run a model on a batch, on the model's device.

    Args:
        model: any module.
        batch: a tensor, an (images, labels) pair, a tuple or dictionary of arguments, or a list of images.
        forward: runs the model on the batch as it comes, where the model takes its inputs in another way.

    Raises:
        TenreoError: when the model does not take the batch.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    moved = _to(batch, device)
    try:
        if forward is not None:
            forward(model, moved)
        else:
            positional, named = _arguments(model, moved)
            model(*positional, **named)
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError) as error:
        raise TenreoError(
            f"statistics: the model does not take {_describe(batch)}: {error}; where it takes its inputs in "
            "another way, give forward=lambda model, batch: ..."
        ) from error


def image_count(batch: Any) -> int:
    """The number of images in a batch.

    >>> image_count((torch.zeros(4, 3, 8, 8), torch.zeros(4)))
    4
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    if isinstance(batch, Mapping):
        return max((image_count(value) for value in batch.values() if isinstance(value, Tensor)), default=1)
    if isinstance(batch, (list, tuple)) and batch:
        return len(batch) if _is_image_list(batch) else image_count(batch[0])
    return 1


def _arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What of a batch a model's forward takes: by name from a dictionary, else as many as it requires."""
    if isinstance(batch, Tensor) or _is_image_list(batch):
        return (batch,), {}
    parameters = inspect.signature(model.forward).parameters.values()
    if isinstance(batch, Mapping):
        every = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters}
        return (), {name: value for name, value in batch.items() if every or name in names}
    if isinstance(batch, (list, tuple)) and batch:
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = sum(p.kind in positional and p.default is p.empty for p in parameters)
        return (tuple(batch[:needed]), {}) if needed > 1 else _arguments(model, batch[0])
    raise TypeError("not a tensor, a tuple, a list or a dictionary")


def _is_image_list(batch: Any) -> bool:
    """Whether a batch is a list of images (channels, height, width) of any size, as detectors take them."""
    if not isinstance(batch, (list, tuple)) or not batch:
        return False
    return all(isinstance(x, Tensor) and x.dim() == 3 and x.is_floating_point() for x in batch)


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _to(value, device) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [_to(value, device) for value in batch]
    return batch


def _describe(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"images of shape {list(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"a dictionary of {', '.join(map(str, batch)) or 'nothing'}"
    if isinstance(batch, (list, tuple)):
        return f"a {type(batch).__name__} of {', '.join(map(_describe, batch[:3])) or 'nothing'}"
    return f"a {type(batch).__name__}"

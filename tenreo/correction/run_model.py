"""Run a model on batches: tensors, (images, labels) pairs, tuples or dictionaries of arguments, or lists of images."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.errors import TenreoError, raise_if_out_of_memory, shown

Forward = Callable[[nn.Module, Any], Any]  # (model, batch) -> outputs


def batches_of(images: Any) -> Iterable[Any]:
    """Return an iterable of batches; a single tensor or dictionary becomes one batch.

    >>> [batch.shape for batch in batches_of(torch.zeros(4, 3, 8, 8))]
    [torch.Size([4, 3, 8, 8])]

    Raises:
        TenreoError: if the images cannot be iterated over, or are a path.
    """
    if isinstance(images, str | bytes) or not (hasattr(images, "__iter__") or hasattr(images, "__getitem__")):
        raise TenreoError(f"images: given {shown(images)}, needs a tensor, or an iterable of batches")
    return [images] if isinstance(images, (Tensor, Mapping)) else images


def run_batch(model: nn.Module, batch: Any, forward: Forward | None = None) -> Any:
    """Move a batch to the model's device, run the model on it, and return its outputs.

    If `forward` is given, it is called with the model and the moved batch instead of the model itself.

    Raises:
        TenreoError: if the model cannot process the batch.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    moved = _to(batch, device)
    try:
        if forward is not None:
            return forward(model, moved)
        positional, named = _arguments(model, moved)
        return model(*positional, **named)
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError) as error:
        raise_if_out_of_memory(error)
        raise TenreoError(
            f"the model cannot process {_describe(batch)}: {error}; if it needs its inputs in "
            "another form, pass forward=lambda model, batch: ..."
        ) from error


def image_count(batch: Any) -> int:
    """Return the number of images in a batch.

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
    """Return the positional and the keyword arguments for `forward`.

    A dictionary is filtered by the names of the parameters; a tuple is cut to the number of required parameters.
    """
    if isinstance(batch, Tensor) or _is_image_list(batch):
        return (batch,), {}
    parameters = inspect.signature(model.forward).parameters.values()
    if isinstance(batch, Mapping):
        accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters}
        return (), {name: value for name, value in batch.items() if accepts_any or name in names}
    if isinstance(batch, (list, tuple)) and batch:
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = sum(p.kind in positional and p.default is p.empty for p in parameters)
        return (tuple(batch[:needed]), {}) if needed > 1 else _arguments(model, batch[0])
    raise TypeError("a batch must be a tensor, a tuple, a list or a dictionary")


def _is_image_list(batch: Any) -> bool:
    """Return whether a batch is a list of (channels, height, width) images, the input of detectors."""
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

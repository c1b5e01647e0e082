"""Copies of a model's modules that share its tensors, so that several threads can use one model."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from threading import Lock

from torch import Tensor, nn

from tenreo.errors import TenreoError, raise_if_out_of_memory

_lock = Lock()
_changed: set[int] = set()  # `id`s of models that a thread changes at the moment
_read: Counter[int] = Counter()  # number of threads that read a model while they change another one


@contextmanager
def in_use(changed: nn.Module, read: nn.Module | None = None) -> Iterator[None]:
    """Reserve, inside the context, a model that this thread changes and one that must not change in the meantime.

    Raises:
        TenreoError: if another thread changes one of them, or reads the first one.
    """
    with _lock:
        if id(changed) in _changed or _read[id(changed)] or id(read) in _changed:
            raise TenreoError(
                "model: another thread is changing or measuring this model; give every thread its own copy to change"
            )
        _changed.add(id(changed))
        _read[id(read)] += 1
    try:
        yield
    finally:
        with _lock:
            _changed.remove(id(changed))
            _read[id(read)] -= 1


def sharing_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model that shares its tensors, but has its own modules with their own modes and hooks.

    Hooks and modes of the model itself would be seen by other threads that use the model at the same time.

    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> copy = sharing_copy(model).eval()
    >>> model.training, copy[0].weight is model[0].weight
    (True, True)

    Raises:
        TenreoError: if the model cannot be copied.
    """
    tensors = [
        value
        for module in model.modules()
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        if isinstance(value, Tensor)
    ]
    try:
        return deepcopy(model, {id(tensor): tensor for tensor in tensors})
    except Exception as error:  # an attribute of a model may be of any type
        raise_if_out_of_memory(error)
        raise TenreoError(
            f"model: {type(model).__name__} cannot be copied: {error}; make copy.deepcopy(model) work"
        ) from error


def evaluating(model: nn.Module) -> nn.Module:
    """Return a model in evaluation mode: itself if it is in this mode, or a copy that shares its tensors.

    Raises:
        TenreoError: if the model is in training mode and cannot be copied.
    """
    return sharing_copy(model).eval() if any(module.training for module in model.modules()) else model

"""Tensors that do not fit a model by their names, shapes or values, and the reason where it is plain."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor

from tenreo.errors import TenreoError

_SHOWN = 3  # names of each kind

Shapes = Mapping[str, tuple[int, ...]]  # by name in a file


class MisfitError(TenreoError):
    """Names or shapes are not those of the model, and the reason is not told."""


def check_fit(source: object, own: Shapes, given: Shapes, optional: Container[str]) -> None:
    """Raise unless tensors have the names and shapes of a model.

    Args:
        source: where the tensors come from, for the message.
        own: shapes of the model.
        given: shapes of the tensors.
        optional: names that may be missing.

    Raises:
        TenreoError: naming three of each kind at most, and how many there are; a `MisfitError` unless the number of
            classes alone is another one.
    """
    missing = [name for name in own if name not in given and name not in optional]
    extra = sorted(set(given) - set(own))
    wrong = [name for name in own if name in given and given[name] != own[name]]
    shapes = [f"{name} {list(given[name])} instead of {list(own[name])}" for name in wrong]
    kinds = (("missing", missing), ("not expected", extra), ("shape", shapes))
    problems = [f"{what}: {some(names)}" for what, names in kinds if names]
    if problems:
        classes = "" if missing or extra else _other_classes(own, given, wrong)
        kind = TenreoError if classes else MisfitError
        raise kind(f"{source} does not fit the model; {'; '.join(problems)}{classes}")


def some(names: Sequence[str]) -> str:
    """The first names, and how many there are in all where that is more.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    rest = len(names) - _SHOWN
    return f"{', '.join(names[:_SHOWN])}{f' and {rest:,} more' if rest > 0 else ''}"


def _other_classes(own: Shapes, given: Shapes, wrong: list[str]) -> str:
    """That the outputs differ in number, where nothing else is wrong than the last layer's."""
    layer = wrong[-1].rpartition(".")[0]
    outputs = {(given[name][:1], own[name][:1]) for name in wrong}
    only = all(name.rpartition(".")[0] == layer for name in wrong) and list(own)[-1].rpartition(".")[0] == layer
    if not only or len(outputs) != 1 or not all(next(iter(outputs))):
        return ""
    (there,), (here,) = outputs.pop()
    return f"; these weights have {there} classes, the model has {here}"


def check_values(
    source: object, own: Mapping[str, Tensor], given: Mapping[str, Tensor], parameters: Container[str]
) -> None:
    """Raise unless parameters and statistics of BatchNorm are numbers that a model can have.

    Args:
        source: where the tensors come from, for the message.
        own: tensors of the model, whose kinds of dtype are needed.
        given: tensors to check; those that `own` has not are left alone.
        parameters: names of those that are parameters.

    Raises:
        TenreoError: naming the tensor.
    """
    for name in own:
        tensor = given.get(name)
        if tensor is None:
            continue
        if own[name].is_floating_point() != tensor.is_floating_point():
            raise TenreoError(f"{source}: {name} is {tensor.dtype}, the model's is {own[name].dtype}")
        statistics = name.endswith((".running_mean", ".running_var"))
        if (statistics or name in parameters) and not torch.isfinite(tensor).all():
            raise TenreoError(f"{source}: {name} holds NaN or infinity")
        if name.endswith(".running_var") and (tensor < 0).any():
            raise TenreoError(f"{source}: {name} holds a negative variance")

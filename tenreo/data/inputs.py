"""Inputs of any model: the arrays of a NumPy file, or the batches that a function returns."""

import inspect
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tenreo.correction.run_model import image_count
from tenreo.errors import TenreoError, raise_if_out_of_memory, shown
from tenreo.models.builders import find_function


@dataclass(frozen=True)
class Inputs:
    """Batches of inputs, which can be iterated any number of times.

    Attributes:
        source: file of arrays, or package.module:function, which returns an iterable of batches.
        batch_size: examples per batch of a file; a function decides on its own.
        limit: maximum number of examples; None for all.
    """

    source: Path | str
    batch_size: int = 64
    limit: int | None = None

    def of(self, model: nn.Module) -> Iterable[Any]:
        """Return the batches for a model: tensors, tuples or dictionaries of arguments, as `match_statistics_` takes.

        Arrays with the names of arguments of `forward` are a dictionary, and others a tuple in the order of the file.
        Floating-point arrays get the dtype of the model.

        Raises:
            TenreoError: if the file cannot be read; while iterating, if the function fails or returns no batches.
        """
        if isinstance(self.source, str):
            return _Batches(_calls(self.source), self.limit)
        arrays = read_arrays(self.source)
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        tensors = {name: x.to(dtype) if x.is_floating_point() else x for name, x in arrays.items()}
        named = set(tensors) & set(inspect.signature(model.forward).parameters)
        return _Batches(lambda: _parts(tensors if named else tuple(tensors.values()), self.batch_size), self.limit)

    def first(self, model: nn.Module, count: int) -> Any:
        """Return the arguments of a call of a model: the first examples, without those that `forward` does not take."""
        batch = next(iter(self.of(model)), None)
        if batch is None:
            raise TenreoError(f"inputs: {self.source} contains no batch; give at least one example")
        if isinstance(batch, Mapping):
            known = inspect.signature(model.forward).parameters
            batch = {name: value for name, value in batch.items() if name in known}
        elif isinstance(batch, (tuple, list)):
            parameters = inspect.signature(model.forward).parameters.values()
            batch = tuple(batch)[: max(1, sum(p.default is p.empty for p in parameters))]
        return _cut(batch, count)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read the arrays of a file of NumPy by name; they have the same number of examples, at least 1.

    Raises:
        TenreoError: if the file is not one, or an array is not numeric or has another length than the first.
    """
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = {"inputs": content} if isinstance(content, np.ndarray) else dict(content)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise_if_out_of_memory(error)
        objects = isinstance(error, ValueError) and "pickle" in str(error)
        reason = "objects are not read" if objects else (str(error).splitlines() or [type(error).__name__])[0]
        raise TenreoError(
            f"inputs: {path} is not a file of numeric arrays of NumPy ({reason}); use np.savez"
        ) from error
    lengths = {name: len(x) if x.dim() else 0 for name, x in tensors.items()}
    if not lengths or len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise TenreoError(f"inputs: {path} has {shown(lengths)} examples per array, needs the same number, at least 1")
    return tensors


def _calls(loader: str) -> Callable[[], Iterator[Any]]:
    """Return a function that yields the batches of a user's function."""
    function = find_function(loader, "loader")

    def batches() -> Iterator[Any]:
        """Yield what the function of the user yields."""
        try:
            yield from function()
        except Exception as error:  # the function is the user's
            raise_if_out_of_memory(error)
            raise TenreoError(
                f"loader: {loader} fails: {type(error).__name__}: {error}; it has to return batches"
            ) from error

    return batches


@dataclass(frozen=True)
class _Batches:
    """Batches that are made anew for every iteration, up to a number of examples."""

    make: Callable[[], Iterator[Any]]
    limit: int | None

    def __iter__(self) -> Iterator[Any]:
        left = self.limit
        for batch in self.make():
            if left is None:
                yield batch
                continue
            batch = _cut(batch, left)
            yield batch
            left -= image_count(batch)
            if left <= 0:
                return


def _parts(arrays: Any, size: int) -> Iterator[Any]:
    """Yield a dictionary or tuple of arrays in batches."""
    values = list(arrays.values()) if isinstance(arrays, Mapping) else list(arrays)
    for start in range(0, len(values[0]), size):
        parts = [value[start : start + size] for value in values]
        if isinstance(arrays, Mapping):
            yield dict(zip(arrays, parts, strict=True))
        else:
            yield parts[0] if len(parts) == 1 else tuple(parts)


def _cut(batch: Any, count: int) -> Any:
    """Return the first examples of a batch."""
    return tree_map(lambda x: x[:count] if isinstance(x, Tensor) and x.dim() else x, batch)

"""Verification of files: checksums, ranges, and that every tensor decodes; and their comparison with the originals."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tenreo.checkpoints.reading import read
from tenreo.codec.distortion import decibels, energy, finite
from tenreo.errors import TenreoError
from tenreo.files.checkpoints import find_files, read_index
from tenreo.files.tensor_reader import FileMapping, TensorFile


@dataclass(frozen=True)
class Comparison:
    """A tensor of a file next to the tensor of the same name of the original.

    Attributes:
        name: name of the tensor.
        numel: number of elements.
        squared_norm: squared norm of the original.
        squared_error: squared norm of the difference.
    """

    name: str
    numel: int
    squared_norm: float
    squared_error: float

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB; infinite if the tensors are equal."""
        return decibels(self.squared_norm, self.squared_error)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; an infinite ratio becomes None."""
        return {"name": self.name, "elements": self.numel, "snr": finite(self.snr)}


def faults(path: Path) -> Iterator[str]:
    """Read everything in a file or folder, and yield one line for each fault.

    Raises:
        TenreoError: if there are no files.
    """
    files = find_files(path)
    found: dict[str, str] = {}
    for each in files.weights:
        try:
            file = TensorFile(each)
        except TenreoError as error:
            yield str(error)
            continue
        yield from _faults_of(file)
        found |= dict.fromkeys(file.tensors, each.name)
    if files.index is not None and (named := read_index(files.index)) != found:
        wrong = sorted(name for name in named.keys() | found.keys() if named.get(name) != found.get(name))
        more = f", and of {len(wrong) - 1:,} other tensors" if len(wrong) > 1 else ""
        yield f"{files.index}: does not name the file of {wrong[0]}{more}"


def _faults_of(file: TensorFile) -> Iterator[str]:
    damaged: set[str] = set()
    for name in file.header.tensors:
        try:
            file.content(name)
        except TenreoError as error:
            damaged.add(name)
            yield str(error)
    for name in file.tensors:
        stored = {name, *(each for each in file.header.tensors if file.layer(name) and each.startswith(f"{name}."))}
        if damaged & stored or (name in file.header.coded and "tenreo.dense" in damaged):
            continue
        try:
            values = file.read(name)
        except TenreoError as error:
            yield str(error)
            continue
        if file.layer(name) is not None and not np.isfinite(values).all():
            yield f"{file.path}: {name} decodes to values that are not finite"


def differences(path: Path, original: Path) -> Iterator[str]:
    """Yield a line for every tensor that only one of two files or folders has, or whose shape differs."""
    own, dense = _shapes(path), _shapes(original)
    for name in sorted(own.keys() | dense.keys()):
        if name not in own or name not in dense:
            yield f"{name} is only in {path if name in own else original}"
        elif own[name] != dense[name]:
            yield f"{name} has the shape {list(own[name])}, the original's is {list(dense[name])}"


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    tensors = read(path)
    known = tensors.tensors if isinstance(tensors, FileMapping) else tensors
    return {name: tuple(each.shape) for name, each in known.items()}


def comparisons(path: Path, original: Path) -> Iterator[Comparison]:
    """Compare the tensors of a file or folder with those of the original that have the same names and shapes."""
    own, dense = read(path), read(original)
    for name in sorted(own.keys() & dense.keys()):
        left, right = dense[name], own[name]
        if left.shape == right.shape:
            yield Comparison(name, left.numel(), energy(left), energy(left, right))

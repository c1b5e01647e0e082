"""Runs of ONNX models in ONNX Runtime on given or random inputs, and the comparison of their outputs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenreo.errors import TenreoError, raise_if_out_of_memory, shown
from tenreo.exporting.programs import first_line
from tenreo.files.paths import opened

Arrays = dict[str, NDArray[Any]]
_BATCH, _CHANNELS, _SIDE, _LENGTH = 2, 3, 64, 16  # dynamic dimensions of random inputs
_MOST_NUMBERS = 1 << 26  # of a random input
_LOGITS = ("logit", "prob", "score")  # parts of the names of outputs that are logits, whatever their shape
_TYPES = {
    "float": "f4", "float16": "f2", "double": "f8", "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1",
    "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "bool": "?",
}  # fmt: skip


@dataclass(frozen=True)
class OutputDifference:
    """How much an output of a compressed model differs from that of the dense one.

    Attributes:
        name: name of the output.
        shape: shape of the output.
        relative: root of the mean squared difference, divided by that of the dense output.
        kl: mean KL(dense, compressed) of the softmax over the last dimension, in nats, for outputs that are logits or
            probabilities; None for others.
        agreement: percentage of the distributions with the same largest entry; None as for `kl`.
    """

    name: str
    shape: tuple[int, ...]
    relative: float
    kl: float | None = None
    agreement: float | None = None


class Runner:
    """An ONNX model in ONNX Runtime on the CPU.

    Args:
        model: path of a file, or the bytes of a model.
        name: what the model is called in messages.

    Raises:
        TenreoError: if ONNX Runtime cannot load the model.
    """

    def __init__(self, model: Path | bytes, name: str) -> None:
        import onnxruntime

        self.name = name
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised as well
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises errors of several classes
            raise_if_out_of_memory(error)
            raise TenreoError(f"{name}: cannot be loaded by ONNX Runtime: {first_line(error)}") from error
        self.inputs = {each.name: each for each in self.session.get_inputs()}

    def run(self, inputs: Arrays, constants: Arrays | None = None) -> Arrays:
        """Return the outputs by name, for batches that are as large as those that the model takes.

        Args:
            inputs: inputs by name.
            constants: inputs that are no batches, by name.

        Raises:
            TenreoError: if the model does not take the inputs.
        """
        parts = [self._run({**part, **(constants or {})}) for part in self._parts(inputs)]
        return {name: np.concatenate([part[name] for part in parts]) if len(parts) > 1 else parts[0][name]
                for name in parts[0]}  # fmt: skip

    def _run(self, inputs: Arrays) -> Arrays:
        try:
            outputs = self.session.run(None, inputs)
        except Exception as error:  # ONNX Runtime raises errors of several classes
            raise_if_out_of_memory(error)
            shapes = ", ".join(f"{name} {list(each.shape)}" for name, each in inputs.items())
            raise TenreoError(f"{self.name}: does not take {shapes}: {first_line(error)}") from error
        names = [each.name for each in self.session.get_outputs()]
        return {n: x for n, x in zip(names, outputs, strict=True) if isinstance(x, np.ndarray) and x.dtype.kind == "f"}

    def _parts(self, inputs: Arrays) -> Iterator[Arrays]:
        """Divide a batch if the model takes smaller ones only."""
        sizes: set[Any] = {
            each.shape[0] if each.shape else None for name, each in self.inputs.items() if name in inputs
        }
        counts: set[Any] = {len(each) if each.ndim else 0 for each in inputs.values()}
        size, count = (next(iter(x)) if len(x) == 1 else 0 for x in (sizes, counts))
        if not isinstance(size, int) or not 0 < size < count or count % size:
            yield inputs
            return
        for start in range(0, count, size):
            yield {name: each[start : start + size] for name, each in inputs.items()}


def given_inputs(path: Path, runner: Runner) -> Arrays:
    """Read inputs from an .npz file, whose arrays have the names of the model's inputs, or none and their order.

    Raises:
        TenreoError: if the file is damaged, or an input is missing or has another type.
    """
    try:
        with opened(path) as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except TenreoError:
        raise
    except Exception as error:  # a damaged file raises errors of several classes
        raise_if_out_of_memory(error)
        raise TenreoError(f"inputs: {path} is not an .npz file of arrays; write one with numpy.savez") from error
    if set(found) == {f"arr_{i}" for i in range(len(runner.inputs))}:
        found = dict(zip(runner.inputs, (found[f"arr_{i}"] for i in range(len(found))), strict=True))
    if set(found) != set(runner.inputs):
        raise TenreoError(
            f"inputs: {path} has {shown(sorted(found))}, needs the inputs of the model: {shown(sorted(runner.inputs))}"
        )
    for name, each in found.items():
        kind = _TYPES.get(_type_of(runner.inputs[name]), "O")
        if not np.can_cast(each.dtype, kind, "same_kind"):
            raise TenreoError(f"inputs: {name} has the type {each.dtype}, needs {runner.inputs[name].type}")
        found[name] = each.astype(kind)
    return {name: found[name] for name in runner.inputs}


def random_inputs(runner: Runner, tables: Mapping[str, int], seed: int = 0) -> Arrays:
    """Return random inputs: normal numbers, and integers that are rows of tables.

    Dynamic dimensions get small sizes: a batch of 2, 3 channels, 64 pixels, and sequences of 16.

    Args:
        runner: the model.
        tables: number of rows of the table that an input of integers looks up, by its name.
        seed: seed of the numbers.

    Raises:
        TenreoError: if no such inputs exist.
    """
    generator = np.random.default_rng(seed)
    return {name: _random(name, each, tables.get(name), generator) for name, each in runner.inputs.items()}


def _random(name: str, given: Any, rows: int | None, generator: np.random.Generator) -> NDArray[Any]:
    kind = _TYPES.get(_type_of(given))
    shape = [size if isinstance(size, int) else _dynamic(i, len(given.shape)) for i, size in enumerate(given.shape)]
    if kind is None or math.prod(shape) > _MOST_NUMBERS:
        raise TenreoError(f"{name}: no random numbers of the type {given.type} and shape {shown(shape)} are made")
    if kind[0] == "f":
        return generator.standard_normal(shape, np.float32).astype(kind)
    if rows is not None:
        return generator.integers(0, rows, shape).astype(kind)
    return np.ones(shape, kind)  # masks, for which zeros would leave nothing


def _dynamic(i: int, dimensions: int) -> int:
    """Return the size of a dynamic dimension."""
    if i == 0:
        return _BATCH
    if dimensions == 4:
        return _CHANNELS if i == 1 else _SIDE
    return _LENGTH


def _type_of(given: Any) -> str:
    return str(given.type).removeprefix("tensor(").removesuffix(")")


def compare_outputs(dense: Arrays, compressed: Arrays) -> list[OutputDifference]:
    """Return the difference of every floating-point output.

    Args:
        dense: outputs of the dense model by name.
        compressed: outputs of the compressed model for the same inputs.
    """
    pairs = ((name, dense[name].astype(np.float64), compressed[name].astype(np.float64)) for name in dense)
    return [_difference(name, a, b) for name, a, b in pairs if a.shape == b.shape and a.size]


def error_of(dense: Arrays, compressed: Arrays) -> float:
    """Return the sum over all outputs of the squared relative difference; infinity if one is not a number."""
    total = sum(each.relative**2 for each in compare_outputs(dense, compressed))
    return total if math.isfinite(total) else math.inf


def _difference(name: str, dense: NDArray[Any], own: NDArray[Any]) -> OutputDifference:
    relative = math.sqrt(float(np.square(own - dense).mean()) / max(float(np.square(dense).mean()), 1e-300))
    if not _are_logits(name, dense):
        return OutputDifference(name, dense.shape, relative)
    expected, found = (_log_probabilities(each) for each in (dense, own))
    kl = float((np.exp(expected) * (expected - found)).sum(-1).mean())
    agreement = 100 * float((expected.argmax(-1) == found.argmax(-1)).mean())
    return OutputDifference(name, dense.shape, relative, max(kl, 0.0), agreement)


def _are_logits(name: str, values: NDArray[Any]) -> bool:
    named = any(part in name.lower() for part in _LOGITS)
    return (
        values.ndim >= 2 and values.shape[-1] >= 2 and (named or values.ndim == 2) and bool(np.isfinite(values).all())
    )


def _log_probabilities(values: NDArray[Any]) -> NDArray[Any]:
    """Return the logarithms of the softmax of logits; probabilities are taken as they are."""
    if values.min() >= 0 and np.allclose(values.sum(-1), 1, atol=1e-2):
        return np.asarray(np.log(np.maximum(values, 1e-30)))
    shifted = values - values.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))

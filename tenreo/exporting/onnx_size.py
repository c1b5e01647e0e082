"""The search for a compressed model whose small ONNX model has a given size."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tenreo.errors import TenreoError
from tenreo.planning.rates import TargetSize
from tenreo.planning.recipe import Recipe

_TRIALS = 6
_LEAST_SLOPE = 0.25  # of the size of the ONNX model by the size of the file
_FIRST = 0.94  # size of the file, as a fraction of the size of the ONNX model
_WITHIN = 0.015  # accepted distance below the size, as a fraction of it

Made = TypeVar("Made")


def compress_for_onnx(recipe: Recipe, attempt: Callable[[Recipe], tuple[int, Made]], rest: int = 0) -> Made:
    """Compress a model so that its small ONNX model has at most the target size of a recipe, and nearly that size.

    The two sizes differ by the graph, and by the prefix codes that take the place of arithmetic codes. So each trial
    changes the size of the file by the bytes that the ONNX model of the trial before had too many, divided by the slope
    between the last two trials.

    Args:
        recipe: recipe with a `TargetSize`.
        attempt: function that compresses the model with another target size, and returns the size of its ONNX model in
            bytes and what it made.
        rest: bytes of the tensors of the ONNX model that are not compressed.

    Returns:
        What the best attempt made.

    Raises:
        TenreoError: if the recipe has no target size, or it is too small for the graph.
    """
    if not isinstance(recipe.rate, TargetSize):
        raise TenreoError("for: onnx needs --target-size, the size of the ONNX model")
    limit = recipe.rate.bytes
    target, best, found = int(_FIRST * (limit - rest)), 0, []
    slope, before = 1.0, (0, 0)
    for trial in range(_TRIALS):
        if target <= 0:
            raise TenreoError(
                f"target_size: given {limit:,} bytes, but the rest of the ONNX model alone needs more; give more"
            )
        size, made = attempt(replace(recipe, rate=TargetSize(target)))
        if trial and target != before[0]:
            slope = min(1.0, max(_LEAST_SLOPE, (size - before[1]) / (target - before[0])))
        before = target, size
        if best < size <= limit:
            best, found = size, [made]
        if limit * (1 - _WITHIN) <= size <= limit:
            break
        target += int((limit * (1 - _WITHIN / 2) - size) / slope)
    if not found:
        raise TenreoError(f"target_size: no file leads to an ONNX model of {limit:,} bytes; give more")
    return found[0]

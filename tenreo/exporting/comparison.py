"""Compares the outputs of an exported program with those of the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenreo.errors import TenreoError, shown


def largest_difference(path: Path, outputs: Sequence[Any], expected: Sequence[Any], images: int = 0) -> float:
    """Return the largest absolute difference between two lists of outputs.

    Args:
        path: path of the program, for messages.
        outputs: outputs of the program; only tensors are compared.
        expected: outputs of the model.
        images: for detectors, the batch size; detections are then compared without regard to order, which is
            arbitrary among nearly equal scores.

    Raises:
        TenreoError: if the outputs differ in number or shape.
    """
    own, theirs = ([x.cpu().double() for x in each if isinstance(x, Tensor)] for each in (expected, outputs))
    if [x.shape for x in own] != [x.shape for x in theirs]:
        shapes = [[tuple(x.shape) for x in each] for each in (theirs, own)]
        raise TenreoError(
            f"{path}: is written, but its outputs have the shapes {shown(shapes[0])}, the model's {shown(shapes[1])}"
        )
    if images:
        each = len(own) // images
        theirs, own = ([_rows(x[i : i + each]) for i in range(0, len(x), each)] for x in (theirs, own))
        return max((_set_distance(a, b) for a, b in zip(theirs, own, strict=True) if a.numel()), default=0.0)
    pairs = zip(theirs, own, strict=True)
    return max(((a - b).abs().max().item() for a, b in pairs if a.numel()), default=0.0)


def _rows(detections: Sequence[Tensor]) -> Tensor:
    """Return all numbers of each detection of an image, (detections, numbers)."""
    return torch.cat([x.flatten(1) if x.dim() > 1 else x[:, None] for x in detections], 1)


def _set_distance(first: Tensor, second: Tensor) -> float:
    """Return the Hausdorff distance of two sets of rows, in the maximum norm."""
    distances = torch.cdist(first, second, p=float("inf"))
    return max(distances.amin(dim).max().item() for dim in (0, 1))

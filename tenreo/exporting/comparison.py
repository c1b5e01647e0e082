"""How far the outputs of two models are apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenreo.errors import TenreoError, shown


def largest_difference(path: Path, found: Sequence[Any], wanted: Sequence[Any], images: int = 0) -> float:
    """The largest difference of two lists of outputs.

    Args:
        path: of the program that put out the first, for messages.
        found: its outputs; what is no tensor does not count.
        wanted: those of the model.
        images: where they are what a detector finds, in this number of images; the order is then left out of account,
            since that of detections of nearly equal scores is chance.

    Raises:
        TenreoError: when they are others in number or shape.
    """
    theirs, own = ([x.cpu().double() for x in each if isinstance(x, Tensor)] for each in (found, wanted))
    if [x.shape for x in own] != [x.shape for x in theirs]:
        shapes = [[tuple(x.shape) for x in each] for each in (theirs, own)]
        raise TenreoError(f"{path}: is written, but puts out {shown(shapes[0])}, the model {shown(shapes[1])}")
    if images:
        each = len(own) // images
        theirs, own = ([_rows(x[i : i + each]) for i in range(0, len(x), each)] for x in (theirs, own))
        return max((_apart(a, b) for a, b in zip(theirs, own, strict=True) if a.numel()), default=0.0)
    pairs = zip(theirs, own, strict=True)
    return max(((a - b).abs().max().item() for a, b in pairs if a.numel()), default=0.0)


def _rows(detections: Sequence[Tensor]) -> Tensor:
    """All that is said of each detection, (detections, numbers)."""
    return torch.cat([x.flatten(1) if x.dim() > 1 else x[:, None] for x in detections], 1)


def _apart(first: Tensor, second: Tensor) -> float:
    """The largest distance of a row to the nearest one of the other matrix."""
    distances = torch.cdist(first, second, p=float("inf"))
    return max(distances.amin(dim).max().item() for dim in (0, 1))

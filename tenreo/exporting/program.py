"""Exporting a dense model as a program of torch.export."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tenreo.errors import TenreoError
from tenreo.exporting.arguments import Arguments, first_line
from tenreo.files.atomic import atomic_write


def write_program(dense: nn.Module, arguments: Arguments, path: Path) -> bool:
    """Trace a model, write the program, and return whether it takes batches of any size.

    Raises:
        TenreoError: if the model cannot be traced or the file cannot be written.
    """
    program, dynamic = trace(dense, arguments, path)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return dynamic


def trace(dense: nn.Module, arguments: Arguments, path: Path) -> tuple[Any, bool]:
    """Return the exported program, and whether it takes batches of any size.

    Args:
        dense: the dense model.
        arguments: arguments of a call; the first dimension of each tensor is the batch.
        path: path of the file, for messages.

    Raises:
        TenreoError: if the model cannot be traced.
    """
    batch = torch.export.Dim("batch", min=1, max=2**16)

    def shape(value: Any) -> Any:
        return {0: batch} if isinstance(value, Tensor) and value.dim() else None

    positional, named = tree_map(shape, arguments)
    for shapes in (named if named else positional, None):
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    dense, arguments[0], arguments[1] or None, dynamic_shapes=shapes, strict=False
                )
            return program, shapes is not None
        except Exception as error:  # tracing runs the model, which may raise any error
            failure = error
    raise TenreoError(f"{path}: torch.export cannot trace the model: {first_line(failure)}") from failure


def run_program(path: Path, arguments: Arguments) -> list[Any]:
    """Run the program of a file and return its outputs as a flat list."""
    outputs: list[Any] = tree_leaves(torch.export.load(path).module()(*arguments[0], **arguments[1]))
    return outputs

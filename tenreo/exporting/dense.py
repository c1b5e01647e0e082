"""Exporting the weights of the dense model, under the names of the architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tenreo.compression.serialization import write_model
from tenreo.files.atomic import atomic_write
from tenreo.files.records import ModelInfo
from tenreo.models.identification import identify
from tenreo.modules.ties import stored_state


def write_dense(model: nn.Module, dense: nn.Module, path: Path, info: ModelInfo | None) -> None:
    """Write the weights of a dense model as a state dict of torch (.pth) or as safetensors.

    Args:
        model: the compressed model, which is recognized if no info is given.
        dense: the dense model.
        path: path of the file.
        info: description of the model.

    Raises:
        TenreoError: if the file cannot be written.
    """
    if path.suffix == ".safetensors":
        write_model(dense, path, replace(info or identify(model), corrections=()))
    else:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(stored_state(dense), file)

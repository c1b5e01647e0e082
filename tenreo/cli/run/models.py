"""The model that a command starts from: what `--arch` or `--model` names, or that of a file."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from tenreo.cli.exits import usage
from tenreo.cli.shared_options import DenseModel, ModelFile
from tenreo.files.header import Header
from tenreo.files.records import ModelInfo
from tenreo.models import model_files
from tenreo.models.architectures import build, default_info
from tenreo.models.builders import build_model, builder_info, check_model
from tenreo.models.inputs import class_count
from tenreo.models.names import is_safe
from tenreo.models.pretrained import built_with_weights, check_weights, with_weights


def open_model(dense: DenseModel, values: bool = True) -> tuple[nn.Module, ModelInfo]:
    """The model with its weights, and what it is.

    Args:
        dense: what was asked for.
        values: whether the values of random weights are needed; where not, they are on the meta device if possible.

    Raises:
        TenreoError: when there is no such model, or the weights do not fit.
    """
    random = dense.weights == "none" or (dense.weights is None and not values)
    if dense.model is None:
        arch = dense.require_arch()
        with usage():
            check_weights(arch, dense.weights)
        if random and not values:
            info = default_info(arch)
            model = build(arch, info.classes or 1000, device="meta")
        else:
            model, info = with_weights(arch, dense.weights, dense.seed)
    else:
        with usage():
            check_model(dense.model)
        shape = dense.shape
        kwargs = {"in_chans": shape[0]} if shape and shape[0] != 3 and dense.model.startswith("timm:") else {}
        if random and not values and is_safe(dense.model):
            model = build_model(dense.model, kwargs, "meta")
            info = builder_info(model, dense.model, kwargs)
        else:
            model, info = built_with_weights(dense.model, dense.weights, dense.seed, kwargs)
    with usage():
        info = replace(info, preprocess=dense.prepared(info.preprocess))
    return model, _with_classes(model, info) if values else info


def _with_classes(model: nn.Module, info: ModelInfo) -> ModelInfo:
    """The info, with the number of classes where only the model can tell."""
    return info if info.classes else replace(info, classes=class_count(model, info.preprocess))


def open_file(file: ModelFile) -> tuple[nn.Module, Header]:
    """The model of a file, built as it says or as was said, and what the file says of itself.

    Raises:
        TenreoError: when the file is damaged, or how its model is built is not known, or contradicted.
    """
    with usage():
        if file.model is not None:
            check_model(file.model)
    model, header = model_files.open_model(file.file, builder=file.model)
    return model, replace(header, info=_with_classes(model, header.info))

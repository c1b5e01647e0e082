"""Reading state dicts, including the reference implementation's, which are recognized by names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tenreo.codec.shape import CurveShape, Positions
from tenreo.errors import TenreoError
from tenreo.files.header import Header, check_layers
from tenreo.files.layout import COEFFICIENTS, POSITIONS
from tenreo.files.pickles import read_pickle
from tenreo.files.records import MOST_CLASSES, LayerErrors, LayerRecord, ModelInfo
from tenreo.files.safetensors import record
from tenreo.models.builders import build_info
from tenreo.models.model_info import classifier_name, model_info
from tenreo.models.name_guesses import guess
from tenreo.models.names import PAPER

_OPTIONAL = "num_batches_tracked"  # files of old torch versions do not contain it


def read_reference(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read a checkpoint of the reference implementation.

    Its keys are `X.index` (columns,) and `X.weight` (groups, coefficients_per_row) for a compressed layer X.

    Returns:
        The header that a file of tenreo would have, and the tensors under tenreo's names.

    Raises:
        TenreoError: if the file is not such a checkpoint, naming the tensor that does not fit.
    """
    state = read_pickle(path)
    compressed = {key.removesuffix(".index") for key in state if key.endswith(".index")}
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.endswith(".index")}
    info, skeleton = identify_paper(path, shapes, {f"{name}.weight" for name in compressed})
    modules = dict(skeleton.named_modules())
    layers: dict[str, LayerRecord] = {}
    tensors = dict(state)
    for name in sorted(compressed):
        index, layer = tensors.pop(f"{name}.index"), modules.get(name)
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise TenreoError(f"{path}: {name}.index belongs to no convolution or linear layer of {info.arch}")
        coefficients = tensors.pop(f"{name}.weight")
        try:
            layers[name] = _layer_record(tuple(layer.weight.shape), coefficients, index)
        except ValueError as error:
            raise TenreoError(
                f"{path}: {name}.weight {list(coefficients.shape)} and {name}.index {list(index.shape)} do not make "
                f"a weight of shape {list(layer.weight.shape)}: {error}"
            ) from error
        tensors[f"{name}.weight{COEFFICIENTS}"] = coefficients
        tensors[f"{name}.weight{POSITIONS}"] = index.reshape(-1).to(torch.int32)
    kind = "reference" if compressed else "dense"
    records = {name: record(tensor) for name, tensor in tensors.items()}
    header = Header(path, kind, records, info, None, layers, path.stat().st_size)
    check_layers(header)
    return header, tensors


def read_dense_pickle(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read a state dict of any dense model, or a checkpoint of the reference implementation.

    Returns:
        The header that a file of tenreo would have, and the tensors.

    Raises:
        TenreoError: if the file is neither.
    """
    state = read_pickle(path)
    if any(key.endswith(".index") for key in state):
        return read_reference(path)
    records = {name: record(tensor) for name, tensor in state.items()}
    return Header(path, "dense", records, ModelInfo(), None, {}, path.stat().st_size), state


def _layer_record(shape: tuple[int, ...], coefficients: Tensor, index: Tensor) -> LayerRecord:
    """Return the record of a compressed layer; ValueError if its tensors do not make a weight of this shape."""
    columns = index.numel()
    if coefficients.dim() != 2 or coefficients.shape[0] * columns != torch.Size(shape).numel():
        raise ValueError("rows times columns is not the number of its elements")
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"the index is {str(index.dtype).removeprefix('torch.')}, needs integers")
    positions = index.to(torch.int64)  # unsigned values beyond its range become negative and are refused below
    if not 0 <= int(positions.min()) <= int(positions.max()) < columns:
        raise ValueError(f"the index leaves [0, {columns})")
    curve = CurveShape(coefficients.shape[0], columns, coefficients.shape[1])
    return LayerRecord.checked(shape, curve, LayerErrors(), Positions.INT32)


def identify_paper(
    path: Path, shapes: Mapping[str, tuple[int, ...]], compressed: set[str]
) -> tuple[ModelInfo, nn.Module]:
    """Find the architecture of the paper that has these names and, except for compressed weights, these shapes.

    Args:
        path: path of the file, for messages.
        shapes: shapes of the tensors, by state-dict name.
        compressed: names of compressed weights, which have other shapes.

    Returns:
        Its info, and a model of it on the meta device.

    Raises:
        TenreoError: if there is no such architecture.
    """
    names = {key for key in shapes if not key.endswith(_OPTIONAL)}
    for arch in PAPER:
        skeleton = build_info(ModelInfo(arch), "meta")
        state, classifier = skeleton.state_dict(), classifier_name(skeleton)
        dense = {key for key in names - compressed if not key.startswith(classifier)}
        same = names == {key for key in state if not key.endswith(_OPTIONAL)}
        if same and all(shapes[key] == tuple(state[key].shape) for key in dense):
            sizes = (shapes[key][0] for key in (f"{classifier}.bias", f"{classifier}.weight") if shapes.get(key))
            classes = next(sizes, 1000)
            if not 1 <= classes <= MOST_CLASSES:
                raise TenreoError(f"{path}: has {classes} classes, needs 1 to {MOST_CLASSES:,}")
            info = replace(model_info(f"torchvision:{arch}", {"num_classes": classes}), weights=None)
            return info, build_info(info, "meta")
    raise TenreoError(f"{path}: the names of its tensors are those of none of {', '.join(PAPER)}{guess(shapes)}")

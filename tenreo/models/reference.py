"""Reading files of any kind; the reference implementation's are recognized by names and shapes of their tensors."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from tenreo.codec.shape import CurveShape, Positions
from tenreo.errors import TenreoError
from tenreo.files.dense_stream import decode_dense
from tenreo.files.formats import holds_pickle
from tenreo.files.header import Header, check_layers, header_of
from tenreo.files.layout import COEFFICIENTS, POSITIONS
from tenreo.files.paths import opened
from tenreo.files.pickles import state_of
from tenreo.files.records import MOST_CLASSES, LayerErrors, LayerRecord, ModelInfo
from tenreo.files.safetensors import record, tensors_of
from tenreo.models.builders import build_info
from tenreo.models.model_info import model_info
from tenreo.models.name_guesses import OPTIONAL, architecture_shapes, guess
from tenreo.models.names import PAPER


def read_any(path: Path, named: bool, note: Callable[[str], None] | None = None) -> tuple[Header, dict[str, Tensor]]:
    """Read header and tensors of a file of tenreo, of a dense model, or of the reference implementation.

    Args:
        path: path of the file.
        named: whether the caller names the model; if not, a dense file that does not name it must be of one of the
            paper's architectures.
        note: function that is told about unusual values, as for `state_of`.

    Raises:
        TenreoError: if the file is damaged or of another kind.
    """
    with opened(path) as file:
        if holds_pickle(file):
            return _reference_of(file, named, note)
        header = header_of(file)
        tensors = decode_dense(header, tensors_of(header, file))
    if header.info.name is None and not named and header.kind == "dense":
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        header = replace(header, info=_identify_paper(path, shapes, set()))
    return header, tensors


def read_reference(path: Path, named: bool = False) -> tuple[Header, dict[str, Tensor]]:
    """Read a checkpoint of the reference implementation, or a state dict of a dense model.

    Its keys are `X.index` (columns,) and `X.weight` (groups, coefficients_per_row) for a compressed layer X.

    Args:
        path: path of the file, a pickle.
        named: whether a dense model may have any architecture, as in `read_any`.

    Returns:
        The header that a file of tenreo would have, and the tensors under tenreo's names.

    Raises:
        TenreoError: if the file is not such a checkpoint, naming the tensor that does not fit.
    """
    with opened(path) as file:
        holds_pickle(file)  # raises for other formats
        return _reference_of(file, named)


def _reference_of(
    file: IO[bytes], named: bool, note: Callable[[str], None] | None = None
) -> tuple[Header, dict[str, Tensor]]:
    """Read a file that is opened for reading, like `read_reference`."""
    path, state = Path(file.name), state_of(file, note)
    compressed = {key.removesuffix(".index") for key in state if key.endswith(".index")}
    info = ModelInfo()
    modules: dict[str, nn.Module] = {}
    layers: dict[str, LayerRecord] = {}
    if compressed or not named:
        shapes = {key: tuple(value.shape) for key, value in state.items() if not key.endswith(".index")}
        info = _identify_paper(path, shapes, {f"{name}.weight" for name in compressed})
        modules = dict(build_info(info, "meta").named_modules())
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
    header = Header(path, kind, records, info, None, layers, os.fstat(file.fileno()).st_size)
    if layers:  # a dense model may have any names
        check_layers(header)
    return header, tensors


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


def _identify_paper(path: Path, shapes: Mapping[str, tuple[int, ...]], compressed: set[str]) -> ModelInfo:
    """Return the info of the paper's architecture with these names and, except for compressed weights, these shapes."""
    names = {key for key in shapes if not key.endswith(OPTIONAL)}
    for arch in PAPER:
        own = architecture_shapes(arch)
        classifier = list(own)[-1].rpartition(".")[0]
        dense = {key for key in names - compressed if not key.startswith(classifier)}
        if names == set(own) and all(shapes[key] == own[key] for key in dense):
            sizes = (shapes[key][0] for key in (f"{classifier}.bias", f"{classifier}.weight") if shapes.get(key))
            classes = next(sizes, 1000)
            if not 1 <= classes <= MOST_CLASSES:
                raise TenreoError(f"{path}: has {classes} classes, needs 1 to {MOST_CLASSES:,}")
            return replace(model_info(f"torchvision:{arch}", {"num_classes": classes}), weights=None)
    raise TenreoError(
        f"{path}: the names of its tensors are those of none of {', '.join(PAPER)}{guess(shapes)}; name its model with "
        "--model"
    )

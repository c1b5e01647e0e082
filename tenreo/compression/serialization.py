"""A model as the tensors of a file, and back: packing, unpacking, and checking every name and shape."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tenreo.codec.encode import EncodedWeight
from tenreo.codec.packing import pack, unpack
from tenreo.codec.position_coding import columns_per_output, decode_positions, encode_positions
from tenreo.codec.precision import pack_coefficients, unpack_coefficients
from tenreo.codec.shape import Positions
from tenreo.compression.parametrization import curves, parametrize_
from tenreo.compression.tensor_checks import check_fit, check_values
from tenreo.errors import TenreoError
from tenreo.files.header import Header, metadata
from tenreo.files.layout import COEFFICIENTS, POSITIONS, SCALES, file_size
from tenreo.files.records import LayerRecord, ModelInfo
from tenreo.files.safetensors import record, write_tensors
from tenreo.modules.ties import has_values, stored_state, tied_names
from tenreo.modules.weights import find_weights
from tenreo.modules.wrappers import full_tensor
from tenreo.planning.recipe import DenseDtype, Recipe


def write_model(model: nn.Module, path: Path, info: ModelInfo, recipe: Recipe | None = None) -> None:
    """Write a model, compressed or dense, with all that is needed to use it again.

    Coefficients are written in the precision of their layer, what is left dense in the recipe's `dense_dtype`.

    Args:
        model: any module.
        path: of the file; replaced as a whole.
        info: what the model is.
        recipe: kept in the file.

    Raises:
        TenreoError: when a number does not fit its format, a parameter is not finite, or the file can not be
            written; an older one is then untouched.
    """
    tensors, said = _content(model, info, recipe)
    check_values(f"{path}: can not be written", tensors, tensors, _finite_names(model))
    write_tensors(path, tensors, said)


def written_size(model: nn.Module, info: ModelInfo, recipe: Recipe | None = None) -> int:
    """The bytes of the file that `write_model` would write."""
    tensors, said = _content(model, info, recipe)
    return file_size({name: record(tensor) for name, tensor in tensors.items()}, said)


def _content(model: nn.Module, info: ModelInfo, recipe: Recipe | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and its metadata."""
    dense_dtype = DenseDtype.FLOAT32 if recipe is None else recipe.dense_dtype
    positions = Positions.CODED if recipe is None else recipe.positions
    layers = {curve.name: replace(curve.record, positions=positions) for curve in curves(model)}
    said = metadata(info, None if recipe is None else recipe.to_dict(), layers)
    return file_tensors(model, dense_dtype, positions), said


def file_tensors(
    model: nn.Module, dense_dtype: DenseDtype = DenseDtype.FLOAT32, positions: Positions = Positions.CODED
) -> dict[str, Tensor]:
    """The tensors of a model under their names in a file, on the CPU; those that processes share are gathered.

    Args:
        model: compressed or dense.
        dense_dtype: of floating-point tensors that are left dense.
        positions: how they are to lie in the file.

    Raises:
        TenreoError: when the model is itself a compressed layer, or a number does not fit its format.
    """
    if any(not curve.name for curve in curves(model)):
        raise TenreoError("save: the model is a layer, without a name for a file; save nn.Sequential(layer)")
    for key, value in model.state_dict().items():
        if value is not None and not has_values(value):
            raise TenreoError(f"save: {key} is a {type(value).__name__}, and a file holds tensors with values alone")
    names = _file_names(model)
    tensors = {names[key]: full_tensor(value).cpu() for key, value in stored_state(model).items()}
    coefficients = {curve.parameter + COEFFICIENTS for curve in curves(model)}
    if dense_dtype != DenseDtype.FLOAT32:
        for name, value in tensors.items():
            if value.is_floating_point() and name not in coefficients:
                tensors[name] = _cast(name, value, dense_dtype)
    layers = [(curve.parameter + POSITIONS, curve.record) for curve in curves(model)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        stored = pool.map(lambda layer: stored_positions(tensors[layer[0]], layer[1], positions), layers)
        tensors |= dict(zip((name for name, _ in layers), stored, strict=True))
    for curve in curves(model):
        name = curve.parameter
        values, scales = pack_coefficients(tensors[name + COEFFICIENTS], curve.weight.curve.precision)
        tensors[name + COEFFICIENTS] = values
        if scales is not None:
            tensors[name + SCALES] = scales
    return tensors


def stored_positions(positions: Tensor, layer: LayerRecord, kind: Positions) -> Tensor:
    """The positions of a layer as they lie in a file.

    Args:
        positions: (columns,) int32, on the CPU.
        layer: what else is known of it.
        kind: how they are to lie there.
    """
    curve = layer.curve
    if kind == Positions.CODED:
        return encode_positions(positions, curve.length, columns_per_output(layer.shape), curve.memory)
    return pack(positions, curve.position_bits) if kind == Positions.PACKED else positions


def _cast(name: str, value: Tensor, dtype: DenseDtype) -> Tensor:
    cast = value.to(getattr(torch, dtype))
    if not torch.equal(torch.isfinite(cast), torch.isfinite(value)):
        raise TenreoError(
            f"{name}: a value of {value.abs().max():.3g} does not fit into {dtype}; choose dense_dtype bfloat16"
        )
    return cast


def _finite_names(model: nn.Module) -> set[str]:
    """Names in a file of the parameters; other tensors, such as masks, may hold what they hold."""
    names = _file_names(model)
    return {names[key] for key, _ in model.named_parameters()}


def _file_names(model: nn.Module) -> dict[str, str]:
    """State-dict key -> name in a file."""
    names = {key: key for key in tied_names(model)}
    for curve in curves(model):
        path = curve.parameter.removesuffix(curve.tensor)
        prefix = f"{path}parametrizations.{curve.tensor}"
        names[f"{prefix}.original"] = curve.parameter + COEFFICIENTS
        names[f"{prefix}.0.positions"] = curve.parameter + POSITIONS
    return names


def restore_(model: nn.Module, header: Header, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Fill a dense model of the right shapes with a file's tensors, compressing layers on the way.

    Returns:
        The same model.

    Raises:
        TenreoError: when a name, shape, dtype or value does not fit; the message names it.
    """
    weights = find_weights(model)
    state = dict(tensors)
    for name, layer in header.layers.items():
        if name not in weights or weights[name].shape != layer.shape:
            raise TenreoError(f"{header.path}: the model has no layer {name} of shape {list(layer.shape)}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        unpacked = pool.map(
            lambda name: _unpack_layer(weights[name].parameter, header.layers[name], tensors, header.path),
            header.layers,
        )
        encodings = dict(zip(header.layers, unpacked, strict=True))
    for name, encoded in encodings.items():
        weight, parameter = weights[name], weights[name].parameter
        state[parameter + COEFFICIENTS], state[parameter + POSITIONS] = encoded.coefficients, encoded.positions
        state.pop(parameter + SCALES, None)
        empty = EncodedWeight(
            encoded.coefficients.to(weight.value.dtype, copy=True),  # or the whole file stays in memory
            encoded.positions,
            encoded.length,
            encoded.shape,
            encoded.memory,
        )
        parametrize_(weight, empty, header.layers[name].curve.precision, header.layers[name].errors)
    load_tensors_(model, state, header.path)
    return model


def _unpack_layer(name: str, record: LayerRecord, tensors: Mapping[str, Tensor], path: Path) -> EncodedWeight:
    positions = tensors[name + POSITIONS]
    length = record.curve.length
    try:
        if record.positions == Positions.CODED:
            positions = decode_positions(positions, record.columns, length, columns_per_output(record.shape))
    except TenreoError as error:
        raise TenreoError(f"{path}: {name}: {error}") from error
    if record.positions == Positions.PACKED:
        positions = unpack(positions, record.curve.position_bits, record.columns)
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < length:
        raise TenreoError(f"{path}: {name + POSITIONS} leaves [0, {length}); the file is damaged")
    coefficients = unpack_coefficients(tensors[name + COEFFICIENTS], tensors.get(name + SCALES), record.curve)
    return EncodedWeight(coefficients, positions.to(torch.int32), length, record.shape, record.curve.memory)


def load_tensors_(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors under their names in a file.

    Args:
        model: dense, or with its layers compressed.
        tensors: positions and coefficients unpacked.
        path: of the file, for messages.

    Raises:
        MisfitError: naming what is missing, not expected, or of another shape.
        TenreoError: naming a tensor whose values can not be those of a model.
    """
    own = model.state_dict()
    names = _file_names(model)
    ties = tied_names(model)
    given = {ties[key] for key, n in names.items() if n in tensors}
    # Files of old torch versions do not count batches, and nothing depends on it.
    tied = {n for key, n in names.items() if ties[key] in given}
    check_fit(
        path, {n: tuple(own[key].shape) for key, n in names.items()},
        {n: tuple(tensor.shape) for n, tensor in tensors.items()},
        {n for n in names.values() if n in tied or n.endswith("num_batches_tracked")},
    )  # fmt: skip
    check_values(path, {n: own[key] for key, n in names.items()}, tensors, _finite_names(model))
    # Some layers (MNASNet) ask which version of themselves was saved; files do not say: this one.
    versioned = OrderedDict((key, tensors[n]) for key, n in names.items() if n in tensors)
    versioned._metadata = own._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=False)

"""Conversion between a model and the tensors of its file, with checks of all names, shapes and values."""

import math
from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tenreo import __version__
from tenreo.codec.encode import EncodedWeight
from tenreo.codec.packing import pack, unpack
from tenreo.codec.position_coding import columns_per_output, decode_positions, encode_positions
from tenreo.codec.precision import StoredCoefficients, pack_coefficients, unpack_coefficients
from tenreo.codec.shape import Positions
from tenreo.codec.threads import usable_cores
from tenreo.compression.parametrization import (
    Curve,
    curves,
    parametrize_,
    remember_,
    remembered_digest,
    remembered_recipe,
)
from tenreo.compression.tensor_checks import check_fit
from tenreo.errors import TenreoError
from tenreo.files.dense_stream import encode_dense, rounded_dense
from tenreo.files.header import Header, check_readable, metadata
from tenreo.files.layout import COEFFICIENTS, DENSE, POSITIONS, SCALES, SUFFIXES, TensorRecord, file_size
from tenreo.files.provenance import Provenance
from tenreo.files.records import LayerRecord, ModelInfo
from tenreo.files.safetensors import check_values, digest_of, record, write_tensors
from tenreo.modules.inference_tensors import make_trainable_
from tenreo.modules.ties import stored_state, tied_names
from tenreo.modules.weights import find_weights, parameter_names, why_incompressible
from tenreo.modules.wrappers import full_tensor
from tenreo.planning.dense_storage import check_tensors, dense_step, stored_dense
from tenreo.planning.rates import TargetSize
from tenreo.planning.recipe import DenseDtype, Recipe, recipe_of

_COUNTER = "num_batches_tracked"
# Factors of the step of coded dense tensors. After a correction of statistics, these may need some bytes more than they
# had when the layers were encoded for a target size.
_COARSER_STEPS = tuple(2 ** (i / 32) for i in range(65))


def write_model(model: nn.Module, path: Path, info: ModelInfo, recipe: Recipe | None = None) -> None:
    """Write a compressed or dense model to a file, with all metadata that is needed to use it again.

    An existing file is replaced atomically. Coefficients are written in the precision of their layer; the recipe, which
    is stored in the file, sets the format of dense tensors and positions. By default it is the recipe that the model
    was compressed with.

    Raises:
        TenreoError: if a value exceeds the range of its format, a parameter is not finite, the file could not be read
            again, or it cannot be written; an existing file is then unchanged.
    """
    tensors, entries, parameters = _file_content(model, info, recipe)
    check_values(f"{path}: cannot be written", tensors, tensors, parameters)
    check_readable("save", {name: record(tensor) for name, tensor in tensors.items()}, entries)
    write_tensors(path, tensors, entries)


def written_size(model: nn.Module, info: ModelInfo, recipe: Recipe | None = None) -> int:
    """Return the size in bytes of the file that `write_model` would write."""
    return stored_bytes(model, info, recipe).total


@dataclass(frozen=True)
class StoredBytes:
    """Bytes of a file.

    Attributes:
        total: size of the file.
        layers: bytes of positions, coefficients and scales by compressed layer.
    """

    total: int
    layers: dict[str, int]


def stored_bytes(model: nn.Module, info: ModelInfo, recipe: Recipe | None = None) -> StoredBytes:
    """Return the bytes of the file that `write_model` would write."""
    tensors, entries, _ = _file_content(model, info, recipe)
    sizes = {name: record(tensor).bytes for name, tensor in tensors.items()}
    layers = {x.name: sum(sizes.get(x.parameter + suffix, 0) for suffix in SUFFIXES) for x in curves(model)}
    return StoredBytes(_size(tensors, entries), layers)


def _file_content(
    model: nn.Module, info: ModelInfo, recipe: Recipe | None
) -> tuple[dict[str, Tensor], dict[str, str], set[str]]:
    """Return the tensors of a file on the CPU, its metadata entries, and the names of tensors that are parameters.

    Raises:
        TenreoError: if an entry of the model's state dict is not a tensor, or a value exceeds the range of its format.
    """
    recipe = recipe or remembered_recipe(model)
    positions = Positions.CODED if recipe is None else recipe.positions
    compressed = list(curves(model))
    records = {curve.name: replace(curve.record, positions=positions) for curve in compressed}
    tensors, parameters = _named_tensors(model, compressed)
    dense = tensors.keys() - {curve.parameter + suffix for curve in compressed for suffix in SUFFIXES}
    if recipe is not None:
        tensors |= {name: stored_dense(name, tensors[name], recipe.dense_dtype) for name in dense}
    records |= _pack_layers_(tensors, records, compressed)
    digest = remembered_digest(model)
    source = Provenance(__version__, digest, license=info.license) if digest else None
    described = partial(metadata, info, None if recipe is None else recipe.to_dict(), records, source=source)
    if recipe is None or recipe.dense_dtype is not DenseDtype.CODED:
        return tensors, described(), parameters
    limit = recipe.rate.bytes if isinstance(recipe.rate, TargetSize) else math.inf
    for coarser in _COARSER_STEPS:
        content, coded = _with_dense_stream(tensors, dense, parameters, coarser * _step(compressed))
        entries = described(coded)
        if _size(content, entries) <= limit:
            break
    return content, entries, parameters


def _size(tensors: Mapping[str, Tensor], entries: Mapping[str, str]) -> int:
    """Return the size in bytes of a file with these tensors and metadata."""
    return file_size({name: record(tensor) for name, tensor in tensors.items()}, entries)


def _named_tensors(model: nn.Module, compressed: Iterable[Curve]) -> tuple[dict[str, Tensor], set[str]]:
    """Return the tensors of a model on the CPU by their names in a file, and the names of those that are parameters."""
    ties, state = tied_names(model), model.state_dict()
    for curve in compressed:
        curve.weight.end_loan()
    check_tensors("save", state)
    names = _file_names(ties, compressed)
    tensors = {names[key]: full_tensor(state[key].detach()).cpu() for key in dict.fromkeys(ties.values())}
    return tensors, {names[key] for key, _ in model.named_parameters()}


def _with_dense_stream(
    tensors: Mapping[str, Tensor], dense: Iterable[str], parameters: Container[str], step: float
) -> tuple[dict[str, Tensor], dict[str, TensorRecord]]:
    """Return the tensors of a file with dense ones coded together, and the records of the coded ones by name."""
    stream, coded = encode_dense({name: tensors[name] for name in dense}, parameters, step)
    content = {name: tensor for name, tensor in tensors.items() if name not in coded}
    return content | ({DENSE: stream} if coded else {}), coded


def _step(compressed: Iterable[Curve]) -> float:
    return dense_step((curve.record.numel, curve.record.errors.snr) for curve in compressed)


def dense_digest(model: nn.Module) -> str:
    """Return the digest of the tensors of a dense model."""
    return digest_of({name: full_tensor(tensor).cpu() for name, tensor in stored_state(model).items()})


def round_dense_(model: nn.Module) -> None:
    """Round the dense tensors of a model in place as its file will, if the recipe of the model codes them."""
    recipe = remembered_recipe(model)
    if recipe is None or recipe.dense_dtype is not DenseDtype.CODED:
        return
    state, parameters = stored_state(model), dict(model.named_parameters())
    compressed = list(curves(model))
    coefficients = {id(curve.coefficients) for curve in compressed}
    dense = {name: tensor.cpu() for name, tensor in state.items() if id(parameters.get(name)) not in coefficients}
    with torch.no_grad():
        for name, rounded in rounded_dense(dense, parameters, _step(compressed)).items():
            state[name].copy_(rounded)


def _pack_layers_(
    tensors: dict[str, Tensor], layers: Mapping[str, LayerRecord], compressed: Iterable[Curve]
) -> dict[str, LayerRecord]:
    """Replace the coefficients and positions of all layers by their stored form, and return the final records."""

    def packed(curve: Curve) -> tuple[str, dict[str, Tensor], LayerRecord]:
        """Return the parameter of a layer, its stored tensors by suffix, and its final record."""
        positions, coefficients = (tensors[curve.parameter + suffix] for suffix in (POSITIONS, COEFFICIENTS))
        layer = layers[curve.name]
        if layer.positions != Positions.CODED:
            positions = stored_positions(positions, layer)
        elif curve.weight.coded is None:
            positions = curve.weight.coded = stored_positions(positions, layer)
        else:
            positions = curve.weight.coded
        content, final = stored_coefficients(coefficients, layer)
        return curve.parameter, {POSITIONS: positions, **content}, final

    names = [curve.name for curve in compressed]
    with ThreadPoolExecutor(usable_cores()) as pool:
        results = dict(zip(names, pool.map(packed, compressed), strict=True))
    for parameter, content, _ in results.values():
        tensors |= {parameter + suffix: tensor for suffix, tensor in content.items()}
    return {name: final for name, (_, _, final) in results.items()}


def stored_coefficients(coefficients: Tensor, layer: LayerRecord) -> tuple[dict[str, Tensor], LayerRecord]:
    """Convert coefficients, (groups, coefficients_per_row), to the tensors in which a file stores them.

    Integers are entropy-coded if the positions are.

    Returns:
        The tensors by suffix, and the record with their storage.
    """
    values, scales, coded = pack_coefficients(coefficients, layer.curve.precision, layer.positions == Positions.CODED)
    tensors = {COEFFICIENTS: values} | ({} if scales is None else {SCALES: scales})
    return tensors, replace(layer, coded_coefficients=coded)


def stored_positions(positions: Tensor, layer: LayerRecord) -> Tensor:
    """Convert positions, (columns,) int32 on the CPU, to the form in which a file stores them."""
    curve = layer.curve
    if layer.positions == Positions.CODED:
        return encode_positions(positions, curve.length, columns_per_output(layer.shape), curve.memory, curve.basis)
    return pack(positions, curve.position_bits) if layer.positions == Positions.PACKED else positions


def _file_names(keys: Iterable[str], compressed: Iterable[Curve]) -> dict[str, str]:
    """Map state-dict keys to names in a file."""
    names = {key: key for key in keys}
    for curve in compressed:
        path = curve.parameter.removesuffix(curve.tensor)
        prefix = f"{path}parametrizations.{curve.tensor}"
        names[f"{prefix}.original"] = curve.parameter + COEFFICIENTS
        names[f"{prefix}.0.positions"] = curve.parameter + POSITIONS
    return names


def restore_(model: nn.Module, header: Header, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Load a file's tensors into a dense model in place, and replace its compressed layers by parametrizations.

    Returns:
        The same model.

    Raises:
        TenreoError: if a name, shape, dtype or value does not fit the model; the message contains the name.
    """
    make_trainable_(model)
    weights, names = find_weights(model), parameter_names(model)
    state = dict(tensors)
    for name, layer in header.layers.items():
        if name not in weights or weights[name].shape != layer.shape:
            raise TenreoError(f"{header.path}: the model has no layer {name} of shape {list(layer.shape)}")
        if why := why_incompressible(weights[name], names):
            raise TenreoError(f"{header.path}: cannot be loaded into the model: {name}: {why}")
    with ThreadPoolExecutor(usable_cores()) as pool:
        unpacked = pool.map(
            lambda name: unpack_layer(weights[name].parameter, header.layers[name], tensors, header.path),
            header.layers,
        )
        encodings = dict(zip(header.layers, unpacked, strict=True))
    for name, encoded in encodings.items():
        weight, parameter = weights[name], weights[name].parameter
        state[parameter + COEFFICIENTS], state[parameter + POSITIONS] = encoded.coefficients, encoded.positions
        state.pop(parameter + SCALES, None)
        # A view of the file's tensors would keep the whole file in memory.
        own = replace(encoded, coefficients=encoded.coefficients.to(weight.value.dtype, copy=True))
        parametrize_(weight, own, header.layers[name].curve.precision, header.layers[name].errors)
    load_tensors_(model, state, header.path)
    remember_(model, recipe_of(header), header.source.digest if header.source is not None else "")
    return model


def unpack_layer(name: str, record: LayerRecord, tensors: Mapping[str, Tensor], path: Path) -> EncodedWeight:
    """Return a compressed weight from the tensors of a file.

    Args:
        name: name of the weight in the dense model's state dict.
        record: record of its layer.
        tensors: tensors of the file as they are stored, by name.
        path: path of the file, for messages.

    Raises:
        TenreoError: if the positions are damaged.
    """
    positions = tensors[name + POSITIONS]
    length = record.curve.length
    try:
        if record.positions == Positions.CODED:
            row = columns_per_output(record.shape)
            positions = decode_positions(positions, record.columns, length, row, record.curve.basis)
        stored = (tensors[name + COEFFICIENTS], tensors.get(name + SCALES), record.coded_coefficients)
        coefficients = unpack_coefficients(StoredCoefficients(*stored), record.curve)
    except TenreoError as error:
        raise TenreoError(f"{path}: {name}: {error}") from error
    if record.positions == Positions.PACKED:
        positions = unpack(positions, record.curve.position_bits, record.columns)
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < length:
        raise TenreoError(f"{path}: {name + POSITIONS} has values outside [0, {length}); the file is damaged")
    curve = record.curve
    return EncodedWeight(coefficients, positions.to(torch.int32), length, record.shape, curve.memory, curve.basis)


def _counter(batches: Tensor) -> Tensor:
    """Return a counter of batches as an integer; casting a whole model casts it, too, and 65,520 becomes infinite."""
    return batches.nan_to_num(posinf=0).to(torch.int64) if batches.is_floating_point() else batches


def load_tensors_(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors, with unpacked positions and coefficients, into a model in place by their names in a file.

    Raises:
        MisfitError: if names are missing or unexpected, or shapes differ.
        TenreoError: if a tensor has values that a model cannot have.
    """
    state, ties = model.state_dict(), tied_names(model)
    tensors = {name: _counter(value) if name.endswith(_COUNTER) else value for name, value in tensors.items()}
    names = _file_names(ties, curves(model))
    loaded = {ties[key] for key, name in names.items() if name in tensors}
    optional = {name for key, name in names.items() if ties[key] in loaded or name.endswith(_COUNTER)}
    # Old torch versions did not store `num_batches_tracked`, and evaluation does not use it.
    check_fit(
        path, {n: tuple(state[key].shape) for key, n in names.items()},
        {n: tuple(tensor.shape) for n, tensor in tensors.items()}, optional,
    )  # fmt: skip
    parameters = {names[key] for key, _ in model.named_parameters()}
    check_values(path, {n: state[key] for key, n in names.items()}, tensors, parameters)
    # Some layers (MNASNet) convert states of older versions. Files contain no versions; the current ones are assumed.
    versioned = OrderedDict((key, tensors[n]) for key, n in names.items() if n in tensors)
    versioned._metadata = state._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=False)

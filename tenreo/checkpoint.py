"""Models to files and back: safetensors out and in, the reference implementation's .pth in."""

from __future__ import annotations

import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tenreo.compression import CurveWeight, attach_, curves
from tenreo.core.codec import EncodedWeight
from tenreo.core.packing import pack, unpack
from tenreo.core.precision import restore, store
from tenreo.errors import TenreoError
from tenreo.header import VERSION, Header, LayerEntry, ModelCard
from tenreo.recipe import Recipe
from tenreo.report import COEFFICIENTS, POSITIONS, SCALES, finite
from tenreo.sizes import width_of


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder that becomes `path` at the end, whole or not at all.

    Raises:
        TenreoError: when the folder can not be written to.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise TenreoError(f"{path}: can not be written: {error.strerror}; choose another --out") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise TenreoError(f"{path}: can not be written: {error}; choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def write(model: nn.Module, path: Path, card: ModelCard, recipe: Recipe | None = None) -> None:
    """Write a model, compressed or dense, with all that is needed to use it again.

    Coefficients are written in the precision of their layer, what is left dense in that of `recipe.other`.

    Raises:
        TenreoError: when a number does not fit its precision, or the file can not be written; an older one is
            then untouched.
    """
    layers = {name: _describe(curve) for name, _, curve in curves(model)}
    metadata = {
        "format": "pt",
        "tenreo.version": str(VERSION),
        "tenreo.model": json.dumps(card.to_dict()),
        "tenreo.layers": json.dumps(layers),
    }
    if recipe is not None:
        metadata["tenreo.recipe"] = json.dumps(recipe.to_dict())
    # Copies: tensors that share memory are no safetensors file.
    tensors = {k: t.contiguous().clone() for k, t in _file_tensors(model, recipe).items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # a full disk, for one
            raise TenreoError(f"{path}: can not be written: {error}; choose another --out") from error
        _sort_metadata(temporary)


def _describe(curve: CurveWeight) -> dict[str, Any]:
    return {
        "shape": list(curve.shape),
        "groups": curve.groups,
        "length": curve.length,
        "kept": curve.kept,
        "position_bits": width_of(curve.length),
        "precision": curve.precision,
        **{name: None if x is None else finite(x) for name, x in curve.measured.items()},
    }


def _file_tensors(model: nn.Module, recipe: Recipe | None) -> dict[str, Tensor]:
    """Name in a file -> tensor as it lies there, on the CPU."""
    if any(not layer for layer, _, _ in curves(model)):
        raise TenreoError("save: the model is a layer, without a name for a file; save nn.Sequential(layer)")
    state = model.state_dict()
    names = _file_names(model)
    tensors = {names[key]: value.detach().cpu() for key, value in state.items()}
    other = recipe.other if recipe is not None else "float32"
    if other != "float32":
        for name, value in tensors.items():
            if value.is_floating_point() and not name.endswith(COEFFICIENTS):
                tensors[name] = _cast(name, value, other)
    for layer, _, curve in curves(model):
        positions = tensors[layer + POSITIONS]
        values, scales = store(tensors[layer + COEFFICIENTS], curve.precision)
        tensors[layer + POSITIONS] = pack(positions, width_of(curve.length))
        tensors[layer + COEFFICIENTS] = values
        if scales is not None:
            tensors[layer + SCALES] = scales
    return tensors


def _cast(name: str, value: Tensor, precision: str) -> Tensor:
    cast = value.to(getattr(torch, precision))
    if not torch.isfinite(cast).all():
        raise TenreoError(
            f"{name}: a value of {value.abs().max():.3g} does not fit into {precision}; say --other bfloat16"
        )
    return cast


def _sort_metadata(path: Path) -> None:
    """Put a header's metadata in order: safetensors writes it in a random one, never twice alike."""
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(text.ljust(size))  # the format pads its header with spaces


def _file_names(model: nn.Module) -> dict[str, str]:
    """State-dict key -> name in a file."""
    names = {key: key for key in model.state_dict()}
    for layer, _, _ in curves(model):
        prefix = f"{layer}.parametrizations.weight"
        names[f"{prefix}.original"] = layer + COEFFICIENTS
        names[f"{prefix}.0.positions"] = layer + POSITIONS
    return names


def read_tensors(header: Header) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file."""
    tensors: dict[str, Tensor] = load_file(header.path)
    return tensors


def restore_(model: nn.Module, header: Header, tensors: dict[str, Tensor]) -> nn.Module:
    """Fill a dense model of the right shapes with a file's tensors, compressing layers on the way.

    Returns:
        The same model.

    Raises:
        TenreoError: when a name, shape, dtype or value does not fit; the message names it.
    """
    modules = dict(model.named_modules())
    plain = dict(tensors)
    for name, entry in header.layers.items():
        layer = modules.get(name)
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or tuple(layer.weight.shape) != entry.shape:
            raise TenreoError(f"{header.path}: the model has no layer {name} of shape {list(entry.shape)}")
        encoded = _read_layer(name, entry, plain, header.path)
        plain[name + COEFFICIENTS], plain[name + POSITIONS] = encoded.coefficients, encoded.positions
        encoded = replace(encoded, coefficients=encoded.coefficients.to(layer.weight.dtype))
        attach_(layer, encoded, entry.precision).measured = {
            "snr": entry.snr, "snr_unrefined": entry.snr_unrefined, "signal": entry.signal,
        }  # fmt: skip
    for name, tensor in plain.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TenreoError(f"{header.path}: {name} holds NaN or infinity; the file is damaged")
    fill_(model, plain, header.path)
    return model


def _read_layer(name: str, entry: LayerEntry, tensors: dict[str, Tensor], path: Path) -> EncodedWeight:
    """Unpack a layer's tensors; scales are taken out, being no part of the model."""
    positions = tensors[name + POSITIONS]
    if entry.position_bits != 32:
        positions = unpack(positions, entry.position_bits, entry.columns)
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < entry.length:
        raise TenreoError(f"{path}: {name + POSITIONS} leaves [0, {entry.length}); the file is damaged")
    scales = tensors.pop(name + SCALES, None)
    values = tensors[name + COEFFICIENTS]
    coefficients = restore(values, scales, entry.precision, entry.groups, entry.kept)
    return EncodedWeight(coefficients, positions.to(torch.int32), entry.length, entry.shape)


def fill_(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors under their names in a file; every name that does not fit is told.

    Raises:
        TenreoError: naming what is missing, not expected, or of another shape.
    """
    own = model.state_dict()
    names = _file_names(model)
    # Files of old torch versions do not count batches, and nothing depends on it.
    missing = [n for n in names.values() if n not in tensors and not n.endswith("num_batches_tracked")]
    extra = sorted(set(tensors) - set(names.values()))
    wrong = [
        f"{n} {list(tensors[n].shape)} instead of {list(own[key].shape)}"
        for key, n in names.items()
        if n in tensors and tensors[n].shape != own[key].shape
    ]
    problems = [
        f"{what}: {', '.join(keys)}"
        for what, keys in (("missing", missing), ("not expected", extra), ("shape", wrong))
        if keys
    ]
    if problems:
        raise TenreoError(f"{path} does not fit the model; {'; '.join(problems)}")
    # Some layers (MNASNet) ask which version of themselves was saved; files do not say: this one.
    versioned = OrderedDict((key, tensors[n]) for key, n in names.items() if n in tensors)
    versioned._metadata = own._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=False)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a .pth file, plain or under `state_dict` or `model`, unprefixed.

    Raises:
        TenreoError: when it holds anything but tensors and plain values, or no state dict.
    """
    try:
        values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise TenreoError(f"{path}: can not be read as a torch file of plain tensors: {why}") from error
    for key in ("state_dict", "model"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    if not isinstance(values, dict) or not values or not all(isinstance(v, Tensor) for v in values.values()):
        raise TenreoError(f"{path}: holds no state dict (names and tensors)")
    return {str(k).removeprefix("module."): v.detach() for k, v in values.items()}

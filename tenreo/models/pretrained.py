"""Weights of torchvision's architectures: its own by name, files, or random ones."""

from __future__ import annotations

import urllib.error
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from tenreo.compression.serialization import load_tensors_
from tenreo.compression.tensor_checks import MisfitError
from tenreo.errors import TenreoError, shown
from tenreo.files.header import is_pickle, read_header
from tenreo.files.paths import check_readable
from tenreo.files.pickles import read_pickle
from tenreo.files.records import MOST_CLASSES, ModelInfo
from tenreo.files.safetensors import read_tensors
from tenreo.models.architectures import build_info, class_count, default_info, info_of, weights_of, with_transform
from tenreo.models.builders import build_model, builder_info, pretrained_timm
from tenreo.models.name_guesses import guess
from tenreo.models.names import architecture_names, check_architecture, is_safe

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # heads of Inception and GoogLeNet that only their training uses


def built_with_weights(
    builder: str, weights: str | None, seed: int = 0, kwargs: Mapping[str, Any] | None = None
) -> tuple[nn.Module, ModelInfo]:
    """Build a model by name and give it weights.

    Args:
        builder: as of `build_model`; a function is called.
        weights: a path, a name of torchvision's, or "none" for random ones; None downloads those of timm and
            torchvision, and keeps what a function gives.
        seed: of random weights.
        kwargs: arguments of the builder; the number of classes follows from a file where they do not say it.

    Raises:
        TenreoError: when there is no such model, or the weights do not fit or can not be downloaded.
    """
    source, _, name = builder.partition(":")
    torch.manual_seed(seed)
    given = dict(kwargs or {})
    if weights is None and source == "timm":
        model = pretrained_timm(name, given)
        tag = str(getattr(model, "pretrained_cfg", {}).get("tag") or "pretrained")
        return model, replace(builder_info(model, builder, given), weights=tag)
    state, path = _state_of(builder, weights)
    if state is not None and is_safe(builder):
        given |= fitting_arguments(builder, {key: tuple(value.shape) for key, value in state.items()}, given)
    model = build_model(builder, given, trusted=True)
    if state is not None and path is not None:
        _fill(model, state, path)
    known = weights if path is None else path.name
    return model, replace(builder_info(model, builder, given), weights=known)


def _state_of(builder: str, weights: str | None) -> tuple[dict[str, Tensor] | None, Path | None]:
    """The tensors that weights are, and where they come from; None where a model keeps its own."""
    source, _, name = builder.partition(":")
    if weights == "none" or (weights is None and source != "torchvision"):
        return None, None
    if source == "torchvision" and not (weights and _exists(Path(weights))):
        entry = _entry(name, weights)
        return dict(_downloaded(entry)), Path(_file_name(entry))
    path = Path(weights or "")
    return read_dense(path), path


def _entry(name: str, weights: str | None) -> Any:
    """Torchvision's weights of a model by their name, by default the first ones.

    Raises:
        TenreoError: naming what there is.
    """
    entries = list(torchvision.models.get_model_weights(name))
    names = [entry.name for entry in entries]
    wanted = (weights or "DEFAULT").rpartition(".")[2]
    if not entries or wanted not in (*names, "DEFAULT"):
        known = ", ".join(names) or f"a file: torchvision has no weights of {name}"
        raise TenreoError(f"weights: {shown(weights)} is neither a file, nor none, nor one of {known}")
    return next((entry for entry in entries if entry.name == wanted), entries[0])


def read_dense(path: Path) -> dict[str, Tensor]:
    """The tensors of a dense model's file of any kind.

    Raises:
        TenreoError: when it can not be read, or is compressed.
    """
    check_readable(path)
    if is_pickle(path):
        return read_pickle(path)
    if read_header(path).layers:
        raise TenreoError(f"{path}: is compressed already; give the dense weights")
    return read_tensors(path)


def fitting_arguments(builder: str, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with which a model has the tensors of a file: the number of classes, and an auxiliary output.

    Args:
        builder: of timm or torchvision.
        shapes: of the dense model's tensors, by name.
        given: arguments that are known.

    Returns:
        What is to be added; nothing where the model fits without, or with no choice.
    """
    wanted = _needed(shapes)
    last = [name for name in wanted if len(wanted[name]) > 1][-1:]
    heads = [*last, *(name for name in wanted if name.endswith("cls_score.weight"))]
    choices: list[dict[str, Any]] = [{}, *({"num_classes": wanted[name][0]} for name in heads)]
    if any(name.startswith("aux_classifier.") for name in wanted):
        choices = [{**choice, "aux_loss": True} for choice in choices]
    for choice in choices:
        try:
            state = build_model(builder, {**choice, **given}, "meta").state_dict()
        except TenreoError:
            continue
        if _needed({name: tuple(value.shape) for name, value in state.items()}) == wanted:
            return {name: value for name, value in choice.items() if name not in given}
    return {}


def _needed(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def with_weights(arch: str | None, weights: str | None, seed: int = 0) -> tuple[nn.Module, ModelInfo]:
    """Build an architecture and give it weights.

    Args:
        arch: a classification architecture of torchvision; None takes that which the weights name.
        weights: a name such as IMAGENET1K_V1 (the default) or ResNet18_Weights.IMAGENET1K_V1, a path, or "none" for
            random ones.
        seed: of the random weights.

    Raises:
        TenreoError: when the weights do not exist, do not fit, or can not be downloaded.
    """
    arch = arch or named_architecture(weights)
    info = default_info(arch)
    name = weights_name(arch, weights)
    if name == "none":
        torch.manual_seed(seed)
        info = with_transform(replace(info, weights="none"), False)
        return build_info(info), info
    return _from_file(Path(weights or ""), info) if name is None else _download(arch, name)


def named_architecture(weights: str | None) -> str:
    """The architecture that weights name: of a file of tenreo's, or of a name such as ResNet18_Weights.DEFAULT.

    Raises:
        TenreoError: when they name none.
    """
    family = (weights or "").rpartition(".")[0]
    if family.endswith("_Weights"):
        for arch in architecture_names():
            if weights_of(arch).__name__ == family:
                return arch
    elif weights is not None and weights not in ("none", "DEFAULT"):
        path = Path(weights)
        arch_of_file = None if is_pickle(path) else read_header(path).info.arch
        if arch_of_file is not None:
            check_architecture(arch_of_file)
            return arch_of_file
    raise TenreoError(f"arch: given none, and the weights {shown(weights)} do not name it; give it, such as resnet18")


def weights_name(arch: str, weights: str | None) -> str | None:
    """The name among torchvision's weights that weights are, or "none"; None of a file.

    >>> weights_name("resnet18", "ResNet18_Weights.DEFAULT"), weights_name("resnet18", "none")
    ('IMAGENET1K_V1', 'none')

    Raises:
        TenreoError: when they are neither, naming what there is.
    """
    enumeration = weights_of(arch)
    given = default_info(arch).weights if weights is None else weights
    family, _, name = (given or "").rpartition(".")
    if name in enumeration.__members__ and family in ("", enumeration.__name__):
        return str(enumeration[name].name)
    if weights == "none":
        return "none"
    path = Path(weights or "")
    if _exists(path):
        check_readable(path)
        return None
    names = list(dict.fromkeys(entry.name for entry in enumeration))
    if family.endswith("_Weights"):
        raise TenreoError(
            f"weights: given {shown(weights)}, but those of {arch} are {enumeration.__name__}.{' or '.join(names)}"
        )
    raise TenreoError(f"weights: {shown(weights)} is neither a file, nor none, nor one of {', '.join(names)}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name
        return False


def check_weights(arch: str, weights: str | None) -> None:
    """Raise unless weights are a name that torchvision knows, a file, or "none".

    Raises:
        TenreoError: naming what there is.
    """
    weights_name(arch, weights)


def _download(arch: str, name: str) -> tuple[nn.Module, ModelInfo]:
    entry = weights_of(arch)[name]
    return _filled(info_of(arch, entry), _downloaded(entry), Path(_file_name(entry)))


def _downloaded(entry: Any) -> Mapping[str, Tensor]:
    """The state dict of torchvision's weights.

    Raises:
        TenreoError: when they can not be downloaded.
    """
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True)
        return state
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise TenreoError(
            f"weights: {entry.url} can not be downloaded ({error}); put {_file_name(entry)} "
            f"into {folder}, or give the path of a file, or none for random weights"
        ) from error


def _from_file(path: Path, info: ModelInfo) -> tuple[nn.Module, ModelInfo]:
    arch = info.arch or ""
    if is_pickle(path):
        state = read_pickle(path)
        compressed = any(key.endswith(".index") for key in state)
        own = [entry for entry in weights_of(arch) if _file_name(entry) == path.name]  # torchvision's own file
        info = info_of(arch, own[0]) if own else with_transform(info, False)
    else:
        header = read_header(path)
        state = read_tensors(path)
        compressed = bool(header.layers)
        if header.info.arch not in (None, arch):
            raise TenreoError(f"{path}: holds {header.info.arch}, given the architecture {arch}")
        info = with_transform(header.info) if header.info.arch else with_transform(info, False)
    if compressed:
        raise TenreoError(f"{path}: is compressed already; give the dense weights")
    classes = class_count(arch, {key: tuple(value.shape) for key, value in state.items()})
    if not 1 <= classes <= MOST_CLASSES:
        raise TenreoError(f"{path}: has {classes:,} classes, needs 1 to {MOST_CLASSES:,}")
    return _filled(replace(info, weights=path.name, classes=classes), state, path)


def _file_name(entry: Any) -> str:
    """The name of the file of torchvision's weights."""
    return str(entry.url).rsplit("/", 1)[1]


def _filled(info: ModelInfo, state: Mapping[str, Tensor], path: Path) -> tuple[nn.Module, ModelInfo]:
    """The model of an info with the tensors of a state dict."""
    model = build_info(info)
    _fill(model, {k: v for k, v in state.items() if not k.startswith(_AUXILIARY)}, path)
    return model, info


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensors of a state dict.

    Raises:
        MisfitError: with a guess whose they are.
    """
    try:
        load_tensors_(model, state, path)
    except MisfitError as error:
        raise MisfitError(f"{error}{guess({k: tuple(v.shape) for k, v in state.items()})}") from error

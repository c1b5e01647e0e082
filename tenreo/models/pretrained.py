"""Models with weights: torchvision's and timm's by name, those of a file, or random ones."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.compression.serialization import load_tensors_
from tenreo.errors import TenreoError, abbreviate, counted, raise_if_out_of_memory, shown
from tenreo.files.paths import check_readable
from tenreo.files.pickles import without_prefixes
from tenreo.files.records import MOST_CLASSES, ModelInfo
from tenreo.models.builders import build_info, check_model, pretrained_timm, with_transform
from tenreo.models.heads import last_layer
from tenreo.models.model_info import model_info, weights_of
from tenreo.models.name_guesses import OPTIONAL, guessing
from tenreo.models.names import check_source_of, is_safe
from tenreo.models.reference import read_any

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # heads of Inception and GoogLeNet that are used in training only


def with_weights(
    builder: str,
    weights: str | None,
    seed: int = 0,
    kwargs: Mapping[str, Any] | None = None,
    *,
    ignore_extra: bool = False,
    note: Callable[[str], None] | None = None,
) -> tuple[nn.Module, ModelInfo]:
    """Build a model by name and load its weights.

    Args:
        builder: timm:NAME, torchvision:NAME, or package.module:function, which is called.
        weights: name of torchvision's weights, with or without their class (ResNet18_Weights.IMAGENET1K_V1), path of
            a file, or "none" for random values. None downloads the default weights of timm or torchvision, and leaves
            the weights of a function's model unchanged.
        seed: seed of random weights.
        kwargs: arguments of the builder; those that follow from the tensors of a file are added.
        ignore_extra: whether tensors of a file that the model does not have are left out.
        note: called with a sentence about each way in which the file differs from the model's state dict.

    Returns:
        The model in evaluation mode, and its info.

    Raises:
        TenreoError: if there is no such model, or the weights do not exist, do not fit, or cannot be downloaded.
    """
    source, _, name = builder.partition(":")
    kwargs = dict(kwargs or {})
    torch.manual_seed(seed)
    if weights is None and source == "timm":
        model = pretrained_timm(name, kwargs)
        tag = str(getattr(model, "pretrained_cfg", {}).get("tag") or "pretrained")
        return model, replace(model_info(builder, kwargs, model), weights=tag)
    origin = find_weights(builder, weights)
    entry, stored = origin, ModelInfo()
    known = weights if origin is None else str(origin) if isinstance(origin, Path) else origin.name
    state: Mapping[str, Tensor] | None = None
    if isinstance(origin, Path):
        state, stored = _read_dense(origin, builder, note or _ignore)
        enumeration = weights_of(name) if source == "torchvision" else ()
        entry = next((entry for entry in enumeration if Path(entry.url).name == origin.name), None)
    elif origin is not None:
        state = _download(origin)
    if state is not None and is_safe(builder):
        kwargs |= fitting_arguments(builder, {key: tuple(value.shape) for key, value in state.items()}, kwargs)
    info = model_info(builder, kwargs, weights=entry)
    if info.arch is not None and stored.arch is not None:
        info = with_transform(replace(stored, classes=info.classes))
    elif entry is None:
        info = with_transform(info, False)
    info = replace(info, weights=known)
    model = build_info(info, trusted=True)
    if state is not None:
        own = {key: value for key, value in state.items() if info.arch is None or not key.startswith(_AUXILIARY)}
        own = _without_extra(model, own, note or _ignore) if ignore_extra else own
        with guessing(own):
            load_tensors_(model, own, origin if isinstance(origin, Path) else Path(Path(origin.url).name))
    return model, info if info.arch else replace(model_info(builder, kwargs, model), weights=known)


def _ignore(_: str) -> None:
    """Take no note."""


def _without_extra(model: nn.Module, state: Mapping[str, Tensor], note: Callable[[str], None]) -> dict[str, Tensor]:
    """Return the tensors that a model has, and note the names of the others."""
    names = model.state_dict().keys()
    extra = [name for name in state if name not in names]
    if extra:
        note(f"ignored: {counted(len(extra), 'tensor')} that the model does not have: {abbreviate(extra)}")
    return {name: value for name, value in state.items() if name in names}


def find_weights(builder: str, weights: str | None) -> Any:
    """Return where the weights of a model come from.

    >>> find_weights("torchvision:resnet18", "DEFAULT").name
    'IMAGENET1K_V1'

    Args:
        builder: timm:NAME, torchvision:NAME, or package.module:function.
        weights: as in `with_weights`.

    Returns:
        A member of torchvision's enumeration of the model's weights, the path of a file, or None if nothing is to be
        loaded.

    Raises:
        TenreoError: if the weights do not exist, naming the possible ones.
    """
    check_model(builder)
    source, _, name = builder.partition(":")
    if weights == "none" or (weights is None and source != "torchvision"):
        return None
    names: list[str] = []
    if source == "torchvision":
        enumeration = weights_of(name)
        names = [entry.name for entry in enumeration]
        family, _, member = (weights or next(iter(names), "")).rpartition(".")
        if member in enumeration.__members__ and family in ("", enumeration.__name__):
            return enumeration[member]
    if weights is not None and os.path.exists(weights):  # False for names that are too long or contain a NUL byte
        check_readable(Path(weights))
        return Path(weights)
    known = f", nor one of {', '.join(names)}" if names else ""
    raise TenreoError(f"weights: {shown(weights)} is neither a file, nor none{known}")


def fitting_arguments(builder: str, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments, `num_classes` and `aux_loss`, with which a model has the tensors of a file.

    Args:
        builder: timm:NAME or torchvision:NAME.
        shapes: shapes of the dense model's tensors, by name.
        given: arguments that are known.

    Returns:
        The arguments to add: the first ones with which all shapes agree, else the last ones with which the model can
        be built.
    """
    wanted = _compared(shapes)
    auxiliary: dict[str, Any] = {"aux_loss": True} if any(n.startswith("aux_classifier.") for n in wanted) else {}

    def built(choice: Mapping[str, Any]) -> nn.Module:
        return build_info(model_info(builder, {**choice, **given}), "meta")

    head = f"{last_layer(built(auxiliary))[0]}.weight"
    sizes = [shape[:1] for name, shape in wanted.items() if name.endswith("cls_score.weight") or name == head]
    classes = [size[0] for size in sizes if size and 1 <= size[0] <= MOST_CLASSES]
    best: dict[str, Any] = {}
    for choice in (auxiliary, *({**auxiliary, "num_classes": count} for count in classes)):
        try:
            state = built(choice).state_dict()
        except TenreoError:  # this model has no argument num_classes
            continue
        best = choice
        if _compared({name: tuple(value.shape) for name, value in state.items()}) == wanted:
            break
    return {name: value for name, value in best.items() if name not in given}


def _compared(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors that every file of a model contains."""
    return {
        name: shape for name, shape in shapes.items()
        if not name.endswith(OPTIONAL) and not name.startswith(_AUXILIARY)
    }  # fmt: skip


def _download(entry: Any) -> Mapping[str, Tensor]:
    """Download the state dict of torchvision's weights, unless it is in torch's cache."""
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise_if_out_of_memory(error)
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise TenreoError(
            f"weights: {entry.url} cannot be downloaded ({error}); put {Path(entry.url).name} "
            f"into {folder}, or give the path of a file, or none for random weights"
        ) from error


def _read_dense(path: Path, builder: str, note: Callable[[str], None]) -> tuple[Mapping[str, Tensor], ModelInfo]:
    """Read tensors and info of a dense model of the builder's architecture from a file of any kind."""
    header, state = read_any(path, named=True, note=note)
    if is_safe(builder) and header.info.name is None:
        plain = without_prefixes(state)
        if plain.keys() != state.keys():
            note(f"{path}: the names of its tensors are read without the prefix {next(iter(state)).partition('.')[0]}.")
        state = plain
    if any(name.endswith(OPTIONAL) and value.is_floating_point() for name, value in state.items()):
        note(f"{path}: its counters of batches ({OPTIONAL}) are floating-point numbers; they are read as integers")
    if header.info.arch is not None and header.kind != "reference":
        check_source_of(header, builder)
    if header.layers:
        raise TenreoError(f"{path}: is already compressed; give the file of the dense weights")
    return state, header.info

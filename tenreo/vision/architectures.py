"""Torchvision's architectures: building them, and giving them weights."""

from __future__ import annotations

import urllib.error
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from tenreo.compression.tensors import load_tensors_
from tenreo.errors import TenreoError
from tenreo.files.header import is_pickle, read_header
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.files.safetensors import read_pickle, read_tensors
from tenreo.vision.names import check_architecture

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # heads of Inception and GoogLeNet that only their training uses


def build(arch: str, classes: int = 1000, weights: str | None = None, device: str = "cpu") -> nn.Module:
    """Build an architecture with random weights, in evaluation mode.

    >>> build("resnet18", classes=10, device="meta").fc
    Linear(in_features=512, out_features=10, bias=True)

    Args:
        arch: a classification architecture of torchvision.
        classes: size of the output.
        weights: where the weights to be loaded come from; those of Inception and GoogLeNet that
            were trained by torchvision's ancestors expect an input that is transformed.
        device: "meta" for shapes alone.

    Raises:
        TenreoError: when there is no such architecture.
    """
    options: dict[str, Any] = {"num_classes": classes}
    if arch in ("googlenet", "inception_v3"):
        imagenet = (weights or "").startswith("IMAGENET")
        options |= {"transform_input": imagenet, "aux_logits": False, "init_weights": weights == "none"}
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = builder(arch)(weights=None, **options)
    return model.eval()


def builder(arch: str) -> Any:
    """Torchvision's function that builds an architecture.

    Raises:
        TenreoError: when there is no such architecture.
    """
    check_architecture(arch)
    return torchvision.models.get_model_builder(arch)


def default_info(arch: str) -> ModelInfo:
    """The info of an architecture with torchvision's first weights (the paper's baseline)."""
    entries = list(_weights(arch))
    return _info(arch, next((w for w in entries if w.name == "IMAGENET1K_V1"), entries[0]))


def _weights(arch: str) -> Any:
    """Torchvision's enumeration of the weights of an architecture."""
    return torchvision.models.get_model_weights(builder(arch))


def _info(arch: str, entry: Any) -> ModelInfo:
    t = entry.transforms()
    preprocess = Preprocess(t.resize_size[0], t.crop_size[0], tuple(t.mean), tuple(t.std), t.interpolation.value)
    return ModelInfo(arch, len(entry.meta["categories"]), entry.name, preprocess)


def with_weights(arch: str, weights: str | None, seed: int = 0) -> tuple[nn.Module, ModelInfo]:
    """Build an architecture and give it weights.

    Args:
        arch: a classification architecture of torchvision.
        weights: a name such as IMAGENET1K_V1 (the default), a path, or "none" for random ones.
        seed: of the random weights.

    Raises:
        TenreoError: when the weights do not exist, do not fit, or can not be downloaded.
    """
    info = default_info(arch)
    check_weights(arch, weights)
    if weights == "none":
        torch.manual_seed(seed)
        return build(arch, info.classes or 1000, "none"), replace(info, weights="none")
    if weights is None or weights == "DEFAULT" or weights in _names(arch):
        return _download(arch, weights or info.weights or "")
    return _from_file(Path(weights), info)


def _names(arch: str) -> list[str]:
    return [entry.name for entry in _weights(arch)]


def check_weights(arch: str, weights: str | None) -> None:
    """Raise unless weights are a name that torchvision knows, a file, or "none".

    Raises:
        TenreoError: naming what there is.
    """
    named = weights in (None, "none", "DEFAULT") or weights in _names(arch)
    if not named and not Path(str(weights)).exists():
        raise TenreoError(f"weights: {weights!r} is neither a file, nor none, nor one of {', '.join(_names(arch))}")


def _download(arch: str, name: str) -> tuple[nn.Module, ModelInfo]:
    entry = _weights(arch)[name]
    try:
        state = entry.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise TenreoError(
            f"weights: {entry.url} can not be downloaded ({error}); put {entry.url.rsplit('/', 1)[1]} "
            f"into {folder}, or give the path of a file, or none for random weights"
        ) from error
    return _filled(_info(arch, entry), state, Path(entry.url.rsplit("/", 1)[1]))


def _from_file(path: Path, info: ModelInfo) -> tuple[nn.Module, ModelInfo]:
    arch = info.arch or ""
    if is_pickle(path):
        state = read_pickle(path)
        compressed = any(key.endswith(".index") for key in state)
    else:
        header = read_header(path)
        state = read_tensors(path)
        compressed = bool(header.layers)
        if header.info.arch not in (None, arch):
            raise TenreoError(f"{path}: holds {header.info.arch}, given the architecture {arch}")
        if header.info.arch:
            info = header.info
    if compressed:
        raise TenreoError(f"{path}: is compressed already; give the dense weights")
    classes = class_count(arch, {key: tuple(value.shape) for key, value in state.items()})
    return _filled(replace(info, weights=path.name, classes=classes), state, path)


def _filled(info: ModelInfo, state: Mapping[str, Tensor], path: Path) -> tuple[nn.Module, ModelInfo]:
    """The model of an info with the tensors of a state dict."""
    model = build(info.arch or "", info.classes or 1000, info.weights)
    load_tensors_(model, {k: v for k, v in state.items() if not k.startswith(_AUXILIARY)}, path)
    return model, info


def classifier_name(model: nn.Module) -> str:
    """The name of a model's last Conv2d or Linear, which gives its outputs."""
    names: list[str] = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return names[-1]


def class_count(arch: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of classes that the classifier of a state dict has; 1000 where it has none."""
    name = classifier_name(build(arch, device="meta"))
    found = (shapes[key][0] for key in (f"{name}.bias", f"{name}.weight") if shapes.get(key))
    return next(found, 1000)

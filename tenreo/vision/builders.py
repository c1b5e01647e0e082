"""Models by name: torchvision's of every task, timm's, and functions of one's own."""

from __future__ import annotations

import importlib
import math
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from tenreo.errors import TenreoError, shown
from tenreo.files.records import ModelInfo, Preprocess

SAFE = ("torchvision", "timm")  # their names run none but their own code
_NAME = re.compile(r"[A-Za-z0-9_.]+")  # of a model; timm takes others for addresses
# Arguments that would read files or the network, which a name out of a file must not.
_FETCHING = ("pretrained", "weights", "checkpoint", "cache", "path", "file", "url", "hub", "scriptable", "exportable")


def is_safe(builder: str) -> bool:
    """Whether a builder is a name of torchvision's or timm's, which may be called because a file says so.

    >>> is_safe("timm:resnet18d"), is_safe("mynet:build")
    (True, False)
    """
    return builder.partition(":")[0] in SAFE


def check_builder(builder: str) -> None:
    """Raise unless a builder is of the form SOURCE:NAME.

    Raises:
        TenreoError: saying what the forms are.
    """
    source, colon, name = builder.partition(":")
    if not colon or not _NAME.fullmatch(source) or not _NAME.fullmatch(name):
        raise TenreoError(
            f"model: given {shown(builder)}, needs timm:NAME, torchvision:NAME or package.module:function"
        )


def build_model(builder: str, kwargs: Mapping[str, Any], device: str = "cpu", trusted: bool = False) -> nn.Module:
    """Build a model with random weights, in evaluation mode.

    >>> build_model("torchvision:resnet18", {"num_classes": 10}, device="meta").fc
    Linear(in_features=512, out_features=10, bias=True)

    Args:
        builder: timm:NAME, torchvision:NAME, or package.module:function.
        kwargs: arguments of the model, numbers, words and flags.
        device: "meta" for shapes alone; a function of one's own always builds on the CPU.
        trusted: a function may be called; what it does is the business of who says so.

    Raises:
        TenreoError: when there is no such model, it can not be built so, or it may not be.
    """
    check_builder(builder)
    source, _, name = builder.partition(":")
    if source not in SAFE and not trusted:
        raise TenreoError(
            f"model: {builder} is a function, which a file alone is not allowed to call; where you trust it, "
            f"say trust_builder=True in Python, or name it as the model"
        )
    fetching = [key for key in kwargs if source in SAFE and any(word in key for word in _FETCHING)]
    if fetching:
        raise TenreoError(f"model: the argument {fetching[0]} of {builder} may read files, and is not allowed")
    make = {"timm": _of_timm, "torchvision": _of_torchvision}.get(source)
    try:
        with warnings.catch_warnings(), torch.device(device if source in SAFE else "cpu"):
            warnings.simplefilter("ignore")
            model = make(name, kwargs) if make else _own(source, name)(**kwargs)
    except TenreoError:
        raise
    except Exception as error:  # code of others can fail in any way
        raise TenreoError(f"model: {builder} can not be built: {error}") from error
    if not isinstance(model, nn.Module):
        raise TenreoError(f"model: {builder} gave a {type(model).__name__}, needs a torch.nn.Module")
    return model.eval()


def _of_timm(name: str, kwargs: Mapping[str, Any]) -> Any:
    timm = require_timm()
    if not timm.is_model(name):
        close = timm.list_models(f"{name[:6]}*")[:5] or timm.list_models("resnet1*")[:5]
        raise TenreoError(f"model: timm has no model {name!r}; such as {', '.join(close)}")
    return timm.create_model(name, pretrained=False, **kwargs)


def require_timm() -> Any:
    """The package timm.

    Raises:
        TenreoError: when it is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise TenreoError("model: timm is not installed; install tenreo[timm]") from error


def pretrained_timm(name: str) -> nn.Module:
    """A model of timm with its weights, which are downloaded.

    Raises:
        TenreoError: when they can not be.
    """
    try:
        model: nn.Module = require_timm().create_model(name, pretrained=True)
    except Exception as error:  # of several packages that download
        raise TenreoError(
            f"weights: those of timm:{name} can not be downloaded ({error}); give a file, or none for random weights"
        ) from error
    return model.eval()


def _of_torchvision(name: str, kwargs: Mapping[str, Any]) -> Any:
    names = torchvision.models.list_models()
    if name not in names:
        close = [each for each in names if each[:5] == name[:5]][:5] or names[:5]
        raise TenreoError(f"model: torchvision has no model {name!r}; such as {', '.join(close)}")
    backbone = {} if hasattr(torchvision.models, name) else {"weights_backbone": None}
    try:
        return torchvision.models.get_model(name, weights=None, **backbone, **kwargs)
    except TypeError:
        return torchvision.models.get_model(name, weights=None, **kwargs)


def _own(module: str, name: str) -> Any:
    """A function of a module, which may lie in the current folder, as with `python -m`."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def builder_info(model: nn.Module, builder: str, kwargs: Mapping[str, Any]) -> ModelInfo:
    """The info of a model that was built by name, with the preprocessing that its source states.

    Args:
        model: as it was built.
        builder: its name.
        kwargs: arguments that it was built with.
    """
    source, _, name = builder.partition(":")
    preprocess = Preprocess()
    if source == "timm":
        preprocess = _of_configuration(require_timm().data.resolve_model_data_config(model))
    elif source == "torchvision":
        preprocess = _of_weights(name)
    classes = getattr(model, "num_classes", None) or kwargs.get("num_classes")
    known = isinstance(classes, int) and classes > 0
    return ModelInfo(
        classes=classes if known else None, preprocess=preprocess, builder=builder, kwargs=dict(kwargs)
    )  # fmt: skip


def _of_configuration(config: Mapping[str, Any]) -> Preprocess:
    """Of a timm configuration: the crop is a share of what images are resized to."""
    crop = int(config["input_size"][-1])
    resize = math.floor(crop / config["crop_pct"])
    return Preprocess(resize, crop, tuple(config["mean"]), tuple(config["std"]), config["interpolation"])


def _of_weights(name: str) -> Preprocess:
    """Of torchvision's first weights of a classifier; the usual values for any other task."""
    entry = next(iter(torchvision.models.get_model_weights(name)), None)
    t: Any = entry.transforms() if entry is not None else None
    if not all(hasattr(t, part) for part in ("resize_size", "crop_size", "mean", "std", "interpolation")):
        return Preprocess()
    resize, crop = (size[0] if isinstance(size, (list, tuple)) else size for size in (t.resize_size, t.crop_size))
    if not isinstance(resize, int) or not isinstance(crop, int):
        return Preprocess()
    return Preprocess(resize, crop, tuple(t.mean), tuple(t.std), t.interpolation.value)

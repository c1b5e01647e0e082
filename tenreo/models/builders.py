"""Models by name: torchvision's of every task, timm's, and functions of one's own."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import nn

from tenreo.errors import TenreoError, shown
from tenreo.files.records import INTERPOLATIONS, MOST_CLASSES, ModelInfo, Preprocess
from tenreo.models.names import SAFE, check_builder, check_source, is_safe, see_working_folder

# Arguments that would read files or the network, which a name out of a file must not.
_FETCHING = ("pretrained", "weights", "checkpoint", "cache", "path", "file", "url", "hub", "scriptable", "exportable")


def build_model(builder: str, kwargs: Mapping[str, Any], device: str = "cpu", trusted: bool = False) -> nn.Module:
    """Build a model with random weights, in evaluation mode.

    >>> build_model("torchvision:resnet18", {"num_classes": 10}, device="meta").fc
    Linear(in_features=512, out_features=10, bias=True)

    Args:
        builder: timm:NAME, torchvision:NAME, or package.module:function.
        kwargs: arguments of the model, numbers, words and flags.
        device: "meta" for shapes alone, where the model can be built so; a function of one's own always builds on
            the CPU.
        trusted: a function may be called; what it does is the business of who says so.

    Raises:
        TenreoError: when there is no such model, it can not be built so, or it may not be.
    """
    check_builder(builder)
    source = builder.partition(":")[0]
    if source not in SAFE and not trusted:
        raise TenreoError(
            f"model: {builder} is a function, which a file alone is not allowed to call; where you trust it, "
            f"say trust_builder=True in Python, or name it as the model"
        )
    if source in SAFE:
        _check_arguments(builder, kwargs)
    try:
        model = _called(builder, kwargs, device if source in SAFE else "cpu")
    except NotImplementedError:  # some compute their widths with tensors, which on "meta" have no values
        model = build_model(builder, kwargs, "cpu", trusted) if device == "meta" else None
    except TenreoError:
        raise
    except Exception as error:  # code of others can fail in any way
        if device == "meta" and source in SAFE and "meta" in str(error):
            return build_model(builder, kwargs, "cpu", trusted)
        raise TenreoError(f"model: {builder} can not be built: {_said(error)}") from error
    if not isinstance(model, nn.Module):
        raise TenreoError(f"model: {builder} gave a {type(model).__name__}, needs a torch.nn.Module")
    return model.eval()


def _check_arguments(builder: str, kwargs: Mapping[str, Any]) -> None:
    """Raise where an argument, which a file may say, would read files or build without end.

    Raises:
        TenreoError: naming the argument.
    """
    for key, value in kwargs.items():
        if any(word in key for word in _FETCHING):
            raise TenreoError(f"model: the argument {key} of {builder} may read files, and is not allowed")
        numbers = [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, (int, float))]
        if any(abs(number) > MOST_CLASSES for number in numbers):
            raise TenreoError(f"model: the argument {key} of {builder} is {shown(value)}, at most {MOST_CLASSES:,}")


def _called(builder: str, kwargs: Mapping[str, Any], device: str) -> Any:
    """What a builder gives, made on a device."""
    source, _, name = builder.partition(":")
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        if source == "timm":
            return _of_timm(name, kwargs)
        if source == "torchvision":
            return _of_torchvision(name, kwargs)
        return find_function(builder)(**kwargs)


def _said(error: Exception) -> str:
    """What an exception says, or what it is where it says nothing."""
    return f"{type(error).__name__}: {error}" if isinstance(error, KeyError) or not str(error) else str(error)


def check_model(builder: str) -> None:
    """Raise unless there is a model of this name; a function's module is imported, but it is not called.

    Raises:
        TenreoError: naming some that there are.
    """
    check_source(builder)
    source, _, name = builder.partition(":")
    if source == "timm":
        _check_timm(name)
    elif not is_safe(builder):
        find_function(builder)


def _check_timm(name: str) -> Any:
    timm = require_timm()
    if not timm.is_model(name):
        close = timm.list_models(f"{name[:6]}*")[:5] or timm.list_models("resnet1*")[:5]
        raise TenreoError(f"model: timm has no model {name!r}; such as {', '.join(close)}")
    return timm


def _of_timm(name: str, kwargs: Mapping[str, Any]) -> Any:
    timm = _check_timm(name)
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


def pretrained_timm(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """A model of timm with its weights, which are downloaded, in evaluation mode.

    Raises:
        TenreoError: when they can not be.
    """
    timm = _check_timm(name)
    _check_arguments(f"timm:{name}", kwargs)
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **kwargs)
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


def find_function(builder: str) -> Any:
    """The function that a builder names; its module, which may lie in the current folder, is imported.

    Raises:
        TenreoError: when there is none.
    """
    module, _, name = builder.partition(":")
    see_working_folder()
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module of somebody else can fail in any way
        raise TenreoError(f"model: {builder} can not be imported: {_said(error)}") from error
    if not callable(found):
        raise TenreoError(f"model: {builder} is a {type(found).__name__}, needs a function that gives a model")
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
    channels, crop = int(config["input_size"][0]), int(config["input_size"][-1])
    resize = math.floor(crop / config["crop_pct"])
    how = config["interpolation"] if config["interpolation"] in INTERPOLATIONS else "bicubic"
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    return Preprocess(resize, crop, mean, std, how, channels)


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

"""Folders in timm's layout: config.json, which names an architecture of timm, next to a file of weights.

timm reads such a folder with `timm.create_model("local-dir:FOLDER", pretrained=True)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tenreo.errors import TenreoError
from tenreo.files.checkpoints import find_files
from tenreo.files.configs import CONFIG, read_config
from tenreo.files.header import check_info
from tenreo.files.records import MOST_CHANNELS, MOST_CLASSES, MOST_PIXELS, ModelInfo
from tenreo.files.repositories import Repository, download
from tenreo.files.values import Fields
from tenreo.models.builders import require_timm
from tenreo.models.model_info import timm_preprocess
from tenreo.models.names import check_builder
from tenreo.modules.wrappers import unwrapped

_SCALARS = (int, float, str, bool)
_MOST_NAME = 255  # characters of an architecture
# Entries with which a configuration names Python code of its own folder.
_CODE = ("auto_map", "trust_remote_code", "custom_pipelines")


@dataclass(frozen=True)
class TimmFolder:
    """A folder in timm's layout.

    Attributes:
        info: the builder timm:NAME with its arguments, the classes and the preprocessing.
        weights: file of the weights.
    """

    info: ModelInfo
    weights: Path


def is_timm(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration names an architecture of timm."""
    return "architecture" in config


def read_timm_folder(folder: Path) -> TimmFolder:
    """Read the configuration of a folder and find its weights. Nothing that it names is downloaded or run.

    Raises:
        TenreoError: if the configuration is missing, damaged, or not timm's, or the weights are in several files.
    """
    config = read_config(folder)
    check_no_code(folder, config)
    path = folder / CONFIG
    if not is_timm(config):
        raise TenreoError(f"{path}: names no architecture of timm; give a folder that timm wrote")
    try:
        info = _info(config)
    except (ValueError, TenreoError) as error:
        raise TenreoError(f"{path}: cannot be read as a configuration of timm: {error}") from error
    files = find_files(folder)
    if len(files.weights) > 1:
        raise TenreoError(f"{folder}: has {len(files.weights)} files of weights, needs one, such as model.safetensors")
    return TimmFolder(info, files.weights[0])


def fetch_timm(repository: Repository) -> Path:
    """Download the configuration, weights and card of a repository in timm's layout, and return their folder.

    Raises:
        TenreoError: if there is no such repository, or it cannot be downloaded.
    """
    return download(repository, (CONFIG, "model.safetensors", "README.md"))


def check_no_code(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise if a configuration names Python code of its own, without which its model cannot be built.

    Raises:
        TenreoError: naming the entry.
    """
    named = next((key for key in _CODE if config.get(key)), None)
    if named is not None:
        raise TenreoError(
            f"{folder / CONFIG}: names code of its own ({named}), which tenreo never runs; compress the files without "
            "the model, with tenreo compress FOLDER"
        )


def _info(config: Mapping[str, Any]) -> ModelInfo:
    """Return the info of the model that a configuration describes. Raise ValueError if a value is invalid."""
    read = Fields(config)
    # In older files, the configuration of the weights is at the top.
    own = read.values["pretrained_cfg"] if read.has("pretrained_cfg") else config
    weights = Fields(own)
    builder = f"timm:{read.text('architecture', _MOST_NAME)}"
    check_builder(builder)
    kwargs = read.scalars("model_args", _MOST_NAME) if read.has("model_args") else {}
    classes = next(
        (each.whole("num_classes", 0, MOST_CLASSES) for each in (read, weights) if each.has("num_classes")), 1000
    )
    size: tuple[int, ...] = (3, 224, 224)
    if weights.has("input_size"):
        size = weights.wholes("input_size", 1, max(MOST_CHANNELS, MOST_PIXELS), 3)
        if len(size) != 3 or max(size[1:]) > MOST_PIXELS:
            raise ValueError(
                f"input_size {list(size)}, needs channels, height and width, at most {MOST_PIXELS:,} pixels"
            )
    kwargs = {"num_classes": classes, **({"in_chans": size[0]} if size[0] != 3 else {}), **kwargs}
    classes = kwargs["num_classes"] if type(kwargs["num_classes"]) is int else classes
    if weights.has("fixed_input_size") and weights.flag("fixed_input_size"):
        kwargs.setdefault("img_size", size[1] if size[1] == size[2] else list(size[1:]))
    known = {
        "input_size": size,
        "crop_pct": weights.number("crop_pct", 0.1, 10) if weights.has("crop_pct") else 0.875,
        "interpolation": weights.text("interpolation", _MOST_NAME) if weights.has("interpolation") else "bicubic",
        "mean": _channels(weights, "mean", (0.485, 0.456, 0.406)),
        "std": _channels(weights, "std", (0.229, 0.224, 0.225)),
    }
    info = ModelInfo(
        classes=classes or None, preprocess=timm_preprocess(known), class_names=_class_names(config, own, classes),
        builder=builder, kwargs=kwargs,
    )  # fmt: skip
    check_info(info)
    return info


def _channels(weights: Fields, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    return weights.numbers(key, -1000.0, 1000.0, MOST_CHANNELS) if weights.has(key) else default


def _class_names(config: Mapping[str, Any], weights: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """Return the names of the classes, if the configuration lists one for each."""
    names: Any = config.get("label_names") or weights.get("label_names")
    listed = isinstance(names, list) and all(isinstance(each, str) and 0 < len(each) <= _MOST_NAME for each in names)
    return tuple(names) if listed and len(set(names)) == len(names) == classes else ()


def timm_builder(model: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """Return the builder timm:NAME and its arguments for a model that timm built, or None for any other model."""
    own: Any = unwrapped(model)
    config = getattr(own, "pretrained_cfg", None)
    if (
        not type(own).__module__.startswith("timm.")
        or not isinstance(config, Mapping)
        or not config.get("architecture")
    ):
        return None
    kwargs = {key: value for key, value in getattr(own, "_model_args", {}).items() if isinstance(value, _SCALARS)}
    channels = getattr(own, "in_chans", None) or next(
        (m.in_channels for m in own.modules() if isinstance(m, nn.Conv2d)), 3
    )
    kwargs |= {"num_classes": own.num_classes, **({"in_chans": channels} if channels != 3 else {})}
    return f"timm:{config['architecture']}", kwargs


def timm_config(info: ModelInfo) -> dict[str, Any]:
    """Return the configuration with which timm builds the model of an info, as plain values for JSON.

    Args:
        info: an info whose builder is timm:NAME.

    Raises:
        TenreoError: if timm is not installed.
    """
    name = str(info.builder).partition(":")[2]
    tag = info.weights if info.weights and "." not in info.weights and "/" not in info.weights else None
    timm = require_timm().models
    known = (timm.get_pretrained_cfg(f"{name}.{tag}") if tag else None) or timm.get_pretrained_cfg(name)
    weights: dict[str, Any] = {} if known is None else known.to_dict(remove_source=True)
    kwargs, p = dict(info.kwargs), info.preprocess
    classes = kwargs.pop("num_classes", info.classes or weights.get("num_classes", 1000))
    weights.pop("architecture", None)
    weights |= {
        "custom_load": False, "num_classes": classes, "input_size": [p.channels, p.crop, p.crop],
        "interpolation": p.interpolation, "crop_pct": p.crop / p.resize,
        "mean": list(p.mean) * (p.channels // len(p.mean)), "std": list(p.std) * (p.channels // len(p.std)),
    }  # fmt: skip
    for key in ("label_offset", "test_input_size", "test_crop_pct", "test_pool_size"):
        weights.pop(key, None)
    names = {"label_names": list(info.class_names)} if info.class_names else {}
    arguments = {"model_args": kwargs} if kwargs else {}
    return {"architecture": name, "num_classes": classes, **names, **arguments, "pretrained_cfg": weights}

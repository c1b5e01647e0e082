"""What a model takes, where nobody says: images of which shape, one or two at a time, in a tensor or a list."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.errors import TenreoError
from tenreo.files.records import MOST_CLASSES, Preprocess
from tenreo.models.identification import resemble


def input_shape(model: nn.Module, size: int | tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Channels, height and width of the images that a model takes; of videos channels, frames, height and width.

    Args:
        model: compressed or dense.
        size: side in pixels, or the whole shape; None asks the model's timm configuration, then torchvision.

    Raises:
        TenreoError: when it takes no images, or their size is not known.
    """
    if isinstance(size, tuple):
        return size
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((m for m in model.modules() if isinstance(m, convolutions)), None)
    if not isinstance(first, nn.Conv2d):
        raise TenreoError("input: the model does not take images, so none can be made up; give images or other inputs")
    timm = getattr(model, "pretrained_cfg", None)
    if size is None and isinstance(timm, Mapping) and timm.get("input_size"):
        size = int(timm["input_size"][-1])
    if size is None:
        info = resemble(model)
        if info.arch is None:
            raise TenreoError("input: the size of the model's input is not known; give it, or images")
        size = info.preprocess.crop
    return first.in_channels, size, size


def class_count(model: nn.Module, preprocess: Preprocess) -> int | None:
    """The number of classes that a classifier tells apart, by what it puts out; None of anything else.

    Args:
        model: in evaluation mode; it runs once.
        preprocess: how its images are prepared.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    images = torch.zeros(2, preprocess.channels, preprocess.crop, preprocess.crop).to(like)
    try:
        with torch.no_grad():
            outputs = model(images)
    except Exception:  # a model may take anything
        return None
    matrix = isinstance(outputs, Tensor) and outputs.dim() == 2 and len(outputs) == 2
    return int(outputs.shape[1]) if matrix and 1 <= outputs.shape[1] <= MOST_CLASSES else None


def takes_lists(model: nn.Module) -> bool:
    """Whether a model takes a list of images of any sizes, as torchvision's detectors do."""
    return any(cls.__module__.startswith("torchvision.models.detection") for cls in type(model).__mro__)


def arguments_of(model: nn.Module, images: Tensor) -> tuple[Any, ...]:
    """A batch of images as the arguments that a model's forward needs: a list, or as many batches as it requires.

    Args:
        model: compressed or dense.
        images: (batch, channels, height, width), or with frames.
    """
    if takes_lists(model):
        return (list(images),)
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.kind in positional and p.default is p.empty for p in parameters)
    # Two images, as optical flow takes them, differ.
    return tuple(images.roll(i, -1) for i in range(max(1, needed)))

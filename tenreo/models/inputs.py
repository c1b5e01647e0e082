"""Inputs and outputs of a model, derived from the model itself."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.errors import OutOfMemoryError, TenreoError, raise_if_out_of_memory
from tenreo.files.records import MOST_CLASSES, Preprocess
from tenreo.models.identification import similar_architecture

_SIDES = (224, 32, 28, 64, 96, 128, 160, 192, 256, 299, 384, 512, 16, 8)  # usual sides of images in pixels


def input_shape(model: nn.Module, size: int | tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return the shape of one input: (channels, height, width), or (channels, frames, height, width) of a video.

    Args:
        model: compressed or dense model.
        size: side of the image in pixels, or the shape itself; by default it is taken from the model's timm
            configuration or from torchvision's weights of its architecture.

    Raises:
        TenreoError: if the model does not take images, or their size is not known.
    """
    if isinstance(size, tuple):
        return size
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((m for m in model.modules() if isinstance(m, convolutions)), None)
    linear = _first_layer(model)
    if isinstance(linear, nn.Linear) and size is not None and linear.in_features in (size * size, 3 * size * size):
        return linear.in_features // (size * size), size, size
    if not isinstance(first, nn.Conv2d):
        raise TenreoError("input: the model does not take images, so no example can be generated; give the inputs")
    timm = getattr(model, "pretrained_cfg", None)
    if size is None and isinstance(timm, Mapping) and timm.get("input_size"):
        size = int(timm["input_size"][-1])
    if size is None:
        info = similar_architecture(model)
        if info.arch is None:
            raise TenreoError("input: the size of the model's input is not known; give the size, or images")
        size = info.preprocess.crop
    return first.in_channels, size, size


def find_input(model: nn.Module) -> tuple[int, int, int] | None:
    """Return the shape of images, (channels, height, width), that a model processes, derived from its first layer.

    >>> find_input(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 26 * 26, 10)))
    (1, 28, 28)

    Args:
        model: model in evaluation mode; it runs on images of usual sizes until it raises no error.

    Returns:
        The shape, or None if the first layer is not one for images.

    Raises:
        TenreoError: if the first layer takes images, but the model processes no usual size.
    """
    first = _first_layer(model)
    shapes: list[tuple[int, int, int]] = []
    if isinstance(first, nn.Conv2d):
        shapes = [(first.in_channels, side, side) for side in _SIDES]
    elif isinstance(first, nn.Linear):
        sides = ((c, math.isqrt(first.in_features // c)) for c in (1, 3))
        shapes = [(c, side, side) for c, side in sides if side > 1 and c * side * side == first.in_features]
    for shape in shapes:
        try:
            check_shape(model, shape)
        except TenreoError as error:
            if isinstance(error, OutOfMemoryError):
                raise
            continue
        return shape
    if isinstance(first, nn.Conv2d):
        raise TenreoError("input: not given, and the model takes none of the usual sizes; give it, such as 3x224x224")
    return None


def check_shape(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Raise TenreoError unless a model processes images of a shape; it runs once, on zeros."""
    try:
        with torch.no_grad():
            model(*arguments_of(model, _zeros(model, shape)))
    except Exception as error:  # of any type, as the model is any module
        raise_if_out_of_memory(error)
        first, why = _first_layer(model), (str(error).splitlines() or [type(error).__name__])[0]
        channels = f"its first layer takes {first.in_channels} channels; " if isinstance(first, nn.Conv2d) else ""
        size = "x".join(map(str, shape))
        raise TenreoError(
            f"input: the model does not take images of {size} ({why}); {channels}give another size"
        ) from error


def _first_layer(model: nn.Module) -> nn.Module | None:
    """Return the first layer with weights, in the order of the modules."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding, nn.RNNBase)
    return next((module for module in model.modules() if isinstance(module, kinds)), None)


def output_classes(model: nn.Module, preprocess: Preprocess) -> int | None:
    """Return the number of classes of a classifier from the shape of its outputs, or None for any other model.

    Args:
        model: model in evaluation mode; it runs once.
        preprocess: preprocessing of its images.
    """
    try:
        outputs = _outputs(model, preprocess)
    except Exception as error:  # a model that does not take such images may raise any error
        raise_if_out_of_memory(error)
        return None
    matrix = isinstance(outputs, Tensor) and outputs.dim() == 2 and len(outputs) == 2
    return int(outputs.shape[1]) if matrix and 1 <= outputs.shape[1] <= MOST_CLASSES else None


def check_input(model: nn.Module, preprocess: Preprocess) -> None:
    """Raise TenreoError unless a model takes images of the size of its preprocessing; it runs once.

    A file that is saved from Python may contain a preprocessing that is not the model's.
    """
    try:
        _outputs(model, preprocess)
    except Exception as error:  # of any type, as the model is any module
        size = f"{preprocess.channels}x{preprocess.crop}x{preprocess.crop}"
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise TenreoError(
            f"input: the model does not take images of {size}, which its file names ({why}); compress it with --input "
            "if it takes others, use evaluate --inputs if it takes no images, and train it in a loop of your own"
        ) from error


def _outputs(model: nn.Module, preprocess: Preprocess) -> Any:
    """Run a model on two images of zeros."""
    images = _zeros(model, (preprocess.channels, preprocess.crop, preprocess.crop))
    with torch.no_grad():
        return model(images)


def _zeros(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return two images of zeros in the dtype and on the device of a model."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype, device = (torch.float32, torch.device("cpu")) if like is None else (like.dtype, like.device)
    return torch.zeros(2, *shape, dtype=dtype, device=device)


def takes_lists(model: nn.Module) -> bool:
    """Return whether a model takes a list of images of different sizes, as torchvision's detectors do."""
    return any(cls.__module__.startswith("torchvision.models.detection") for cls in type(model).__mro__)


def arguments_of(model: nn.Module, images: Tensor) -> tuple[Any, ...]:
    """Return the positional arguments of a model's forward for a batch of images.

    Args:
        model: compressed or dense model.
        images: (batch, channels, height, width), or (batch, channels, frames, height, width).

    Returns:
        A list of images for detectors; otherwise one batch for each required parameter of forward.
    """
    if takes_lists(model):
        return (list(images),)
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.kind in positional and p.default is p.empty for p in parameters)
    # The batches differ, since optical flow between equal images would be zero.
    return tuple(images.roll(i, -1) for i in range(max(1, needed)))

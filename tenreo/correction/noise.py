"""Noise images for correcting statistics without data."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tenreo.models.inputs import arguments_of, input_shape, takes_lists

NOISE_PIXELS = 32 * 224 * 224  # pixels in a batch of noise; docs/research/statistics.md compares amounts


def noise_images(count: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Generate noise images with a 1/f amplitude spectrum, which photographs have on average.

    >>> noise_images(8, channels=3, size=32).shape
    torch.Size([8, 3, 32, 32])

    Returns:
        (count, channels, size, size) float32; over all images, each channel has mean 0 and standard deviation 1.
    """
    kind: Any = {"dtype": torch.float32, "device": "cpu"}
    white = torch.randn(count, channels, size, size, generator=torch.Generator("cpu").manual_seed(seed), **kind)
    rows, columns = torch.fft.fftfreq(size, **kind)[:, None], torch.fft.rfftfreq(size, **kind)[None]
    frequency = torch.hypot(rows, columns).clamp_min(1 / size)  # (size, size // 2 + 1)
    images = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(size, size))
    std, mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True)
    normalized: Tensor = (images - mean) / std
    return normalized


def noise_batch(model: nn.Module, size: int | tuple[int, ...] | None, seed: int) -> Iterator[Any]:
    """Yield one batch of noise in the shape and dtype of a model's input; nothing is generated before.

    The size is a side length in pixels, or a shape (channels, [frames,] height, width); None looks it up for the model.
    """
    shape = input_shape(model, size)
    frames = shape[1] if len(shape) == 4 else 1
    least = 4 if frames > 1 or takes_lists(model) else 32  # a video, or a detector's image, has many pixels
    most = 4 if takes_lists(model) else 512
    count = min(most, max(least, NOISE_PIXELS // (frames * shape[-1] * shape[-2])))
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    images = noise_images(count * frames, shape[0], shape[-1], seed).to(dtype)
    if len(shape) == 4:
        # (count, channels, frames, height, width)
        images = images.view(count, frames, *images.shape[1:]).transpose(1, 2)
    arguments = arguments_of(model, images)
    yield arguments[0] if len(arguments) == 1 else arguments


def use_batch_statistics_(model: nn.Module) -> None:
    """Let the BatchNorms of a copy of a model in evaluation mode use the statistics of their inputs.

    The statistics of a network's own images do not fit noise, which would saturate its activations.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean = module.running_var = None

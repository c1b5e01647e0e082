"""Noise images on which statistics are matched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.models.inputs import arguments_of, input_shape, takes_lists

NOISE_PIXELS = 32 * 224 * 224  # of a batch of noise, so many images; docs/research/refinement.md has the table


def noise_images(count: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Images whose amplitude falls as one over the frequency, as that of photographs does.

    >>> noise_images(8, channels=3, size=32).shape
    torch.Size([8, 3, 32, 32])

    Args:
        count: images.
        channels: of an image.
        size: side in pixels.
        seed: the same numbers for the same seed.

    Returns:
        (count, channels, size, size) float32, each channel of mean 0 and deviation 1 over all images.
    """
    white = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
    rows, columns = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    frequency = torch.hypot(rows, columns).clamp_min(1 / size)  # (size, size // 2 + 1)
    images = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(size, size))
    std, mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True)
    normalized: Tensor = (images - mean) / std
    return normalized


def noise_batch(model: nn.Module, size: int | tuple[int, ...] | None, seed: int) -> Iterator[Any]:
    """A batch of noise of the shape and dtype that a model takes; made when it is needed."""
    shape = input_shape(model, size)
    frames = shape[1] if len(shape) == 4 else 1
    few = frames > 1 or takes_lists(model)  # of which each has many pixels
    count = min(512, max(4 if few else 32, NOISE_PIXELS // (frames * shape[-1] * shape[-2])))
    count = min(count, 4) if takes_lists(model) else count
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    images = noise_images(count * frames, shape[0], shape[-1], seed).to(dtype)
    if len(shape) == 4:
        # (count, channels, frames, height, width)
        images = images.view(count, frames, *images.shape[1:]).transpose(1, 2)
    given = arguments_of(model, images)
    yield given[0] if len(given) == 1 else given

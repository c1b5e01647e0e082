"""Correcting the statistics of image models: on noise of the right size, or on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from tenreo.compression import statistics
from tenreo.errors import TenreoError
from tenreo.files.records import Correction
from tenreo.vision.models import identify

NOISE_PIXELS = 256 * 32 * 32  # of a batch of noise, so many images; docs/research/refinement.md has the table


def match_statistics_(
    compressed: nn.Module,
    dense: nn.Module,
    images: Iterable[Tensor] | None = None,
    *,
    size: int | None = None,
    seed: int = 0,
    source: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Correction:
    """Make a compressed model's statistics fit its weights, by the dense model's, in place.

    >>> import copy
    >>> from tenreo import Recipe, Uniform, compress_
    >>> dense = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64)).eval()
    >>> model = copy.deepcopy(dense)
    >>> _ = compress_(model, Recipe(4, Uniform(4.0)))
    >>> print(match_statistics_(model, dense, size=32))
    2 BatchNorms, on 256 images of noise

    Args:
        compressed: on any device.
        dense: the same model before it was compressed, on the same device.
        images: batches (batch, channels, height, width) of unlabeled inputs; None makes one of noise.
        size: side of the noise in pixels; None asks torchvision what the architecture was trained on.
        seed: of the noise.
        source: what the images are, for the report.
        progress: called with the number of images after each batch.

    Returns:
        How much was corrected: the BatchNorms, or where there are none the compressed layers' biases.

    Raises:
        TenreoError: when the models differ, or the noise does not fit them.
    """
    if images is None:
        images, source = [noise_images(*_input_shape(dense, size), seed)], "noise"
    return statistics.match_(compressed, dense, images, source or "images", progress)


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


def _input_shape(model: nn.Module, size: int | None) -> tuple[int, int, int]:
    """How many images of noise, of how many channels and pixels, a model gets."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if size is None:
        info = identify(model)
        if info.arch is None:
            raise TenreoError("statistics: the size of the model's input is not known; give size=32, or images")
        size = info.preprocess.crop
    channels = 3 if first is None else first.in_channels
    return min(256, max(32, NOISE_PIXELS // size**2)), channels, size

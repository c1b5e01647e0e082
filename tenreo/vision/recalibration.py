"""Correcting the statistics of image models: on noise of the right size, or on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.compression.batch_inputs import Forward
from tenreo.compression.statistics import match_
from tenreo.files.records import Correction
from tenreo.planning.wrappers import unwrapped
from tenreo.vision.inputs import arguments_of, input_shape, takes_lists

NOISE_PIXELS = 32 * 224 * 224  # of a batch of noise, so many images; docs/research/refinement.md has the table
BIAS_SHARE = 0.5  # of the correction of biases on noise, which does not say all of what a model sees


def match_statistics_(
    compressed: nn.Module,
    dense: nn.Module,
    images: Any = None,
    *,
    size: int | tuple[int, ...] | None = None,
    seed: int = 0,
    source: str | None = None,
    forward: Forward | None = None,
    progress: Callable[[int], None] | None = None,
) -> Correction:
    """Make a compressed model's statistics fit its weights, by the dense model's, in place.

    >>> import copy
    >>> from tenreo import Recipe, Uniform, compress_
    >>> dense = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64)).eval()
    >>> model = copy.deepcopy(dense)
    >>> _ = compress_(model, Recipe(4, Uniform(4.0)))
    >>> print(match_statistics_(model, dense, size=32))
    2 BatchNorms, on 512 images of noise

    Args:
        compressed: on any device, in either mode.
        dense: the same model before it was compressed, on the same device; it stays as it is.
        images: a tensor (batch, channels, height, width), or an iterable of batches: tensors, (images, labels)
            pairs, dictionaries of arguments, lists of images; None makes a batch of noise.
        size: side of the noise in pixels, or its shape (channels, height, width), of videos (channels, frames,
            height, width); None asks the model's timm configuration, then torchvision.
        seed: of the noise.
        source: what the images are, for the report.
        forward: runs a model on a batch as it comes, where the model takes its inputs in another way.
        progress: called with the number of images after each batch.

    Returns:
        How much was corrected: the BatchNorms, or where there are none the compressed layers' biases; its
        note says what was not.

    Raises:
        TenreoError: when the models differ, or the batches do not fit them; the model is then as before.
    """
    compressed, dense = unwrapped(compressed), unwrapped(dense)
    share = 1.0
    if images is None:
        images, source, share = _noise(dense, size, seed), "noise", BIAS_SHARE
    return match_(
        compressed, dense, images, source=source or "images", bias_share=share, forward=forward, progress=progress
    )


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


def _noise(model: nn.Module, size: int | tuple[int, ...] | None, seed: int) -> Iterator[Any]:
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

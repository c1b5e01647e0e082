"""Correcting the statistics of image models: on noise of the right size, or on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.compression.batch_inputs import Forward
from tenreo.compression.statistics import match_
from tenreo.errors import TenreoError
from tenreo.files.records import Correction
from tenreo.vision.identity import resemble

NOISE_PIXELS = 32 * 224 * 224  # of a batch of noise, so many images; docs/research/refinement.md has the table
BIAS_SHARE = 0.5  # of the correction of biases on noise, which does not say all of what a model sees


def match_statistics_(
    compressed: nn.Module,
    dense: nn.Module,
    images: Any = None,
    *,
    size: int | None = None,
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
        size: side of the noise in pixels; None asks the model's timm configuration, then torchvision.
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


def _noise(model: nn.Module, size: int | None, seed: int) -> Iterator[Tensor]:
    """A batch of noise of the channels, pixels and dtype that a model takes; made when it is needed."""
    channels, size, _ = input_shape(model, size)
    count = min(512, max(32, NOISE_PIXELS // size**2))
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    yield noise_images(count, channels, size, seed).to(dtype)


def input_shape(model: nn.Module, size: int | None = None) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model takes.

    Args:
        model: compressed or dense.
        size: side in pixels; None asks the model's timm configuration, then torchvision.

    Raises:
        TenreoError: when it takes no images, or their size is not known.
    """
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((m for m in model.modules() if isinstance(m, convolutions)), None)
    if not isinstance(first, nn.Conv2d):
        raise TenreoError("inputs: the model does not take images, so none can be made up; give images or other inputs")
    timm = getattr(model, "pretrained_cfg", None)
    if size is None and isinstance(timm, Mapping) and timm.get("input_size"):
        size = int(timm["input_size"][-1])
    if size is None:
        info = resemble(model)
        if info.arch is None:
            raise TenreoError("inputs: the size of the model's input is not known; give it, or images")
        size = info.preprocess.crop
    return first.in_channels, size, size

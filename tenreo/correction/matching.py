"""Correcting the statistics of image models: on noise of the right size, or on images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tenreo.correction.noise import noise_batch
from tenreo.correction.run_model import Forward
from tenreo.correction.statistics import match_
from tenreo.files.records import Correction
from tenreo.modules.wrappers import unwrapped

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
        images, source, share = noise_batch(dense, size, seed), "noise", BIAS_SHARE
    return match_(
        compressed, dense, images, source=source or "images", bias_share=share, forward=forward, progress=progress
    )

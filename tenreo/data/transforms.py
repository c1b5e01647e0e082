"""Transforms from PIL images to model inputs: torchvision's classification preset and augmentation."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as F

from tenreo.data.augmentation import Augmentation
from tenreo.files.records import Preprocess

# If the longer side of the resized image exceeds this multiple of the crop, only the part that the crop needs is
# resized: resizing the whole of an image of 1 x 60,000 pixels would take gigabytes.
_MAX_SIDE_PER_CROP = 8


class ImageTransform:
    """The transform from a PIL image to a model's input, in two stages.

    The first stage gives bytes, a quarter of the memory, so that a batch can be sent to a GPU before the second.

    Args:
        preprocess: the model's preprocessing.
        augment: augmentation.
        digits: whether the images are digits, which are not cropped or flipped.
        erase: probability that a random rectangle of an image is replaced by the mean color.

    Attributes:
        in_bytes: whether `pixels` and `normalize` suffice; erasing needs normalized images.
    """

    def __init__(self, preprocess: Preprocess, augment: Augmentation, digits: bool, erase: float = 0.0) -> None:
        self.mean, self.std = preprocess.mean, preprocess.std
        self.in_bytes = not erase
        self._pixels = _pixels(preprocess, augment, digits)
        self._erase = v2.RandomErasing(erase) if erase else None

    def __call__(self, picture: Any) -> Tensor:
        """Return (channels, crop, crop) float32 of a PIL image."""
        normalized = self.normalize(self.pixels(picture))
        return self._erase(normalized) if self._erase is not None else normalized

    def pixels(self, picture: Any) -> Tensor:
        """Return (channels, crop, crop) uint8 of a PIL image."""
        pixels: Tensor = self._pixels(picture)
        return pixels

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return the normalized float32 of pixels, (..., channels, height, width) uint8, on their device."""
        # The operations of torchvision's `normalize`, whose copies of mean and std would wait for a GPU.
        mean, std = (
            torch.tensor(values, device="cpu").view(-1, 1, 1).to(pixels.device, non_blocking=True)
            for values in (self.mean, self.std)
        )
        return (pixels.to(torch.float32) / 255).sub_(mean).div_(std)


def _pixels(preprocess: Preprocess, augment: Augmentation, digits: bool) -> Callable[[Any], Any]:
    """Return the transform from a PIL image to (channels, crop, crop) uint8."""
    preset = _ClassificationPreset(preprocess)
    steps: list[Callable[[Any], Any]] = [preset]
    if augment != Augmentation.NONE and digits:
        steps.insert(0, v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR))
    elif augment != Augmentation.NONE:
        steps = [
            v2.RandomResizedCrop(preprocess.crop, interpolation=preset.interpolation, antialias=True),
            v2.RandomHorizontalFlip(),
            *([v2.Grayscale()] if preprocess.channels == 1 else []),
            v2.PILToTensor(),
        ]
    if augment == Augmentation.RANDAUGMENT:
        steps.insert(1 if digits else 2, v2.RandAugment(interpolation=InterpolationMode.BILINEAR))
    return steps[0] if len(steps) == 1 else v2.Compose(steps)


class _ClassificationPreset:
    """Resize and crop the center, as torchvision's preset ImageClassification does."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self.interpolation = InterpolationMode(preprocess.interpolation)

    def __call__(self, picture: Image.Image) -> Tensor:
        p = self.preprocess
        cropped = F.center_crop(self._resized(picture), [p.crop])
        cropped = F.to_grayscale(cropped) if p.channels == 1 else cropped
        pixels: Tensor = F.pil_to_tensor(cropped)
        return pixels

    def _resized(self, picture: Image.Image) -> Image.Image:
        """Resize the shorter side of an image; for a very long image, only the center that the crop needs."""
        resize, crop = self.preprocess.resize, self.preprocess.crop
        short = min(picture.size)
        size = [int(resize * side / short) for side in picture.size]  # (width, height), rounded as in torchvision
        if max(size) <= _MAX_SIDE_PER_CROP * max(resize, crop):
            return F.resize(picture, [resize], self.interpolation, antialias=True)  # type: ignore[no-any-return]
        needed = [min(side, crop) for side in size]
        starts = [round((side - part) / 2) for side, part in zip(size, needed, strict=True)]
        scales = [original / side for original, side in zip(picture.size, size, strict=True)]
        left, top = (start * scale for start, scale in zip(starts, scales, strict=True))
        right, bottom = (
            min((start + part) * scale, original)
            for start, part, scale, original in zip(starts, needed, scales, picture.size, strict=True)
        )
        resampling = Image.Resampling[self.interpolation.name]
        return picture.resize((needed[0], needed[1]), resampling, (left, top, right, bottom))

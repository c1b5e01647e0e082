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


def image_transform(
    preprocess: Preprocess, augment: Augmentation, digits: bool, erase: float = 0.0
) -> Callable[[Any], Tensor]:
    """Return the transform from a PIL image to a model's input.

    Args:
        preprocess: the model's preprocessing.
        augment: augmentation.
        digits: whether the images are digits, which are not cropped or flipped.
        erase: probability that a random rectangle of an image is replaced by the mean color.

    Returns:
        A function from a PIL image to (3, crop, crop) float32.
    """
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
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocess.mean, preprocess.std),
        ]
    if augment == Augmentation.RANDAUGMENT:
        steps.insert(1 if digits else 2, v2.RandAugment(interpolation=InterpolationMode.BILINEAR))
    if erase:
        steps.append(v2.RandomErasing(erase))
    return steps[0] if len(steps) == 1 else v2.Compose(steps)


class _ClassificationPreset:
    """Resize, crop the center and normalize, as torchvision's preset ImageClassification does."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self.interpolation = InterpolationMode(preprocess.interpolation)

    def __call__(self, picture: Image.Image) -> Tensor:
        p = self.preprocess
        cropped = F.center_crop(self._resized(picture), [p.crop])
        cropped = F.to_grayscale(cropped) if p.channels == 1 else cropped
        scaled = F.convert_image_dtype(F.pil_to_tensor(cropped), torch.float32)
        normalized: Tensor = F.normalize(scaled, list(p.mean), list(p.std))
        return normalized

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

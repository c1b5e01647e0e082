"""Pictures to the inputs of a model: torchvision's resize, center crop and normalization, and augmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as F

from tenreo.data.augmentation import Augmentation
from tenreo.files.records import Preprocess

# Beyond this many times the crop, only the part of a resized picture that the crop needs is computed: a thin one of
# 1 x 60,000 pixels would take gigabytes.
_LONGEST = 8


def preparation(
    preprocess: Preprocess, augment: Augmentation, digits: bool, erase: float = 0.0
) -> Callable[[Any], Tensor]:
    """What makes an input of a picture.

    Args:
        preprocess: how the model wants its images.
        augment: how they are varied.
        digits: whether they are digits, which are not cropped or flipped.
        erase: share of the images of which a random rectangle becomes the mean color.

    Returns:
        PIL image -> (3, crop, crop) float32.
    """
    plain = _Plain(preprocess)
    steps: list[Callable[[Any], Any]] = [plain]
    if augment != Augmentation.NONE and digits:
        steps.insert(0, v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR))
    elif augment != Augmentation.NONE:
        steps = [
            v2.RandomResizedCrop(preprocess.crop, interpolation=plain.interpolation, antialias=True),
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


class _Plain:
    """Resize, center crop, normalize, as torchvision's own preset for classification does."""

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
        """The picture of the right size, or of a thin one the middle that the crop needs."""
        resize, crop = self.preprocess.resize, self.preprocess.crop
        short = min(picture.size)
        size = [int(resize * side / short) for side in picture.size]  # width and height, as torchvision rounds
        if max(size) <= _LONGEST * max(resize, crop):
            return F.resize(picture, [resize], self.interpolation, antialias=True)  # type: ignore[no-any-return]
        needed = [min(side, crop) for side in size]
        starts = [round((side - part) / 2) for side, part in zip(size, needed, strict=True)]
        scales = [own / side for own, side in zip(picture.size, size, strict=True)]
        left, top = (start * scale for start, scale in zip(starts, scales, strict=True))
        right, bottom = (
            min((start + part) * scale, own)
            for start, part, scale, own in zip(starts, needed, scales, picture.size, strict=True)
        )
        how = Image.Resampling[self.interpolation.name]
        return picture.resize((needed[0], needed[1]), how, (left, top, right, bottom))

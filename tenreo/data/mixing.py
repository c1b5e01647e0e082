"""Mixing the images of a batch: mixup and CutMix, as torchvision has them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms import v2

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mixing(mixup: float, cutmix: float, classes: int) -> Mix | None:
    """What mixes the images of a batch, by torch's random numbers; None where nothing does.

    Args:
        mixup: alpha of the Beta distribution by which images are blended (arXiv 1710.09412); 0 does not.
        cutmix: alpha of that of the part which is put into another image (arXiv 1905.04899); 0 does not.
        classes: outputs of the model; without labels 0.

    Returns:
        (images (batch, 3, height, width), labels (batch,)) -> the same images mixed, and the shares of the classes
        (batch, classes); without labels, these as they are.
    """
    count = max(classes, 1)
    chosen = [
        kind(alpha=alpha, num_classes=count)
        for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if alpha
    ]  # fmt: skip
    if not chosen:
        return None
    mix = chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)

    def mixed(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if classes:
            together: tuple[Tensor, Tensor] = mix(images, labels)
            return together
        return mix(images, labels.clamp(min=0))[0], labels

    return mixed

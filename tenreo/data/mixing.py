"""Mixing the images of a batch with torchvision's mixup and CutMix."""

from collections.abc import Callable

from torch import Tensor

Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def batch_mixer(mixup: float, cutmix: float, classes: int) -> Mixer | None:
    """Return a function that mixes the images of a batch, or None if both methods are off.

    If both methods are on, each batch uses one of them at random. The function draws from torch's global generator.

    Args:
        mixup: alpha of the Beta distribution of the blending weight (arXiv 1710.09412); 0 turns mixup off.
        cutmix: alpha of the Beta distribution of the pasted area (arXiv 1905.04899); 0 turns CutMix off.
        classes: number of outputs of the model; 0 for images without labels.

    Returns:
        A function from images (batch, 3, height, width) and labels (batch,) to the mixed images and the class
        probabilities (batch, classes). Without labels, the function returns the labels unchanged.
    """
    if not mixup and not cutmix:
        return None
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    chosen = [kind(alpha=alpha, num_classes=max(classes, 1)) for kind, alpha in kinds if alpha]
    mix = chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)

    def mixed(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if classes:
            result: tuple[Tensor, Tensor] = mix(images, labels)
            return result
        return mix(images, labels.clamp(min=0))[0], labels

    return mixed

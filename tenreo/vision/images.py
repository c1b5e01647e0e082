"""Labeled images: ImageNet-style folders, and scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification

from tenreo.errors import TenreoError
from tenreo.files.records import Preprocess
from tenreo.vision.names import Augmentation

DIGITS = "digits"


@dataclass(frozen=True)
class Broken:
    """Stands for an image that could not be read; raised as an error where batches are used."""

    path: str
    why: str


class Images(Dataset[Any]):
    """Labeled images, prepared for a model.

    Args:
        samples: (path or array (height, width) uint8, label).
        classes: number of different labels.
        prepare: PIL image -> (3, crop, crop) float32.
    """

    def __init__(self, samples: list[tuple[Any, int]], classes: int, prepare: Callable[[Any], Tensor]) -> None:
        self.samples = samples
        self.classes = classes
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int] | Broken:
        source, label = self.samples[i]
        try:
            with Image.fromarray(source) if isinstance(source, np.ndarray) else Image.open(source) as file:
                image = file.convert("RGB")
        except Exception as error:  # a damaged image can fail in any way
            return Broken(str(source), str(error) or type(error).__name__)
        return self.prepare(image), label

    @property
    def labeled(self) -> bool:
        """Whether the images have labels; loose ones have -1."""
        return self.classes > 0

    def limited(self, limit: int | None) -> Images:
        """At most `limit` images, spread evenly over all of them."""
        if limit is None or limit >= len(self):
            return self
        picked = np.linspace(0, len(self) - 1, limit).round().astype(int)
        return Images([self.samples[i] for i in picked], self.classes, self.prepare)


def open_images(
    data: str,
    split: str,
    preprocess: Preprocess,
    classes: int | None,
    augment: Augmentation = Augmentation.NONE,
) -> Images:
    """Open one split of a data set.

    Args:
        data: a folder with `train/` and `val/`, each with one folder per class; or "digits".
        split: train or val.
        preprocess: how the model wants its images.
        classes: outputs of the model; None skips the check.
        augment: how images are varied, for training.

    Raises:
        TenreoError: when a folder is missing or empty, or the classes are not as many as the
            model's; the message names the path.
    """
    prepare = _preparation(preprocess, augment, data == DIGITS)
    samples, count, where = _digits(split) if data == DIGITS else _folder(Path(data), split)
    if classes is not None and count != classes:
        raise TenreoError(f"{where}: has {count} classes, the model has {classes}; give the data it was trained on")
    return Images(samples, count, prepare)


def open_photographs(data: str, preprocess: Preprocess, classes: int | None) -> Images:
    """Open images to compare models on: a data set's val split, or any folder of loose images, without labels.

    Args:
        data: a folder with `val/`, one with images anywhere below it, or "digits".
        preprocess: how the model wants its images.
        classes: outputs of the model; None skips the check.

    Returns:
        The images; their labels are -1 where the folder has no `val/`.

    Raises:
        TenreoError: when the folder is missing, or holds no image.
    """
    folder = Path(data)
    if data == DIGITS or (folder / "val").is_dir() or not folder.is_dir():
        return open_images(data, "val", preprocess, classes)
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMG_EXTENSIONS and not f.name.startswith("."))
    if not files:
        raise TenreoError(f"{folder}: holds no image ({', '.join(IMG_EXTENSIONS)})")
    return Images([(f, -1) for f in files], 0, _preparation(preprocess, Augmentation.NONE, digits=False))


def _preparation(preprocess: Preprocess, augment: Augmentation, digits: bool) -> Callable[[Any], Tensor]:
    """PIL image -> (3, crop, crop) float32."""
    how = InterpolationMode(preprocess.interpolation)
    plain: Callable[[Any], Tensor] = ImageClassification(
        crop_size=preprocess.crop, resize_size=preprocess.resize, mean=preprocess.mean, std=preprocess.std,
        interpolation=how, antialias=True,
    )  # fmt: skip
    if augment == Augmentation.NONE:
        return plain
    if digits:
        moved = v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR)
        return v2.Compose([moved, plain])  # type: ignore[no-any-return]
    return v2.Compose(  # type: ignore[no-any-return]
        [
            v2.RandomResizedCrop(preprocess.crop, interpolation=how, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocess.mean, preprocess.std),
        ]
    )


def _digits(split: str) -> tuple[list[tuple[Any, int]], int, str]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise TenreoError("digits: needs scikit-learn; install tenreo[demo]") from error
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    shuffled = np.random.RandomState(0).permutation(len(images))
    chosen = shuffled[:360] if split == "val" else shuffled[360:]
    return [(images[i], int(digits.target[i])) for i in chosen], 10, DIGITS


def _folder(root: Path, split: str) -> tuple[list[tuple[Any, int]], int, str]:
    folder = root / split
    if not folder.is_dir():
        raise TenreoError(
            f"{folder}: no such folder; data are laid out as {root}/{split}/<class>/*.JPEG, or give digits"
        )
    samples: list[tuple[Any, int]] = []
    names = sorted(f for f in folder.iterdir() if f.is_dir())
    for label, name in enumerate(names):
        files = sorted(f for f in name.rglob("*") if f.suffix.lower() in IMG_EXTENSIONS)
        if not files:
            raise TenreoError(f"{name}: holds no image; every class needs one ({', '.join(IMG_EXTENSIONS)})")
        samples += [(f, label) for f in files]
    if not names:
        raise TenreoError(f"{folder}: holds no class folder; needs {folder}/<class>/*.JPEG")
    return samples, len(names), str(folder)

"""Images to batches: ImageNet-style folders, and scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from tenreo.errors import TenreoError
from tenreo.header import Preprocess

DIGITS = "digits"


@dataclass(frozen=True)
class Broken:
    """Stands for an image that could not be read; raised as an error where batches are used."""

    path: str
    why: str


class Images(Dataset[Any]):
    """Labelled images, prepared for a model.

    Args:
        samples: (path or array (height, width) uint8, label).
        classes: number of different labels.
        prepare: PIL image -> (3, crop, crop) float32.
    """

    def __init__(
        self, samples: list[tuple[Any, int]], classes: int, prepare: Callable[[Any], Tensor]
    ) -> None:
        self.samples = samples
        self.classes = classes
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int] | Broken:
        source, label = self.samples[i]
        try:
            image = Image.fromarray(source) if isinstance(source, np.ndarray) else Image.open(source)
            return self.prepare(image.convert("RGB")), label
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return Broken(str(source), str(error))

    def limited(self, limit: int | None) -> Images:
        """At most `limit` images, spread evenly over all of them."""
        if limit is None or limit >= len(self):
            return self
        picked = np.linspace(0, len(self) - 1, limit).round().astype(int)
        return Images([self.samples[i] for i in picked], self.classes, self.prepare)


def open_images(data: str, split: str, preprocess: Preprocess, classes: int | None) -> Images:
    """Open one split of a data set.

    Args:
        data: a folder with `train/` and `val/`, each with one folder per class; or "digits".
        split: train or val.
        preprocess: how the model wants its images.
        classes: outputs of the model; None skips the check.

    Raises:
        TenreoError: when a folder is missing or empty, or the classes are not as many as the
            model's; the message names the path.
    """
    prepare = ImageClassification(
        crop_size=preprocess.crop, resize_size=preprocess.resize, mean=preprocess.mean, std=preprocess.std,
        interpolation=InterpolationMode(preprocess.interpolation), antialias=True,
    )  # fmt: skip
    samples, count, where = _digits(split) if data == DIGITS else _folder(Path(data), split)
    if classes is not None and count != classes:
        raise TenreoError(
            f"{where}: has {count} classes, the model has {classes}; give the data it was trained on"
        )
    return Images(samples, count, prepare)


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
            f"{folder}: no such folder; data are laid out as {root}/{split}/<class>/*.JPEG, or say digits"
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


def _collate(samples: list[Any]) -> Any:
    return next((s for s in samples if isinstance(s, Broken)), None) or default_collate(samples)


class Batches:
    """Batches of (images, labels) on a device; a broken image is an error that names its path.

    Args:
        images: what to go through.
        batch_size: images per batch; a last batch of one is left out of training, where
            BatchNorm has no variance.
        device: where batches go.
        workers: processes that decode images.
        seed: shuffles, the same way for the same seed; None keeps the order.
    """

    def __init__(
        self, images: Images, batch_size: int, device: torch.device, workers: int = 0, seed: int | None = None
    ) -> None:
        training = seed is not None
        self.device = device
        self.loader = DataLoader(
            images, batch_size, shuffle=training, num_workers=workers, collate_fn=_collate,
            pin_memory=device.type == "cuda", drop_last=training and len(images) % batch_size == 1,
            generator=torch.Generator().manual_seed(seed or 0),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            if isinstance(batch, Broken):
                raise TenreoError(
                    f"{batch.path}: can not be read as an image ({batch.why}); repair or remove it"
                )
            images, labels = batch
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


def unlabelled(
    images: Images, batches: int, batch_size: int, workers: int = 0, seed: int = 0
) -> Iterator[Tensor]:
    """Some batches of a data set, without their labels, as the statistics of a model want them.

    Args:
        images: what to choose from.
        batches: at most so many.
        batch_size: images per batch.
        workers: processes that decode images.
        seed: the same images for the same seed.

    Yields:
        (batch_size, 3, crop, crop) float32, on the CPU.

    Raises:
        TenreoError: when an image can not be read.
    """
    loader = Batches(images, batch_size, torch.device("cpu"), workers, seed)
    return (batch for batch, _ in islice(loader, batches))

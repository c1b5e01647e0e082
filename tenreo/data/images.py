"""Images prepared for a model, opened from data sets in any layout of `layouts.py` or from scikit-learn's digits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from tenreo.data.augmentation import Augmentation
from tenreo.data.image_sources import decode_image, first_bytes, source_path, source_size
from tenreo.data.label_files import LabelFiles, read_class_map
from tenreo.data.labels import assign_labels, check_class_count
from tenreo.data.layouts import DIGITS, find_labeled, find_unlabeled, has_labels, locate, split_class_names
from tenreo.errors import TenreoError, abbreviate, install
from tenreo.files.records import Preprocess

_DIGIT_NAMES = tuple("0123456789")
# A fingerprint includes the sizes of 10,000 files and the first MiB of 100 files, so that it takes seconds.
_FINGERPRINT_SIZES, _FINGERPRINT_FILES, _FINGERPRINT_BYTES = 10_000, 100, 2**20


def _transform(preprocess: Preprocess, augment: Augmentation, data: str, erase: float) -> Callable[[Any], Tensor]:
    """Return the transform of the images of `data`; imports torchvision, which commands without images need not."""
    from tenreo.data.transforms import ImageTransform

    return ImageTransform(preprocess, augment, data == DIGITS, erase)


@dataclass(frozen=True)
class BrokenImage:
    """An image that cannot be read. `Batches` raises an error or skips it.

    Attributes:
        path: path of its file.
        why: reason.
    """

    path: str
    why: str


class DecodedImage(NamedTuple):
    """An image that was read.

    Attributes:
        image: (3, crop, crop) float32, or uint8 of `Images.in_bytes`.
        label: index of the model's output; -1 if unknown.
        path: path of its file; empty for an array.
        warnings: texts of Pillow's warnings.
    """

    image: Tensor
    label: int
    path: str
    warnings: list[str]


class Images(Dataset[Any]):
    """Images and their labels, prepared for a model.

    Args:
        samples: (source, label) of every image; a source is a path, a member of a tar file or an array (height, width)
            uint8.
        classes: number of classes; 0 for images without labels.
        prepare: transform from a PIL image to (3, crop, crop) float32; an `ImageTransform` can also give bytes.
        class_names: class names in the order of the labels; empty if unknown.
        doubt: what may be wrong with the labels; empty if they are certain.
    """

    def __init__(
        self,
        samples: list[tuple[Any, int]],
        classes: int,
        prepare: Callable[[Any], Tensor],
        class_names: tuple[str, ...] = (),
        doubt: str = "",
    ) -> None:
        self.samples, self.classes, self.prepare = samples, classes, prepare
        self.class_names, self.doubt = class_names, doubt

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int] | BrokenImage:
        result = self.read(i)
        return result if isinstance(result, BrokenImage) else result[:2]

    def in_bytes(self) -> tuple[Images, Callable[[Tensor], Tensor]] | None:
        """Return the same images as uint8, and the function that prepares a batch of them; None if there is none."""
        prepare: Any = self.prepare
        if not getattr(prepare, "in_bytes", False):
            return None
        result = copy(self)
        result.prepare = prepare.pixels
        return result, prepare.normalize

    def read(self, i: int) -> DecodedImage | BrokenImage:
        """Read an image. An image that needs too much memory counts as broken."""
        source, label = self.samples[i]
        try:
            picture, warnings = decode_image(source)
            return DecodedImage(self.prepare(picture), label, source_path(source), warnings)
        except Exception as error:  # decoders raise errors of many types for damaged images
            why = str(error).strip().splitlines()
            return BrokenImage(str(source), why[0] if why else type(error).__name__)

    @property
    def labeled(self) -> bool:
        """Whether the images have labels."""
        return self.classes > 0

    def limited(self, limit: int | None) -> Images:
        """Return at most `limit` of the images, evenly spaced."""
        if limit is None or limit >= len(self):
            return self
        subset = copy(self)
        subset.samples = [self.samples[i] for i in _evenly_spaced(len(self), limit)]
        return subset

    def with_labels(self, labels: Mapping[str, int]) -> Images:
        """Return the same images with other labels, by path. An image without a new label gets -1.

        The number of classes and their names stay the same, because they are part of a fingerprint.
        """
        result = copy(self)
        result.samples = [(source, labels.get(source_path(source), -1)) for source, _ in self.samples]
        return result

    def fingerprint(self) -> str:
        """Return a hash that identifies the images independently of the folder that contains them.

        The hash covers the names of all classes and files in their order, the sizes of 10,000 files and the content of
        100 files.
        """
        digest = sha256(repr((self.classes, self.class_names, len(self))).encode())
        for source, label in self.samples:
            name = os.path.basename(source_path(source))
            digest.update(f"\n{label} {name}".encode(errors="replace"))
        for i in _evenly_spaced(len(self), min(_FINGERPRINT_SIZES, len(self))):
            digest.update(str(source_size(self.samples[i][0])).encode())
        for i in _evenly_spaced(len(self), min(_FINGERPRINT_FILES, len(self))):
            digest.update(first_bytes(self.samples[i][0], _FINGERPRINT_BYTES) or b"-")
        return digest.hexdigest()[:16]


def _evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` evenly spaced indices below `total`."""
    return [int(i) for i in np.linspace(0, total - 1, count).round()]


def open_images(
    data: str,
    split: str,
    preprocess: Preprocess,
    classes: int | None,
    augment: Augmentation = Augmentation.NONE,
    class_names: tuple[str, ...] = (),
    label_files: LabelFiles = LabelFiles(),
    erase: float = 0.0,
) -> Images:
    """Open one labeled split of a data set; `find_labeled` describes the layouts.

    The label of an image is the index of its class name among the model's class names. If these are unknown, the class
    names of `train/`, or else of the split itself, are sorted as text, as in torchvision. Classes that are numbers are
    used as labels directly.

    Args:
        data: path of a folder with `train/` and `val/`, each with one folder per class; path of a tar file; or
            "digits".
        split: train, val (or validation), the name of another folder, or "." for the folder itself.
        preprocess: the model's preprocessing.
        classes: number of outputs of the model; None if labels are not used.
        augment: augmentation, for training.
        class_names: names of the model's outputs; the split may then contain a subset of the classes.
        label_files: files that give the classes.
        erase: probability of random erasing, for training.

    Raises:
        TenreoError: if a folder is missing or empty, or the classes are not the model's.
    """
    prepare = _transform(preprocess, augment, data, erase)
    if data == DIGITS:
        check_class_count(DIGITS, 10, classes)
        doubt = ""
        if class_names and class_names != _DIGIT_NAMES:
            doubt = f"digits: the labels are 0 to 9, but the model's file names its classes {abbreviate(class_names)}"
        return Images(_load_digits(split), 10, prepare, doubt=doubt)
    images = find_labeled(data, split, label_files.labels)
    train_names = () if classes is None or split == "train" else split_class_names(data, "train")
    class_map = None if label_files.class_map is None else read_class_map(label_files.class_map)
    labels = assign_labels(images, classes, class_names, train_names, class_map)
    samples = [(source, label) for (source, _), label in zip(images.samples, labels.labels, strict=True)]
    return Images(samples, labels.class_count, prepare, labels.class_names, labels.doubt)


def open_unlabeled(
    data: str, split: str, preprocess: Preprocess, augment: Augmentation = Augmentation.NONE, erase: float = 0.0
) -> Images:
    """Open the images of a split, or of the whole folder if it has no such split, with labels -1.

    Args:
        data: path of a folder that contains images at any depth, path of a tar file, or "digits".
        split: train, val or another name.
        preprocess: the model's preprocessing.
        augment: augmentation, for training.
        erase: probability of random erasing, for training.

    Raises:
        TenreoError: if there is no such folder or it contains no image.
    """
    prepare = _transform(preprocess, augment, data, erase)
    if data == DIGITS:
        return Images([(image, -1) for image, _ in _load_digits(split)], 0, prepare)
    return Images([(source, -1) for source in find_unlabeled(data, split)], 0, prepare)


def open_optionally_labeled(
    data: str,
    preprocess: Preprocess,
    classes: int | None,
    class_names: tuple[str, ...] = (),
    *,
    split: str = "val",
    label_files: LabelFiles = LabelFiles(),
) -> Images:
    """Open a split with its labels if it has labels, or else all images of the folder without labels.

    Args:
        data: path of a folder with `val/`, path of a folder that contains images at any depth, path of a tar file, or
            "digits".
        preprocess: the model's preprocessing.
        classes: number of outputs of the model; None skips the comparison.
        class_names: names of these outputs, as in `open_images`.
        split: name of the split, as in `open_images`.
        label_files: files that give the classes, as in `open_images`.

    Returns:
        The images, with labels -1 if their classes are unknown.

    Raises:
        TenreoError: if the folder, or a split with another name than val, is missing or contains no image.
    """
    if split != "val" and data != DIGITS:
        locate(data, split)  # a split that the user chose must exist; other images do not replace it
    if data == DIGITS or label_files.labels is not None or has_labels(data, split):
        return open_images(data, split, preprocess, classes, class_names=class_names, label_files=label_files)
    return open_unlabeled(data, split, preprocess)


def train_val_split(train: Images, val: Images) -> tuple[Images, Images]:
    """Divide images into nine tenths for training and every tenth image for evaluation.

    Args:
        train: all images, with augmentation.
        val: the same images without augmentation.

    Raises:
        TenreoError: if there are fewer than four images.
    """
    if len(train) < 4:
        raise TenreoError(f"given {len(train)} images, needs at least 4 to divide them into training and evaluation")
    step = min(10, len(train) // 2)
    train, val = copy(train), copy(val)
    train.samples = [sample for i, sample in enumerate(train.samples) if i % step]
    val.samples = val.samples[::step]
    return train, val


def _load_digits(split: str) -> list[tuple[Any, int]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise TenreoError(f"digits: needs scikit-learn; {install('demo')}") from error
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), originally from 0 to 16
    shuffled = np.random.RandomState(0).permutation(len(images))
    chosen = shuffled[:360] if split == "val" else shuffled[360:]
    return [(images[i], int(digits.target[i])) for i in chosen]

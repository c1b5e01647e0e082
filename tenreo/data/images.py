"""Images prepared for a model: data sets in any layout of `sources.py`, and scikit-learn's handwritten digits."""

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
from tenreo.data.classes import check_count, labels_of
from tenreo.data.folders import listed
from tenreo.data.image_files import beginning_of, name_of, read_picture, size_of
from tenreo.data.labels import read_class_map
from tenreo.data.layouts import DIGITS, Labeling, find_labeled, find_pictures, has_labels, locate
from tenreo.data.layouts import class_names as known_names
from tenreo.data.transforms import preparation
from tenreo.errors import TenreoError
from tenreo.files.records import Preprocess

_DIGIT_NAMES = tuple("0123456789")
# Of a fingerprint: files whose size is looked at, those that are read, and how much of each.
_SIZES, _CONTENTS, _BYTES = 10_000, 100, 2**20


@dataclass(frozen=True)
class Broken:
    """Stands for an image that could not be read; raised as an error where batches are used."""

    path: str
    why: str


class Read(NamedTuple):
    """An image that was read.

    Attributes:
        image: (3, crop, crop) float32.
        label: its class, -1 without one.
        path: of its file; empty where it has none.
        warned: what was wrong with its file, though not enough to break it.
    """

    image: Tensor
    label: int
    path: str
    warned: list[str]


class Images(Dataset[Any]):
    """Labeled images, prepared for a model.

    Args:
        samples: (path, member of a tar file, or array (height, width) uint8; label).
        classes: number of different labels.
        prepare: PIL image -> (3, crop, crop) float32.
        class_names: of the labels; empty where they are not known.
        doubt: what the labels may be wrong about; empty where they are certain.
    """

    def __init__(
        self,
        samples: list[tuple[Any, int]],
        classes: int,
        prepare: Callable[[Any], Tensor],
        class_names: tuple[str, ...] = (),
        doubt: str = "",
    ) -> None:
        self.samples = samples
        self.classes = classes
        self.prepare = prepare
        self.class_names = class_names
        self.doubt = doubt

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int] | Broken:
        read = self.read(i)
        return read if isinstance(read, Broken) else read[:2]

    def read(self, i: int) -> Read | Broken:
        """An image with all that is known of it; one that takes too much memory is broken as well."""
        source, label = self.samples[i]
        try:
            picture, warned = read_picture(source)
            return Read(self.prepare(picture), label, name_of(source), warned)
        except Exception as error:  # a damaged image can fail in any way
            why = str(error).strip().splitlines()
            return Broken(str(source), why[0] if why else type(error).__name__)

    @property
    def labeled(self) -> bool:
        """Whether the images have labels; loose ones have -1."""
        return self.classes > 0

    def limited(self, limit: int | None) -> Images:
        """At most `limit` images, spread evenly over all of them."""
        if limit is None or limit >= len(self):
            return self
        few = copy(self)
        few.samples = [self.samples[i] for i in spread(len(self), limit)]
        return few

    def labeled_by(self, labels: Mapping[str, int]) -> Images:
        """The same images with other labels, by path; those without one can not be read and keep -1.

        The labels are no part of what the images are: `classes` and names stay as they were.
        """
        others = copy(self)
        others.samples = [(source, labels.get(name_of(source), -1)) for source, _ in self.samples]
        return others

    def fingerprint(self) -> str:
        """A short text that other images do not have, wherever they lie.

        It says the names of all classes and files in their order, the sizes of ten thousand files, and what is in
        a hundred of them.
        """
        digest = sha256(repr((self.classes, self.class_names, len(self))).encode())
        for source, label in self.samples:
            name = os.path.basename(name_of(source))
            digest.update(f"\n{label} {name}".encode(errors="replace"))
        for i in spread(len(self), min(_SIZES, len(self))):
            digest.update(str(size_of(self.samples[i][0])).encode())
        for i in spread(len(self), min(_CONTENTS, len(self))):
            digest.update(beginning_of(self.samples[i][0], _BYTES) or b"-")
        return digest.hexdigest()[:16]


def spread(total: int, count: int) -> list[int]:
    """`count` of the numbers below `total`, evenly spaced."""
    return [int(i) for i in np.linspace(0, total - 1, count).round()]


def open_images(
    data: str,
    split: str,
    preprocess: Preprocess,
    classes: int | None,
    augment: Augmentation = Augmentation.NONE,
    class_names: tuple[str, ...] = (),
    labeling: Labeling = Labeling(),
    erase: float = 0.0,
) -> Images:
    """Open one split of a data set; `find_labeled` says how it may be laid out.

    Labels are the places of the classes' names among those of the model. Where its file does not say these, they are
    those of `train/`, or of the split itself, sorted as text, as torchvision sorts them. Classes that are numbers are
    labels as they are.

    Args:
        data: a folder with `train/` and `val/`, each with one folder per class; a tar file; or "digits".
        split: train, val (or validation), the name of another folder, or "." for the folder itself.
        preprocess: how the model wants its images.
        classes: outputs of the model; None for images whose labels are not looked at.
        augment: how images are varied, for training.
        class_names: of the model's outputs; a split may then have some of them alone.
        labeling: files that say the classes.
        erase: share of the images of which a random part is erased, for training.

    Raises:
        TenreoError: when a folder is missing or empty, or the classes are not the model's; the message names the path.
    """
    prepare = preparation(preprocess, augment, data == DIGITS, erase)
    if data == DIGITS:
        check_count(DIGITS, 10, classes)
        doubt = ""
        if class_names and class_names != _DIGIT_NAMES:
            doubt = f"digits: the labels are 0 to 9; the model's file names its classes {listed(class_names)}"
        return Images(_digits(split), 10, prepare, doubt=doubt)
    found = find_labeled(data, split, labeling.labels)
    trained = () if classes is None or split == "train" else known_names(data, "train")
    class_map = None if labeling.class_map is None else read_class_map(labeling.class_map)
    labels = labels_of(found, classes, class_names, trained, class_map)
    samples = [(source, label) for (source, _), label in zip(found.samples, labels.labels, strict=True)]
    return Images(samples, labels.classes, prepare, labels.names, labels.doubt)


def open_pictures(
    data: str, split: str, preprocess: Preprocess, augment: Augmentation = Augmentation.NONE, erase: float = 0.0
) -> Images:
    """Open images without labels: those of a split, or of any folder without that split.

    Args:
        data: a folder with images anywhere below it, a tar file, or "digits".
        split: train, val or another one, where the folder has it.
        preprocess: how the model wants its images.
        augment: how images are varied, for training.
        erase: share of the images of which a random part is erased.

    Returns:
        The images, with labels -1.

    Raises:
        TenreoError: when there is no such folder, or no image in it.
    """
    prepare = preparation(preprocess, augment, data == DIGITS, erase)
    if data == DIGITS:
        return Images([(image, -1) for image, _ in _digits(split)], 0, prepare)
    return Images([(source, -1) for source, _ in find_pictures(data, split).samples], 0, prepare)


def held_out(train: Images, val: Images) -> tuple[Images, Images]:
    """The same images, divided: nine tenths to learn from, every tenth to evaluate on.

    Args:
        train: all images, varied.
        val: the same, not varied.

    Raises:
        TenreoError: when there are fewer than four.
    """
    if len(train) < 4:
        raise TenreoError(f"given {len(train)} images, needs at least 4: some to learn from, some to evaluate on")
    step = min(10, len(train) // 2)
    train, val = copy(train), copy(val)
    train.samples = [each for i, each in enumerate(train.samples) if i % step]
    val.samples = val.samples[::step]
    return train, val


def open_photographs(
    data: str,
    preprocess: Preprocess,
    classes: int | None,
    class_names: tuple[str, ...] = (),
    *,
    split: str = "val",
    labeling: Labeling = Labeling(),
) -> Images:
    """Open images to compare models on: a labeled split where there is one, or any folder of loose images.

    Args:
        data: a folder with `val/`, one with images anywhere below it, a tar file, or "digits".
        preprocess: how the model wants its images.
        classes: outputs of the model; None skips the check.
        class_names: of these outputs, as `open_images` takes them.
        split: which one, as of `open_images`.
        labeling: as of `open_images`.

    Returns:
        The images; their labels are -1 where nothing says them.

    Raises:
        TenreoError: when the folder is missing, or a split of another name than val, or it holds no image.
    """
    if split != "val" and data != DIGITS:
        locate(data, split)  # was asked for by its name: not any picture instead
    if data == DIGITS or labeling.labels is not None or has_labels(data, split):
        return open_images(data, split, preprocess, classes, class_names=class_names, labeling=labeling)
    return open_pictures(data, split, preprocess)


def _digits(split: str) -> list[tuple[Any, int]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise TenreoError("digits: needs scikit-learn; install tenreo[demo]") from error
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    shuffled = np.random.RandomState(0).permutation(len(images))
    chosen = shuffled[:360] if split == "val" else shuffled[360:]
    return [(images[i], int(digits.target[i])) for i in chosen]

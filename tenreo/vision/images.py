"""Labeled images: ImageNet-style folders, and scikit-learn's handwritten digits."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from tenreo.errors import TenreoError
from tenreo.files.records import Preprocess
from tenreo.vision.decoding import read_picture
from tenreo.vision.folders import check_known, class_folders, image_files, in_doubt, listed
from tenreo.vision.names import Augmentation
from tenreo.vision.preparation import preparation

DIGITS = "digits"
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
        samples: (path or array (height, width) uint8, label).
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
            path = "" if isinstance(source, np.ndarray) else str(source)
            return Read(self.prepare(picture), label, path, warned)
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

    def fingerprint(self) -> str:
        """A short text that other images do not have, wherever they lie.

        It says the names of all classes and files in their order, the sizes of ten thousand files, and what is in
        a hundred of them.
        """
        digest = sha256(repr((self.classes, self.class_names, len(self))).encode())
        for source, label in self.samples:
            name = "" if isinstance(source, np.ndarray) else os.path.basename(source)
            digest.update(f"\n{label} {name}".encode(errors="replace"))
        for count, seen in ((_SIZES, _size), (_CONTENTS, _content)):
            for i in spread(len(self), min(count, len(self))):
                digest.update(seen(self.samples[i][0]))
        return digest.hexdigest()[:16]


def spread(total: int, count: int) -> list[int]:
    """`count` of the numbers below `total`, evenly spaced."""
    return [int(i) for i in np.linspace(0, total - 1, count).round()]


def _size(source: Any) -> bytes:
    try:
        return str(source.nbytes if isinstance(source, np.ndarray) else os.path.getsize(source)).encode()
    except OSError:  # a broken image, which is told where it is read
        return b"-"


def _content(source: Any) -> bytes:
    try:
        if isinstance(source, np.ndarray):
            return bytes(source)
        if not os.path.isfile(source):  # a pipe would be waited for
            return b"-"
        with open(source, "rb") as file:
            return file.read(_BYTES)
    except OSError:
        return b"-"


def open_images(
    data: str,
    split: str,
    preprocess: Preprocess,
    classes: int | None,
    augment: Augmentation = Augmentation.NONE,
    class_names: tuple[str, ...] = (),
) -> Images:
    """Open one split of a data set.

    Labels are the places of the folders' names among those of the classes. Where the model's file does not say these,
    they are the folders of `train/`, or of the split itself, sorted as text, as torchvision sorts them.

    Args:
        data: a folder with `train/` and `val/`, each with one folder per class; or "digits".
        split: train or val.
        preprocess: how the model wants its images.
        classes: outputs of the model; None for images whose labels are not looked at.
        augment: how images are varied, for training.
        class_names: of the model's outputs; a split may then have some of them alone.

    Raises:
        TenreoError: when a folder is missing or empty, or the classes are not the model's; the message names the path.
    """
    prepare = preparation(preprocess, augment, data == DIGITS)
    if data == DIGITS:
        _check_count(DIGITS, 10, classes)
        doubt = ""
        if class_names and class_names != _DIGIT_NAMES:
            doubt = f"digits: the labels are 0 to 9; the model's file names its classes {listed(class_names)}"
        return Images(_digits(split), 10, prepare, doubt=doubt)
    root = Path(data)
    if not (root / split).is_dir():
        raise TenreoError(
            f"{root / split}: no such folder; data are laid out as {root}/{split}/<class>/*.JPEG, or give digits"
        )
    folders = class_folders(root / split)
    if classes is None:
        names, doubt = tuple(folders), ""
    else:
        names, doubt = _names(root, split, tuple(folders), classes, class_names)
    labels = {name: label for label, name in enumerate(names)}
    samples = [(file, labels[name]) for name, folder in folders.items() for file in image_files(folder)]
    return Images(samples, len(names), prepare, names, doubt)


def _names(
    root: Path, split: str, found: tuple[str, ...], classes: int, known: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """The names of all classes in the order of their labels, and what is in doubt about it."""
    where = str(root / split)
    if known:
        _check_count("the model's file", len(known), classes)
        check_known(where, found, known, "the model's file")
        return known, ""
    train = root / "train"
    trained = tuple(class_folders(train)) if split != "train" and train.is_dir() else ()
    if len(trained) == classes:
        check_known(where, found, trained, str(train))
        found = trained
    _check_count(where, len(found), classes)
    doubt = ""
    if in_doubt(found):
        doubt = (
            f"{where}: the classes are numbered, and labels follow their order as text ({listed(found)}), as "
            "torchvision's do; the model's file does not say its own order"
        )
    return found, doubt


def _check_count(where: str, count: int, classes: int | None) -> None:
    if classes is not None and count != classes:
        raise TenreoError(f"{where}: has {count} classes, the model has {classes}; give the data it was trained on")


def open_photographs(
    data: str, preprocess: Preprocess, classes: int | None, class_names: tuple[str, ...] = ()
) -> Images:
    """Open images to compare models on: a data set's val split, or any folder of loose images, without labels.

    Args:
        data: a folder with `val/`, one with images anywhere below it, or "digits".
        preprocess: how the model wants its images.
        classes: outputs of the model; None skips the check.
        class_names: of these outputs, as `open_images` takes them.

    Returns:
        The images; their labels are -1 where the folder has no `val/`.

    Raises:
        TenreoError: when the folder is missing, or holds no image.
    """
    folder = Path(data)
    if data == DIGITS or (folder / "val").is_dir() or not folder.is_dir():
        return open_images(data, "val", preprocess, classes, class_names=class_names)
    files = image_files(folder)
    return Images([(f, -1) for f in files], 0, preparation(preprocess, Augmentation.NONE, digits=False))


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

"""Layouts of data sets: where the images are and which classes they have. This module does not import torch.

Every layout is converted to a list of image sources and classes; later stages do not depend on the layout. `labels.py`
converts the classes to the model's labels.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tenreo.data.folders import class_folders, find_class_files, find_image_files
from tenreo.data.label_files import ClassLabel, read_labels
from tenreo.data.metadata import METADATA_FILES, read_metadata
from tenreo.data.parquet import ENDING as PARQUET
from tenreo.data.parquet import ParquetImage, has_classes, read_parquet
from tenreo.data.shards import TarMember, read_shards
from tenreo.errors import TenreoError

DIGITS = "digits"  # name of the data set of handwritten digits that scikit-learn contains
_SHARDS = (".tar", PARQUET)  # endings of files that contain images
ROOT_SPLIT = "."  # name of the split that is the data folder itself
_SPLIT_FOLDERS = {"val": ("val", "validation")}  # folder names of a split that may have several


ImageFile = Path | TarMember | ParquetImage  # a file of an image, or its place in another file


class ImageList(NamedTuple):
    """Images of a data set and their classes.

    Attributes:
        location: path of the folder, tar file or Parquet file, for messages.
        samples: source and class of every image.
        class_names: names of the classes, sorted, or in the order of a Parquet file; empty if classes are numbers or
            unknown.
    """

    location: str
    samples: list[tuple[ImageFile, ClassLabel]]
    class_names: tuple[str, ...]


def find_labeled(data: str, split: str, labels: Path | None = None) -> ImageList:
    """List the images of a split with their classes.

    The classes are the names of folders, or they come from shards, Parquet files, a list of labels, `metadata.csv` or
    `metadata.jsonl`.

    Args:
        data: path of a folder that contains one folder per split, or of a tar or Parquet file.
        split: train, val (or validation), the name of another folder, or "." for the folder itself.
        labels: path of the list of labels of a folder without class folders.

    Raises:
        TenreoError: if there is no such split or an image has no class.
    """
    path, shards = locate(data, split)
    class_names: tuple[str, ...] = ()
    samples: list[tuple[ImageFile, ClassLabel]]
    if shards:
        samples, class_names = _read_shards(shards)
    elif labels is not None:
        files = find_image_files(path)
        samples = [*zip(files, read_labels(labels, path, files), strict=True)]
    elif (metadata := read_metadata(path)) is not None:
        samples = [*metadata]
    else:
        classes = find_class_files(path)
        samples = [(file, name) for name, files in classes.items() for file in files]
        return ImageList(str(path), samples, tuple(classes))
    for source, label in samples:
        if label is None:
            raise TenreoError(f"{source}: has no class; give labels, or use a command that needs none")
    return ImageList(str(path), samples, class_names or _names(samples))


def find_unlabeled(data: str, split: str) -> Sequence[ImageFile]:
    """List the images of a split, or of the whole folder if it has no such split.

    Raises:
        TenreoError: if there is no such folder or it contains no image.
    """
    path, shards = locate(data, split if has_split(data, split) else ROOT_SPLIT)
    return [image for image, _ in _read_shards(shards)[0]] if shards else find_image_files(path)


def _read_shards(shards: Sequence[Path]) -> tuple[list[tuple[ImageFile, ClassLabel]], tuple[str, ...]]:
    """Return the images and classes of tar or Parquet files, and the names of all classes in the files' order."""
    if shards[0].suffix == PARQUET:
        rows, class_names = read_parquet(shards)
        return [*rows], class_names
    return [*read_shards(shards)], ()


def split_class_names(data: str, split: str) -> tuple[str, ...]:
    """Return the class names of a split; empty if there is no such split or it consists of tar files."""
    if not has_split(data, split):
        return ()
    path, shards = locate(data, split)
    if shards:
        return _read_shards(shards)[1] if shards[0].suffix == PARQUET else ()
    metadata = read_metadata(path)
    return tuple(class_folders(path)) if metadata is None else _names(metadata)


def _names(samples: Iterable[tuple[object, ClassLabel]]) -> tuple[str, ...]:
    return tuple(sorted({label for _, label in samples if isinstance(label, str)}))


def has_split(data: str, split: str) -> bool:
    """Return whether a data set has a split of this name."""
    try:
        locate(data, split)
    except TenreoError:
        return False
    return True


def has_labels(data: str, split: str) -> bool:
    """Return whether a split has class folders, a metadata file, classes in Parquet files, or tar files."""
    try:
        path, shards = locate(data, split)
        if shards and shards[0].suffix == PARQUET:
            return has_classes(shards[0])
        return bool(shards) or any((path / name).is_file() for name in METADATA_FILES) or bool(class_folders(path))
    except TenreoError:
        return False


def locate(data: str, split: str) -> tuple[Path, list[Path]]:
    """Return the folder of a split and its tar or Parquet files, if any. For such a file, both are the file itself.

    Raises:
        TenreoError: if there is no such folder.
    """
    root = Path(data)
    try:
        if root.suffix in _SHARDS and root.is_file():
            return root, [root]
        names = (split,) if split == ROOT_SPLIT else _SPLIT_FOLDERS.get(split, (split,))
        for name in names:
            folder = root / name
            if folder.is_dir():
                return folder, _shards(folder)
        word = re.compile(rf"(^|[^a-z])({'|'.join(map(re.escape, names))})([^a-z]|$)", re.IGNORECASE)
        shards = [file for file in _shards(root) if word.search(file.stem)] if root.is_dir() else []
    except (OSError, ValueError) as error:  # for example, a name that is too long or a folder without permission
        why = getattr(error, "strerror", None) or error
        raise TenreoError(f"{root}: no such folder: {why}") from error
    if shards:
        return root, shards
    expected = root if split == ROOT_SPLIT else root / split
    example = "val" if split == ROOT_SPLIT else split
    raise TenreoError(
        f"{expected}: no such folder; the expected layout is {root}/{example}/<class>/*.JPEG, or give digits; a split "
        "may have another name, and . is the folder itself"
    )


def _shards(folder: Path) -> list[Path]:
    """Return the tar files in a folder, or else its Parquet files, each once even if links lead to it.

    Data sets of Hugging Face may have their Parquet files in the folder `data`.
    """
    for pattern in ("*.tar", f"*{PARQUET}", f"data/*{PARQUET}"):
        files = sorted((file for file in folder.glob(pattern) if not file.name.startswith(".")), reverse=True)
        if files:
            return sorted({os.path.realpath(file): file for file in files}.values())
    return []

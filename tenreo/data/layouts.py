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
from tenreo.data.shards import TarMember, read_shards
from tenreo.errors import TenreoError

DIGITS = "digits"  # name of the data set of handwritten digits that scikit-learn contains
ROOT_SPLIT = "."  # name of the split that is the data folder itself
_SPLIT_FOLDERS = {"val": ("val", "validation")}  # folder names of a split that may have several


class ImageList(NamedTuple):
    """Images of a data set and their classes.

    Attributes:
        location: path of the folder or tar file, for messages.
        samples: source and class of every image.
        class_names: names of the classes, sorted; empty if classes are numbers or unknown.
    """

    location: str
    samples: list[tuple[Path | TarMember, ClassLabel]]
    class_names: tuple[str, ...]


def find_labeled(data: str, split: str, labels: Path | None = None) -> ImageList:
    """List the images of a split with their classes.

    The classes are the names of folders, or they come from shards, a list of labels, `metadata.csv` or
    `metadata.jsonl`.

    Args:
        data: path of a folder that contains one folder per split, or of a tar file.
        split: train, val (or validation), the name of another folder, or "." for the folder itself.
        labels: path of the list of labels of a folder without class folders.

    Raises:
        TenreoError: if there is no such split or an image has no class.
    """
    path, shards = locate(data, split)
    if shards:
        samples: list[tuple[Path | TarMember, ClassLabel]] = [*read_shards(shards)]
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
    return ImageList(str(path), samples, _names(samples))


def find_unlabeled(data: str, split: str) -> Sequence[Path | TarMember]:
    """List the images of a split, or of the whole folder if it has no such split.

    Raises:
        TenreoError: if there is no such folder or it contains no image.
    """
    path, shards = locate(data, split if has_split(data, split) else ROOT_SPLIT)
    return [member for member, _ in read_shards(shards)] if shards else find_image_files(path)


def split_class_names(data: str, split: str) -> tuple[str, ...]:
    """Return the class names of a split; empty if there is no such split or it consists of shards."""
    if not has_split(data, split):
        return ()
    path, shards = locate(data, split)
    if shards:
        return ()
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
    """Return whether a split has class folders, a metadata file, or shards, which usually contain labels."""
    try:
        path, shards = locate(data, split)
        return bool(shards) or any((path / name).is_file() for name in METADATA_FILES) or bool(class_folders(path))
    except TenreoError:
        return False


def locate(data: str, split: str) -> tuple[Path, list[Path]]:
    """Return the folder of a split and its shards, if any. For a tar file, both are the file itself.

    Raises:
        TenreoError: if there is no such folder.
    """
    root = Path(data)
    try:
        if root.suffix == ".tar" and root.is_file():
            return root, [root]
        names = (split,) if split == ROOT_SPLIT else _SPLIT_FOLDERS.get(split, (split,))
        for name in names:
            folder = root / name
            if folder.is_dir():
                return folder, _tar_files(folder)
        word = re.compile(rf"(^|[^a-z])({'|'.join(map(re.escape, names))})([^a-z]|$)", re.IGNORECASE)
        shards = [file for file in _tar_files(root) if word.search(file.stem)] if root.is_dir() else []
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


def _tar_files(folder: Path) -> list[Path]:
    """Return the tar files in a folder, each once even if links lead to it."""
    files = sorted((file for file in folder.glob("*.tar") if not file.name.startswith(".")), reverse=True)
    return sorted({os.path.realpath(file): file for file in files}.values())

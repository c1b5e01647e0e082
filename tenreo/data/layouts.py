"""Where images lie and what classes they are said to have, in every layout that data sets come in. No torch.

A layout becomes samples, each a picture's place and its class; what comes after does not know the layout. `classes.py`
makes the model's labels of the classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tenreo.data.folders import class_folders, image_files
from tenreo.data.labels import METADATA, Class, read_labels, read_metadata
from tenreo.data.shards import Member, read_shards
from tenreo.errors import TenreoError

# What a split's folder may be called.
_SPLITS = {"val": ("val", "validation")}
DIGITS = "digits"  # names the data set of handwritten digits that scikit-learn ships
WHOLE = "."  # names the folder itself as a split


class Labeling(NamedTuple):
    """Files that say the classes of images, besides the names of their folders.

    Attributes:
        labels: list of file names and classes, for a flat folder; `read_labels` has the format.
        class_map: classes of the data and those of the model; `read_class_map` has the format.
    """

    labels: Path | None = None
    class_map: Path | None = None


class Found(NamedTuple):
    """Images that were found.

    Attributes:
        where: in words.
        samples: the place of every picture, and its class.
        classes: names of the classes, in the order of their labels unless the model knows better; empty where classes
            are numbers.
    """

    where: str
    samples: list[tuple[Path | Member, Class]]
    classes: tuple[str, ...]


def find_labeled(data: str, split: str, labels: Path | None = None) -> Found:
    """The images of a split with their classes.

    These are the names of folders; or what `metadata.csv`, `metadata.jsonl`, a list of labels or shards say.

    Args:
        data: a folder with one per split in it, or a tar file.
        split: train, val (or validation), another folder's name, or "." for the folder itself.
        labels: list of labels of a flat folder.

    Raises:
        TenreoError: when there is no such split, or something in it has no class.
    """
    place, shards = locate(data, split)
    if shards:
        samples: list[tuple[Path | Member, Class]] = [*read_shards(shards)]
    elif labels is not None:
        files = image_files(place)
        samples = [*zip(files, read_labels(labels, files), strict=True)]
    elif (listed := read_metadata(place)) is not None:
        samples = [*listed]
    else:
        folders = class_folders(place)
        samples = [(file, name) for name, folder in folders.items() for file in image_files(folder)]
        return Found(str(place), samples, tuple(folders))
    for source, said in samples:
        if said is None:
            raise TenreoError(f"{source}: nothing says its class; give labels, or do what needs none")
    return Found(str(place), samples, _named(said for _, said in samples))


def find_pictures(data: str, split: str) -> Found:
    """The images of a split, or of any folder without that split, whatever their classes are.

    Raises:
        TenreoError: when there is no such folder, or no image in it.
    """
    place, shards = locate(data, split if has_split(data, split) else WHOLE)
    if shards:
        return Found(str(place), [(member, None) for member, _ in read_shards(shards)], ())
    return Found(str(place), [(file, None) for file in image_files(place)], ())


def class_names(data: str, split: str) -> tuple[str, ...]:
    """The names of the classes of a split of class folders; empty where there is none or it is laid out otherwise."""
    if not has_split(data, split):
        return ()
    place, shards = locate(data, split)
    if shards:
        return ()
    listed = read_metadata(place)
    return tuple(class_folders(place)) if listed is None else _named(said for _, said in listed)


def _named(said: Iterable[Class]) -> tuple[str, ...]:
    return tuple(sorted({each for each in said if isinstance(each, str)}))


def has_split(data: str, split: str) -> bool:
    """Whether a folder has a split of this name."""
    try:
        locate(data, split)
    except TenreoError:
        return False
    return True


def has_labels(data: str, split: str) -> bool:
    """Whether something says the classes of a split's images: folders, metadata, or shards, which usually do."""
    if not has_split(data, split):
        return False
    place, shards = locate(data, split)
    if shards or any((place / name).is_file() for name in METADATA):
        return True
    try:
        return bool(class_folders(place))
    except TenreoError:
        return False


def locate(data: str, split: str) -> tuple[Path, list[Path]]:
    """The folder of a split, and its shards if it has any; of a tar file, the file.

    Raises:
        TenreoError: when there is no such folder.
    """
    root = Path(data)
    try:
        if root.suffix == ".tar" and root.is_file():
            return root, [root]
        names = (split,) if split == WHOLE else _SPLITS.get(split, (split,))
        for name in names:
            folder = root / name
            if folder.is_dir():
                return folder, _tar_files(folder)
        word = re.compile(rf"(^|[^a-z])({'|'.join(map(re.escape, names))})([^a-z]|$)", re.IGNORECASE)
        shards = [file for file in _tar_files(root) if word.search(file.stem)] if root.is_dir() else []
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be entered
        why = getattr(error, "strerror", None) or error
        raise TenreoError(f"{root}: no such folder: {why}") from error
    if shards:
        return root, shards
    wanted = root if split == WHOLE else root / split
    shown = "val" if split == WHOLE else split
    raise TenreoError(
        f"{wanted}: no such folder; data are laid out as {root}/{shown}/<class>/*.JPEG, or give digits; a split may "
        "have another name, and . is the folder itself"
    )


def _tar_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.tar") if not file.name.startswith("."))

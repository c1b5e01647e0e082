"""Folders of images: class folders, the files below them, and names of classes. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tenreo.errors import TenreoError

# torchvision's IMG_EXTENSIONS, which takes seconds to import.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_SHOWN = 5  # names in a message
_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)


def class_folders(folder: Path) -> dict[str, Path]:
    """The class folders of a split by name, sorted as text, which is torchvision's order of labels.

    Links are followed; hidden folders, such as `.ipynb_checkpoints`, are no classes.

    Raises:
        TenreoError: when there is none, the folder can not be read, or a name is no text.
    """
    found = {entry.name: Path(entry.path) for entry in _entries(folder) if _is_folder(entry)}
    if not found:
        raise TenreoError(f"{folder}: holds no class folder; needs {folder}/<class>/*.JPEG")
    for name in found:
        if not _is_text(name):
            raise TenreoError(f"{folder}: the name of the class folder {name!r} is not text; rename it")
    return dict(sorted(found.items()))


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted.

    Links to folders are followed, each real folder once; hidden files and folders, such as `._x.png`, are no data.
    What has an image's name and is no file is listed as well, so that it is named where it can not be read.

    Raises:
        TenreoError: when there is none, or a folder can not be read.
    """
    found: list[Path] = []
    waiting, seen = [folder], {_identity(folder)}
    while waiting:  # not recursively: folders may be nested deeper than Python's stack
        entries = _entries(waiting.pop())
        for entry in entries:
            if _is_folder(entry):
                below = Path(entry.path)
                if (real := _identity(below)) not in seen:
                    seen.add(real)
                    waiting.append(below)
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                found.append(Path(entry.path))
    if not found:
        raise TenreoError(f"{folder}: holds no image ({', '.join(EXTENSIONS)})")
    return sorted(found)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise TenreoError(f"{folder}: can not be read: {error.strerror}; repair or remove it") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether this is a folder or leads to one; a link to itself leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int]:
    """What the same folder has under all of its names."""
    try:
        known = folder.stat()
    except OSError as error:
        raise TenreoError(f"{folder}: can not be read: {error.strerror}; repair or remove it") from error
    return known.st_dev, known.st_ino


def _is_text(name: str) -> bool:
    """Whether a name can be written in JSON; one of other bytes can not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_known(where: str, found: Sequence[str], known: Sequence[str], source: str) -> None:
    """Raise unless every class that was found is a known one.

    Args:
        where: what was found.
        found: names of its classes.
        known: names of the classes that have labels.
        source: what they are known from.

    Raises:
        TenreoError: naming those that differ.
    """
    unknown, unused = sorted(set(found) - set(known)), sorted(set(known) - set(found))
    if unknown:
        missing = f"; without {listed(unused)} of these" if unused else ""
        raise TenreoError(
            f"{where}: has the classes {listed(unknown)}, which are not among the {len(known)} of {source}{missing}; "
            "give the data that belong together, or rename the folders"
        )


def listed(names: Sequence[str]) -> str:
    """Some names, and how many there are where these are not all.

    >>> listed(["cat", "dog"]), listed([str(i) for i in range(12)])
    ('cat, dog', '0, 1, 2, 3, 4, ... (12)')
    """
    rest = f", ... ({len(names)})" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def in_doubt(names: Sequence[str]) -> bool:
    """Whether names are numbers, perhaps after one word, whose order as text is another one.

    >>> in_doubt(["0", "1", "10", "2"]), in_doubt(["00", "01", "10"]), in_doubt(["cat", "dog"])
    (True, False, False)
    """
    parts = [_NUMBERED.fullmatch(name) for name in names]
    if not all(parts) or len({part[1] for part in parts if part}) != 1:
        return False
    return sorted(names) != sorted(names, key=lambda name: int(name[len(parts[0][1]) :]))  # type: ignore[index]

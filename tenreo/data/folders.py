"""Folders of images: class folders and the image files below them. This module does not import torch."""

import os
from pathlib import Path

from tenreo.errors import TenreoError

# A copy of torchvision's IMG_EXTENSIONS, because importing torchvision takes seconds.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the class folders of a split by name, sorted as text, which is torchvision's order of labels.

    Symbolic links are followed. Hidden folders, for example `.ipynb_checkpoints`, are ignored.

    Raises:
        TenreoError: if there is no class folder, the folder cannot be read, or a name is not valid Unicode.
    """
    folders = {entry.name: Path(entry.path) for entry in _visible_entries(folder) if _is_folder(entry)}
    if not folders:
        raise TenreoError(f"{folder}: contains no class folder; needs {folder}/<class>/*.JPEG")
    for name in folders:
        try:
            name.encode()  # names are stored as JSON in model files
        except UnicodeEncodeError as error:
            raise TenreoError(
                f"{folder}: the name of the class folder {name!r} is not valid Unicode; rename it"
            ) from error
    return dict(sorted(folders.items()))


def find_image_files(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted.

    Symbolic links to folders are followed, and each real folder is visited once. Hidden files and folders, for example
    `._x.png`, are ignored. An entry that has an image's extension and is not a regular file is listed as well, so that
    reading it reports an error with its name.

    Raises:
        TenreoError: if there is no image file or a folder cannot be read.
    """
    files: list[Path] = []
    pending, visited = [folder], {os.path.realpath(folder)}
    while pending:  # an explicit stack: folders may be nested deeper than Python's recursion limit
        for entry in _visible_entries(pending.pop()):
            if _is_folder(entry):
                if (real := os.path.realpath(entry.path)) not in visited:
                    visited.add(real)
                    pending.append(Path(entry.path))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                files.append(Path(entry.path))
    if not files:
        raise TenreoError(f"{folder}: contains no image ({', '.join(EXTENSIONS)})")
    return sorted(files)


def _visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise TenreoError(f"{folder}: cannot be read: {error.strerror}; repair or remove it") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; False for a link that points to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False

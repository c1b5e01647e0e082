"""Folders of images: class folders and the image files below them. This module does not import torch."""

import os
from collections import deque
from pathlib import Path

from tenreo.errors import TenreoError

# A copy of torchvision's IMG_EXTENSIONS, because importing torchvision takes seconds.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the class folders of a split by name, sorted as text, which is torchvision's order of labels.

    Symbolic links are followed, except those to this folder or to one that contains it. Hidden folders, for example
    `.ipynb_checkpoints`, are ignored.

    Raises:
        TenreoError: if there is no class folder, the folder cannot be read, or a name is not valid Unicode.
    """
    above = {os.path.realpath(folder), *_ancestors(folder)}
    folders = {
        entry.name: Path(entry.path) for entry in _visible_entries(folder)
        if _is_folder(entry) and not (entry.is_symlink() and os.path.realpath(entry.path) in above)
    }  # fmt: skip
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
    """Return all image files below a folder, each once, sorted.

    Symbolic links are followed, except those to a folder that contains this folder. A file that several links lead to
    is listed under its own path if it is below the folder, and under one of the links otherwise; hard links are
    separate files. Hidden files and folders, for example `._x.png`, are ignored. An entry that has an image's extension
    and is not a regular file is listed as well, so that reading it reports an error with its name.

    Raises:
        TenreoError: if there is no image file or a folder cannot be read.
    """
    return _sorted_files(folder, real_image_files(folder))


def find_class_files(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of every class folder of a split, by class.

    Raises:
        TenreoError: as in `class_folders` and `find_image_files`, and if links put an image into two classes.
    """
    files: dict[str, list[Path]] = {}
    known: dict[str, Path] = {}
    for name, inner in class_folders(folder).items():
        found = real_image_files(inner)
        if twice := found.keys() & known.keys():
            real = min(twice)
            raise TenreoError(
                f"{found[real]}: is the same file as {known[real]}, so it has two classes; remove the link to one"
            )
        known |= found
        files[name] = _sorted_files(inner, found)
    return files


def _sorted_files(folder: Path, files: dict[str, Path]) -> list[Path]:
    if not files:
        raise TenreoError(f"{folder}: contains no image ({', '.join(EXTENSIONS)})")
    return sorted(files.values())


def real_image_files(folder: Path) -> dict[str, Path]:
    """Return the image files below a folder, as `find_image_files` finds them, by their path without symbolic links.

    Raises:
        TenreoError: if a folder cannot be read.
    """
    files: dict[str, Path] = {}
    visited = _ancestors(folder)  # a link to one of them would add the images of all other classes
    pending = deque([(folder, os.path.realpath(folder))])  # folders may be nested deeper than the recursion limit
    while pending:
        path, real_path = pending.popleft()
        if real_path in visited:
            continue
        visited.add(real_path)
        for entry in _visible_entries(path):
            is_link = entry.is_symlink()
            real = os.path.realpath(entry.path) if is_link else os.path.join(real_path, entry.name)
            if _is_folder(entry):
                # Links come last, so that a folder that can be reached without one has its own path.
                (pending.append if is_link else pending.appendleft)((Path(entry.path), real))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not (is_link and real in files):
                files[real] = Path(entry.path)
    return files


def _ancestors(folder: Path) -> set[str]:
    """Return the folders that contain a folder: those of its path, and those of its target if it is a link."""
    own, target = Path(os.path.abspath(folder)), Path(os.path.realpath(folder))
    return {*map(os.path.realpath, own.parents), *map(str, target.parents)}


def _visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
    except OSError as error:
        raise TenreoError(f"{folder}: cannot be read: {error.strerror}; repair or remove it") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; False for a link that points to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False

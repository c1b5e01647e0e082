"""Text files that say the classes of images: lists of labels, metadata, and maps from one set of classes to another.

No torch.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tenreo.errors import TenreoError, shown
from tenreo.files.paths import check_readable

Class = str | int | None  # the name of a class, the number of the model's output, or not known
METADATA = ("metadata.csv", "metadata.jsonl")
_MOST_BYTES = 2**30  # of a file: ImageNet's training images take 100 MB
_NUMBER = re.compile(r"[0-9]{1,6}")


@cache
def imagenet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes, in the order of the outputs of torchvision's and timm's models.

    >>> len(imagenet_ids()), imagenet_ids()[0]
    (1000, 'n01440764')
    """
    return tuple(Path(__file__).with_name("imagenet_ids.txt").read_text("ascii").split())


def implied_names(classes: int | None, found: Iterable[str]) -> tuple[str, ...]:
    """The names of a model's classes that nobody said: ImageNet's, where all that were found are among its 1,000."""
    found = set(found)
    return imagenet_ids() if found and classes == len(imagenet_ids()) and found <= set(imagenet_ids()) else ()


def class_of(text: str) -> Class:
    """The class that a text says: a number is the model's output.

    >>> class_of("17"), class_of("n01440764"), class_of(" ")
    (17, 'n01440764', None)
    """
    text = text.strip()
    return int(text) if _NUMBER.fullmatch(text) else text or None


def read_labels(path: Path, files: Sequence[Path]) -> list[Class]:
    """The classes of files, by a list of labels.

    A line is a file's name (with its ending or without) and its class, with a comma, tab or blanks between; or every
    line is the class alone, as a number, in the order of the sorted names. The header that Kaggle's list of ImageNet
    has is left out, and so are its boxes.

    Args:
        path: of the list.
        files: images, sorted.

    Raises:
        TenreoError: when the list can not be read, or does not say the class of a file.
    """
    lines = [line for line in _text(path).splitlines() if line.strip()]
    if all(_NUMBER.fullmatch(line.strip()) for line in lines):
        if len(lines) != len(files):
            raise TenreoError(f"{path}: has {len(lines)} labels for {len(files)} images; give one for each")
        return [int(line) for line in lines]
    boxes = bool(lines) and lines[0].split(",") == ["ImageId", "PredictionString"]
    said: dict[str, Class] = {}
    for line in lines[boxes:]:
        name, text = _pair(path, line)
        said[Path(name).name] = class_of(text.split()[0] if boxes and text.split() else text)
    found: list[Class] = []
    for file in files:
        known = said.get(file.name, said.get(file.stem))
        if known is None:
            raise TenreoError(f"{path}: says no class of {file.name}; give a line for every image")
        found.append(known)
    return found


def read_metadata(folder: Path) -> list[tuple[Path, Class]] | None:
    """The images and classes that `metadata.csv` or `metadata.jsonl` of a folder names; None where there is neither.

    The columns are those of Hugging Face's image folders: `file_name`, below the folder, and `label`, if there is one.

    Raises:
        TenreoError: when the file can not be read, or names a file outside the folder.
    """
    path = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if path is None:
        return None
    rows = list(_rows(path))
    found: list[tuple[Path, Class]] = []
    for row in rows:
        name, said = row.get("file_name"), row.get("label")
        if not isinstance(name, str) or not name:
            raise TenreoError(f"{path}: needs the columns file_name and label, found {shown(list(row)[:5])}")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise TenreoError(f"{path}: names {shown(name)}, which is not in its folder; name files below it")
        found.append((folder / name, None if said is None else class_of(str(said))))
    if not found:
        raise TenreoError(f"{path}: names no image")
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    text = _text(path)
    try:
        if path.suffix == ".csv":
            yield from csv.DictReader(text.splitlines())
            return
        for line in text.splitlines():
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a line is no JSON object")
                yield row
    except (ValueError, csv.Error, RecursionError) as error:
        raise TenreoError(f"{path}: can not be read: {shown(str(error))}; repair it") from error


def read_class_map(path: Path) -> dict[str, str | int]:
    """Which class of the model each class of the data is.

    A line is the data's class, such as the name of a folder, and the model's, by number or name, with a comma, tab or
    blanks between. JSON is an object of the same; or the usual `imagenet_class_index.json`,
    `{"0": ["n01440764", "tench"], ...}`, which maps WordNet ids to numbers. The `meta.mat` of ImageNet's devkit maps
    its numbers to WordNet ids; SciPy reads it.

    Raises:
        TenreoError: when it can not be read, or says two things of one class.
    """
    pairs = _devkit_pairs(path) if path.suffix == ".mat" else _text_pairs(path, _text(path))
    found: dict[str, str | int] = {}
    for name, said in pairs:
        if said is None or found.setdefault(name, said) != said:
            raise TenreoError(f"class_map: {path} does not say one class of {shown(name)}; give a line for each")
    if not found:
        raise TenreoError(f"class_map: {path} is empty; give a line per class")
    return found


def _text_pairs(path: Path, text: str) -> list[tuple[str, Class]]:
    if text.lstrip().startswith("{"):
        return _json_pairs(path, text)
    return [(name, class_of(said)) for name, said in (_pair(path, x) for x in text.splitlines() if x.strip())]


def _devkit_pairs(path: Path) -> list[tuple[str, Class]]:
    """The devkit's number and the WordNet id of every class in its `meta.mat`."""
    check_readable(path)
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise TenreoError(
            f"class_map: {path} needs SciPy to be read; install scipy, or give lines of the devkit's number and the "
            "WordNet id or output"
        ) from error
    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        pairs = zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True)
        return [(str(int(number)), str(said)) for number, said in pairs]
    except Exception as error:  # a damaged file can fail in any way
        raise TenreoError(
            f"class_map: {path} is no meta.mat of ImageNet's devkit ({shown(str(error))}); repair it, or give lines "
            "of the devkit's number and the WordNet id or output"
        ) from error


def _json_pairs(path: Path, text: str) -> list[tuple[str, Class]]:
    try:
        values = json.loads(text)
        if all(isinstance(value, list) for value in values.values()):
            return [(str(value[0]), int(number)) for number, value in values.items()]
        return [(name, class_of(str(value))) for name, value in values.items()]
    except (ValueError, IndexError, RecursionError) as error:
        raise TenreoError(f"class_map: {path} can not be read as JSON: {shown(str(error))}; repair it") from error


def _pair(path: Path, line: str) -> tuple[str, str]:
    """The two parts of a line."""
    separator = next((s for s in ("\t", ",") if s in line), None)
    first, *rest = line.strip().split(separator, 1)
    if not rest or not first.strip():
        raise TenreoError(f"{path}: a line is {shown(line)}, needs a name and a class")
    return first.strip(), rest[0].strip()


def _text(path: Path) -> str:
    check_readable(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise TenreoError(f"{path}: is too long for a list of labels; give at most 1 GB")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise TenreoError(f"{path}: can not be read as text: {why}; give a file of UTF-8") from error

"""Text files that give the classes of images: lists, metadata and class maps. No torch import."""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tenreo.data.devkit import read_synsets
from tenreo.errors import TenreoError, shown
from tenreo.files.paths import check_readable

# The name of a class, the index of a model's output, or None for an unknown class.
ClassLabel = str | int | None
METADATA_FILES = ("metadata.csv", "metadata.jsonl")
_MAX_SIZE = 2**30  # bytes; a list of ImageNet's training images takes 100 MB
_NUMBER = re.compile(r"[0-9]{1,6}")


class LabelFiles(NamedTuple):
    """Files that give the classes of images in addition to, or instead of, the names of their folders.

    Attributes:
        labels: list of file names and classes for a folder without class folders; `read_labels` describes the format.
        class_map: mapping from the data's classes to the model's; `read_class_map` describes the format.
    """

    labels: Path | None = None
    class_map: Path | None = None


@cache
def imagenet_ids() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1,000 classes in the order of the outputs of torchvision's models.

    >>> len(imagenet_ids()), imagenet_ids()[0]
    (1000, 'n01440764')
    """
    return tuple(Path(__file__).with_name("imagenet_ids.txt").read_text("ascii").split())


def infer_class_names(class_count: int | None, data_names: Iterable[str]) -> tuple[str, ...]:
    """Return ImageNet's class names if a model has 1,000 outputs and all of the data's names are among them, or ()."""
    names = set(data_names)
    known = imagenet_ids()
    return known if names and class_count == len(known) and names <= set(known) else ()


def parse_class(text: str) -> ClassLabel:
    """Parse a class; a number is the index of the model's output.

    >>> parse_class("17"), parse_class("n01440764"), parse_class(" ")
    (17, 'n01440764', None)
    """
    text = text.strip()
    return int(text) if _NUMBER.fullmatch(text) else text or None


def read_labels(path: Path, files: Sequence[Path]) -> list[ClassLabel]:
    """Read the classes of image files from a list of labels.

    A line contains a file name, with or without its extension, and a class, separated by a comma, a tab or blanks.
    Alternatively, every line contains a class number alone, in the order of the sorted file names. The bounding boxes
    and the header of Kaggle's list of ImageNet labels are ignored.

    Args:
        path: path of the list.
        files: paths of the images, sorted.

    Raises:
        TenreoError: if the list cannot be read or lacks the class of a file.
    """
    lines = [line for line in _read_text(path).splitlines() if line.strip()]
    if all(_NUMBER.fullmatch(line.strip()) for line in lines):
        if len(lines) != len(files):
            raise TenreoError(f"{path}: has {len(lines)} labels for {len(files)} images; give one label per image")
        return [int(line) for line in lines]
    has_boxes = bool(lines) and lines[0].split(",") == ["ImageId", "PredictionString"]
    by_name: dict[str, ClassLabel] = {}
    for line in lines[has_boxes:]:
        name, text = _split_line(path, line)
        by_name[Path(name).name] = parse_class(text.split()[0] if has_boxes and text.split() else text)
    labels: list[ClassLabel] = []
    for file in files:
        label = by_name.get(file.name, by_name.get(file.stem))
        if label is None:
            raise TenreoError(f"{path}: contains no class for {file.name}; add a line for every image")
        labels.append(label)
    return labels


def read_metadata(folder: Path) -> list[tuple[Path, ClassLabel]] | None:
    """Read the images and classes that `metadata.csv` or `metadata.jsonl` lists; None if the folder has neither file.

    The columns are those of Hugging Face's image folders: `file_name`, relative to the folder, and optionally `label`.

    Raises:
        TenreoError: if the file cannot be read or lists a file outside the folder.
    """
    path = next((folder / name for name in METADATA_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    samples: list[tuple[Path, ClassLabel]] = []
    for row in _read_rows(path):
        name, label = row.get("file_name"), row.get("label")
        if not isinstance(name, str) or not name:
            raise TenreoError(f"{path}: has the columns {shown(list(row)[:5])}, needs file_name and label")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise TenreoError(f"{path}: lists {shown(name)}, which is outside its folder; list files below the folder")
        samples.append((folder / name, None if label is None else parse_class(str(label))))
    if not samples:
        raise TenreoError(f"{path}: lists no image")
    return samples


def _read_rows(path: Path) -> list[dict[str, Any]]:
    lines = _read_text(path).splitlines()
    try:
        if path.suffix == ".csv":
            return list(csv.DictReader(lines))
        rows = [json.loads(line) for line in lines if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is not a JSON object")
        return rows
    except (ValueError, csv.Error, RecursionError) as error:
        raise TenreoError(f"{path}: cannot be read: {shown(str(error))}; repair it") from error


def read_class_map(path: Path) -> dict[str, str | int]:
    """Read a mapping from the data's classes to the model's classes.

    A line contains a class of the data, for example the name of a folder, and the number or name of a class of the
    model, separated by a comma, a tab or blanks. A JSON file contains an object with the same pairs, or is the usual
    `imagenet_class_index.json`, `{"0": ["n01440764", "tench"], ...}`, which maps WordNet ids to numbers. The `meta.mat`
    of ImageNet's devkit maps its own numbers to WordNet ids.

    Raises:
        TenreoError: if the file cannot be read or gives no class, or two classes, for one class of the data.
    """
    pairs = _devkit_pairs(path) if path.suffix == ".mat" else _text_pairs(path)
    class_map: dict[str, str | int] = {}
    for name, target in pairs:
        if target is None or class_map.setdefault(name, target) != target:
            raise TenreoError(f"class_map: {path} does not give exactly one class for {shown(name)}; correct its lines")
    if not class_map:
        raise TenreoError(f"class_map: {path} is empty; give one line per class")
    return class_map


def _text_pairs(path: Path) -> list[tuple[str, ClassLabel]]:
    text = _read_text(path)
    if not text.lstrip().startswith("{"):
        pairs = (_split_line(path, line) for line in text.splitlines() if line.strip())
        return [(name, parse_class(target)) for name, target in pairs]
    try:
        values = json.loads(text)
        if all(isinstance(value, list) for value in values.values()):
            return [(str(value[0]), int(number)) for number, value in values.items()]
        return [(name, parse_class(str(value))) for name, value in values.items()]
    except (ValueError, IndexError, RecursionError) as error:
        raise TenreoError(f"class_map: {path} cannot be read as JSON: {shown(str(error))}; repair it") from error


def _devkit_pairs(path: Path) -> list[tuple[str, ClassLabel]]:
    """Read the number and the WordNet id of every class from the devkit's `meta.mat`."""
    check_readable(path)
    try:
        if path.stat().st_size > _MAX_SIZE:
            raise ValueError("it is larger than 1 GB")
        return [(str(number), name) for number, name in read_synsets(path.read_bytes())]
    except (OSError, ValueError, OverflowError) as error:
        raise TenreoError(
            f"class_map: {path} is not the meta.mat of ImageNet's devkit ({shown(str(error))}); repair it, or give a "
            "text file that maps the devkit's numbers to WordNet ids or outputs"
        ) from error


def _split_line(path: Path, line: str) -> tuple[str, str]:
    """Split a line into a name and a class."""
    separator = next((s for s in ("\t", ",") if s in line), None)
    first, *rest = line.strip().split(separator, 1)
    if not rest or not first.strip():
        raise TenreoError(f"{path}: has the line {shown(line)}, needs a name and a class")
    return first.strip(), rest[0].strip()


def _read_text(path: Path) -> str:
    check_readable(path)
    try:
        if path.stat().st_size > _MAX_SIZE:
            raise TenreoError(f"{path}: is too large for a list of labels; give at most 1 GB")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise TenreoError(f"{path}: cannot be read as text: {why}; give a text file in UTF-8") from error

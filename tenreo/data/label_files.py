"""Text files that give the classes of images: lists of labels and class maps. No torch import."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from tenreo.data.devkit import read_synsets
from tenreo.errors import TenreoError, shown
from tenreo.files.paths import check_readable

# The name of a class, the index of a model's output, or None for an unknown class.
ClassLabel = str | int | None
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


def read_labels(path: Path, folder: Path, files: Sequence[Path]) -> list[ClassLabel]:
    """Read the classes of image files from a list of labels.

    A line contains a file name, with or without its folder and its extension, and a class, separated by a comma, a tab
    or blanks. Alternatively, every line contains a class number alone, in the order of the sorted file names. The
    bounding boxes and the header of Kaggle's list of ImageNet labels are ignored.

    Args:
        path: path of the list.
        folder: folder of the images.
        files: paths of the images below the folder, sorted.

    Raises:
        TenreoError: if the list cannot be read, or does not give exactly one class for each file.
    """
    lines = filled_lines(read_text(path))
    if all(_NUMBER.fullmatch(line.strip()) for _, line in lines):
        if len(lines) != len(files):
            raise TenreoError(f"{path}: has {len(lines)} labels for {len(files)} images; give one label per image")
        return [int(line) for _, line in lines]
    has_boxes = lines[0][1].split(",") == ["ImageId", "PredictionString"]
    rows: dict[str, list[_Row]] = {}
    for number, line in lines[has_boxes:]:
        name, text = _split_line(path, line)
        row = _Row(number, PurePath(name).parts, parse_class(text.split()[0] if has_boxes and text.split() else text))
        rows.setdefault(PurePath(name).name, []).append(row)
    owners: dict[int, Path] = {}
    return [_only_row(path, rows, file.relative_to(folder), owners).label for file in files]


class _Row(NamedTuple):
    """A line of a list of labels: its number, the parts of the path in it, and the class."""

    number: int
    parts: tuple[str, ...]
    label: ClassLabel


def _only_row(path: Path, rows: Mapping[str, Sequence[_Row]], file: Path, owners: dict[int, Path]) -> _Row:
    """Return the only row of a list of labels that gives the class of a file, and of no other one.

    Args:
        path: path of the list.
        rows: rows by the name at the end of their path.
        file: path of the image, relative to its folder.
        owners: files whose class is known, by the number of their row; this one is added.
    """
    found = [
        row for name in (file.name, file.stem) for row in rows.get(name, ())
        # Lists name the folders of an image from different folders on, or not at all.
        if all(a == b for a, b in zip(row.parts[-2::-1], file.parts[-2::-1], strict=False))
    ]  # fmt: skip
    if not found or found[0].label is None:
        raise TenreoError(f"{path}: contains no class for {file}; add a line for every image")
    if len(found) > 1:
        numbers = ", ".join(str(row.number) for row in found)
        raise TenreoError(f"{path}: gives the class of {file} in the lines {numbers}; keep one of them")
    if owners.setdefault(found[0].number, file) != file:
        raise TenreoError(
            f"{path}: line {found[0].number} names {owners[found[0].number]} and {file}; give their folders as well"
        )
    return found[0]


def read_json(text: str) -> Any:
    """Parse JSON without repeated keys, of which Python's parser keeps the last.

    Raises:
        ValueError: if an object has a key twice, or, as JSONDecodeError, if the text is not JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return a dictionary of pairs, unless a key is repeated."""
        values = dict(pairs)
        if len(values) < len(pairs):
            key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            starts = [match.start() for match in re.finditer(rf"{re.escape(json.dumps(key))}\s*:", text)]
            lines = ", ".join(str(1 + text.count("\n", 0, start)) for start in starts)
            raise ValueError(f"the key {key!r} occurs twice" + (f", in the lines {lines}" if "\n" in text else ""))
        return values

    return json.loads(text, object_pairs_hook=unique)


def read_class_map(path: Path) -> dict[str, str | int]:
    """Read a mapping from the data's classes to the model's classes.

    A line contains a class of the data, for example the name of a folder, and the number or name of a class of the
    model, separated by a comma, a tab or blanks. A JSON file contains an object with the same pairs, or is the usual
    `imagenet_class_index.json`, `{"0": ["n01440764", "tench"], ...}`, which maps WordNet ids to numbers. The `meta.mat`
    of ImageNet's devkit maps its own numbers to WordNet ids.

    Raises:
        TenreoError: if the file cannot be read, or gives no class or several lines for one class of the data.
    """
    pairs = _devkit_pairs(path) if path.suffix == ".mat" else _text_pairs(path)
    class_map: dict[str, str | int] = {}
    places: dict[str, str] = {}
    for place, name, target in pairs:
        if target is None:
            raise TenreoError(f"class_map: {path} gives no class for {shown(name)} in {place}; add it")
        if name in class_map:
            raise TenreoError(
                f"class_map: {path} gives the class of {shown(name)} in {places[name]} and in {place}; keep one of them"
            )
        class_map[name], places[name] = target, place
    if not class_map:
        raise TenreoError(f"class_map: {path} is empty; give one line per class")
    return class_map


def _text_pairs(path: Path) -> list[tuple[str, str, ClassLabel]]:
    """Return the place, the data's class and the model's class of every pair in a text or JSON file."""
    text = read_text(path)
    if not text.lstrip().startswith("{"):
        pairs = ((number, *_split_line(path, line)) for number, line in filled_lines(text))
        return [(f"line {number}", name, parse_class(target)) for number, name, target in pairs]
    try:
        values = read_json(text)
        if all(isinstance(value, list) for value in values.values()):
            return [(f"the entry {shown(number)}", str(value[0]), int(number)) for number, value in values.items()]
        return [(f"the entry {shown(name)}", name, parse_class(str(value))) for name, value in values.items()]
    except (ValueError, IndexError, RecursionError) as error:
        raise TenreoError(f"class_map: {path} cannot be read as JSON: {shown(str(error))}; repair it") from error


def _devkit_pairs(path: Path) -> list[tuple[str, str, ClassLabel]]:
    """Read the number and the WordNet id of every class from the devkit's `meta.mat`."""
    check_readable(path)
    try:
        if path.stat().st_size > _MAX_SIZE:
            raise ValueError("it is larger than 1 GB")
        synsets = read_synsets(path.read_bytes())
        return [(f"class {i} of the file", str(number), name) for i, (number, name) in enumerate(synsets, 1)]
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


def filled_lines(text: str) -> list[tuple[int, str]]:
    """Return the number, from 1, and the text of every line that is not blank."""
    # Not str.splitlines, which also splits at characters that a name may contain, for example U+2028.
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        TenreoError: if the file cannot be read as text, or is too large.
    """
    check_readable(path)
    try:
        if path.stat().st_size > _MAX_SIZE:
            raise TenreoError(f"{path}: is too large for a list of labels; give at most 1 GB")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise TenreoError(f"{path}: cannot be read as text: {why}; give a text file in UTF-8") from error

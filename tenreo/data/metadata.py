"""The metadata files of Hugging Face's image folders, which list images and their classes. No torch import."""

import csv
import os
from io import StringIO
from pathlib import Path
from typing import Any

from tenreo.data.folders import real_image_files
from tenreo.data.label_files import ClassLabel, filled_lines, parse_class, read_json, read_text
from tenreo.errors import TenreoError, shown

METADATA_FILES = ("metadata.csv", "metadata.jsonl")


def read_metadata(folder: Path) -> list[tuple[Path, ClassLabel]] | None:
    """Read the images and classes that `metadata.csv` or `metadata.jsonl` lists; None if the folder has neither file.

    The columns are those of Hugging Face's image folders: `file_name`, relative to the folder, and optionally `label`.

    Raises:
        TenreoError: if the file cannot be read, lists an image twice or a file outside the folder, or does not list
            every image of the folder.
    """
    paths = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if not paths:
        return None
    path = paths[0]
    if len(paths) > 1:
        raise TenreoError(f"{folder}: contains {METADATA_FILES[0]} and {METADATA_FILES[1]}; remove one of them")
    samples: list[tuple[Path, ClassLabel]] = []
    numbers: dict[str, int] = {}
    for number, row in _read_rows(path):
        name, label = row.get("file_name"), row.get("label")
        if not isinstance(name, str) or not name:
            raise TenreoError(f"{path}: has the columns {shown(list(row)[:5])}, needs file_name and label")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise TenreoError(f"{path}: lists {shown(name)}, which is outside its folder; list files below the folder")
        if (first := numbers.setdefault(os.path.realpath(folder / name), number)) != number:
            raise TenreoError(f"{path}: lists {shown(name)} in the lines {first} and {number}; keep one of them")
        samples.append((folder / name, None if label is None else parse_class(str(label))))
    if not samples:
        raise TenreoError(f"{path}: lists no image")
    for real, file in real_image_files(folder).items():
        if real not in numbers:
            raise TenreoError(
                f"{path}: does not list {file.relative_to(folder)}; add a line for it, or remove the image"
            )
    return samples


def _read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of a metadata file and the numbers of their lines."""
    text = read_text(path)
    try:
        if path.suffix == ".csv":
            return _csv_rows(text)
        return [(number, _json_row(number, line)) for number, line in filled_lines(text)]
    except (ValueError, csv.Error, RecursionError) as error:
        raise TenreoError(f"{path}: cannot be read: {shown(str(error))}; repair it") from error


def _csv_rows(text: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of a CSV file and the numbers of their last lines; raises ValueError if cells are superfluous."""
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    if len(set(header)) != len(header):
        raise ValueError(f"the header {header} names a column twice")
    rows = []
    for cells in reader:
        if len(cells) > len(header):
            raise ValueError(f"line {reader.line_num} has {len(cells)} cells for {len(header)} columns; quote commas")
        if cells:  # an empty line has none
            rows.append((reader.line_num, dict(zip(header, cells, strict=False))))
    return rows


def _json_row(number: int, line: str) -> dict[str, Any]:
    try:
        row = read_json(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is not a JSON object")
    return row

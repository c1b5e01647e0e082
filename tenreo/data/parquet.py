"""Images in Parquet files, as data sets of Hugging Face contain them, and their classes. No torch import.

A row is an image: a column has its bytes, and another one its class. Only the classes are read first. An image is read
with the others of its row group, the smallest part of a Parquet file that can be read, and the latest group is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tenreo.data.class_names import feature_names, names_of_card
from tenreo.data.label_files import ClassLabel, parse_class
from tenreo.errors import TenreoError, install, shown
from tenreo.files.paths import check_readable

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ENDING = ".parquet"
# Usual names of the columns, the preferred ones first.
_IMAGE_NAMES, _LABEL_NAMES = ("image", "img"), ("label", "labels", "fine_label")
_PART = re.compile(r"-(\d+)-of-(\d+)$")  # of a file's name
_MOST_GROUP = 2**31  # bytes of the images of a row group in memory


class ParquetImage(NamedTuple):
    """An image in a Parquet file.

    Attributes:
        file: path of the file.
        column: column of the images' bytes.
        row: number of its row in the file.
        group: number of its row group.
        place: number of its row in the group.
    """

    file: Path
    column: str
    row: int
    group: int
    place: int

    def __str__(self) -> str:
        return f"{self.file}/{self.row}"

    def read(self) -> bytes:
        """Read the image's bytes.

        Raises:
            OSError, ValueError: if the file cannot be read, or the row has no image.
        """
        changed = self.file.stat().st_mtime_ns  # so that a group of an older file of this name is not used
        content = _row_group(self.file, self.column, self.group, changed)[self.place].as_py()
        if not content:
            raise ValueError("its row has no bytes of an image")
        return bytes(content)


class _Columns(NamedTuple):
    """The columns of a file: image and class (None without classes), and the names of the classes."""

    image: str
    label: str | None
    names: tuple[str, ...]


def read_parquet(files: Sequence[Path]) -> tuple[list[tuple[ParquetImage, ClassLabel]], tuple[str, ...]]:
    """List the images of Parquet files with their classes, in the order of the files.

    The column of images is `image`, or the only one that contains bytes; that of classes is `label`, or the only one
    that the metadata describe as classes. Their names come from the metadata of the files, or from README.md. Texts are
    names themselves. A class is None if it is unknown.

    Returns:
        The images and their classes, and the names of all classes in the order of their numbers; empty if unknown.

    Raises:
        TenreoError: if a file is damaged or missing, or has no column of images.
    """
    _check_complete(files)
    samples: list[tuple[ParquetImage, ClassLabel]] = []
    names: tuple[str, ...] | None = None
    for file in files:
        with _opened(file) as content:
            columns = _columns(file, content)
            if names not in (None, columns.names):
                raise TenreoError(f"{file}: has other names of classes than {files[0].name}; keep one of them")
            names = columns.names
            labels = _labels(file, content, columns)
            samples += zip(_images(file, content, columns.image), labels, strict=True)
    if not samples:
        raise TenreoError(f"{files[0]}: contains no image")
    return samples, names or ()


def has_classes(file: Path) -> bool:
    """Return whether a file has a column of classes whose first one is known."""
    with _opened(file) as content:
        columns = _columns(file, content)
        return columns.label is not None and next(iter(_labels(file, content, columns)), None) is not None


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a file; raise TenreoError if pyarrow is missing, or for errors of pyarrow."""
    try:
        import pyarrow.parquet as pq
        from pyarrow import ArrowException
    except ImportError as error:
        raise TenreoError(f"{file}: needs pyarrow; {install('datasets')}") from error
    check_readable(file)
    try:
        with pq.ParquetFile(file) as content:
            if content.metadata.num_rows > file.stat().st_size:
                raise ValueError(f"it claims to have {content.metadata.num_rows:,} rows")
            yield content
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise TenreoError(f"{file}: cannot be read as a Parquet file: {shown(why)}; download it again") from error


def _columns(file: Path, content: pq.ParquetFile) -> _Columns:
    from pyarrow import types

    schema = content.schema_arrow
    images: dict[str, str] = {}  # path of the column of bytes, by the name of the column
    for field in schema:
        if types.is_binary(field.type) or types.is_large_binary(field.type):
            images[field.name] = field.name
        elif types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            images[field.name] = f"{field.name}.bytes"
    image = _chosen(images, _IMAGE_NAMES)
    if image is None:
        raise TenreoError(
            f"{file}: has the columns {shown(schema.names[:9])}, needs one with the bytes of images, named image"
        )
    described = feature_names((schema.metadata or {}).get(b"huggingface", b"")) or names_of_card(file.parent)
    usable = [f.name for f in schema if types.is_integer(f.type) or types.is_string(f.type)]
    label = next((name for name in _LABEL_NAMES if name in usable), None) or _chosen(described, ())
    return _Columns(images[image], label if label in usable else None, described.get(label or "", ()))


def _chosen(columns: Iterable[str], preferred: Sequence[str]) -> str | None:
    """Return the first preferred column, or the only one; None without either."""
    columns = list(columns)
    return next((name for name in preferred if name in columns), columns[0] if len(columns) == 1 else None)


def _images(file: Path, content: pq.ParquetFile, column: str) -> Iterator[ParquetImage]:
    row = 0
    for group in range(content.metadata.num_row_groups):
        for place in range(content.metadata.row_group(group).num_rows):
            yield ParquetImage(file, column, row, group, place)
            row += 1


def _labels(file: Path, content: pq.ParquetFile, columns: _Columns) -> list[ClassLabel]:
    """Return the classes of all rows; negative numbers stand for unknown ones, as in the test splits of many data."""
    if columns.label is None:
        return [None] * content.metadata.num_rows
    values = content.read([columns.label], use_threads=False)[columns.label].to_pylist()
    if columns.names:
        numbers = {value for value in values if isinstance(value, int)}
        if numbers and max(numbers) >= len(columns.names):
            raise TenreoError(f"{file}: has the class {max(numbers)}, but names of {len(columns.names)} classes")
        known: Sequence[ClassLabel] = columns.names
        return [known[x] if isinstance(x, int) and x >= 0 else x if isinstance(x, str) else None for x in values]
    return [None if x is None or (isinstance(x, int) and x < 0) else parse_class(str(x)) for x in values]


@lru_cache(maxsize=1)
def _row_group(file: Path, column: str, group: int, changed: int) -> Any:
    """Return the images' bytes of a row group as an array of Arrow; each process keeps the latest one.

    Args:
        file: path of the file.
        column: column of bytes.
        group: number of the group.
        changed: time of the last change of the file.

    Raises:
        ValueError: if the group is damaged, or too large.
    """
    from pyarrow import types

    with _opened(file) as content:
        chunks = content.metadata.row_group(group)
        size = sum(
            chunks.column(i).total_uncompressed_size
            for i in range(chunks.num_columns)
            if chunks.column(i).path_in_schema == column
        )
        if size > _MOST_GROUP:
            raise ValueError(f"a row group has {size / 1e9:.1f} GB; write it again with smaller row groups")
        values = content.read_row_group(group, columns=[column], use_threads=False).columns[0].combine_chunks()
        return values.field("bytes") if types.is_struct(values.type) else values


def _check_complete(files: Sequence[Path]) -> None:
    """Raise TenreoError if a part of a split is missing, as its other parts' names tell."""
    parts: dict[tuple[Path, str, str], set[int]] = {}
    for file in files:
        if (match := _PART.search(file.stem)) is not None:
            parts.setdefault((file.parent, file.stem[: match.start()], match[2]), set()).add(int(match[1]))
    for (folder, name, total), numbers in parts.items():
        missing = next((i for i in range(min(int(total), len(numbers) + 1)) if i not in numbers), None)
        if missing is not None:
            digits = len(total)
            raise TenreoError(f"{folder}/{name}-{missing:0{digits}d}-of-{total}{ENDING}: is missing; download it")

"""Reader of the `meta.mat` of ImageNet's devkit: the few fields of a MATLAB file of version 5 that are needed.

SciPy's reader ends the process with a segmentation fault on some damaged files, so it is not used. The format is
described in MathWorks' "MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import NamedTuple

_COMPRESSED, _MATRIX = 15, 14
_STRUCT = 2  # class of a structure array
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MOST_BYTES = 2**26  # of the decompressed file; that of ImageNet has 0.5 MB


class _Element(NamedTuple):
    """A data element: its type, its bytes and the position of the next one."""

    type: int
    data: bytes
    end: int


class _Reader:
    """Data elements of bytes in the given byte order, < or >."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.position = data, order, 0

    def element(self) -> _Element:
        """Read the next element. Raises ValueError if it is incomplete."""
        at = self.position
        if at + 8 > len(self.data):
            raise ValueError("it ends too early")
        kind, size = struct.unpack_from(f"{self.order}II", self.data, at)
        start, padding = at + 8, 0 if kind == _COMPRESSED else -size % 8
        if kind >> 16:  # a small element contains its data in the second half of the tag
            kind, size, start, padding = kind & 0xFFFF, kind >> 16, at + 4, 0
            if size > 4:
                raise ValueError("a small element has more than four bytes")
        if start + size > len(self.data):
            raise ValueError("it ends too early")
        self.position = at + 8 if start == at + 4 else start + size + padding
        return _Element(kind, self.data[start : start + size], self.position)

    def numbers(self) -> list[float]:
        """Read an element of numbers."""
        kind, data, _ = self.element()
        letter = _NUMBERS.get(kind)
        if letter is None or len(data) % struct.calcsize(f"={letter}"):
            raise ValueError("an element does not contain numbers")
        return list(struct.unpack(f"{self.order}{len(data) // struct.calcsize(f'={letter}')}{letter}", data))

    def text(self) -> str:
        """Read an element of characters."""
        kind, data, _ = self.element()
        encoding = _TEXTS.get(kind, "")
        if not encoding:
            raise ValueError("an element does not contain text")
        wide = encoding in ("utf-16", "utf-32")
        return data.decode(encoding + ("-le" if self.order == "<" else "-be") if wide else encoding)

    def matrix(self) -> tuple[int, int, str, _Reader]:
        """Read the class, number of elements and name of a matrix, and return a reader of its contents."""
        kind, data, _ = self.element()
        if kind != _MATRIX:
            raise ValueError("an element is not a matrix")
        inner = _Reader(data, self.order)
        flags, shape = inner.numbers(), inner.numbers()
        if not flags or any(n < 0 for n in shape):
            raise ValueError("the size of a matrix is not valid")
        return int(flags[0]) & 0xFF, math.prod(map(int, shape)), inner.text(), inner


def read_synsets(data: bytes) -> list[tuple[int, str]]:
    """Return the number and the WordNet id of every class in the contents of `meta.mat`.

    Raises:
        ValueError: if the contents are not a MATLAB file of version 5 with the structure array `synsets`.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("it is not a MATLAB file of version 5")
    top = _Reader(data[128:], order)
    while top.position < len(top.data):
        kind, inner, _ = top.element()
        if kind == _COMPRESSED:
            decompressor = zlib.decompressobj()
            try:
                reader = _Reader(decompressor.decompress(inner, _MOST_BYTES), order)
            except zlib.error as error:
                raise ValueError(f"it cannot be decompressed: {error}") from error
        else:
            reader = _Reader(struct.pack(f"{order}II", kind, len(inner)) + inner, order)
        if reader.data[:4] != struct.pack(f"{order}I", _MATRIX):
            continue
        matrix, count, name, fields = reader.matrix()
        if matrix == _STRUCT and name == "synsets":
            return _synsets(fields, count)
    raise ValueError("it contains no structure array named synsets")


def _synsets(reader: _Reader, count: int) -> list[tuple[int, str]]:
    (length, *_), joined = reader.numbers(), reader.text()
    length = int(length)
    if length < 1:
        raise ValueError("the names of its fields have no length")
    names = [joined[i : i + length].rstrip("\0") for i in range(0, len(joined), length)]
    if not {"ILSVRC2012_ID", "WNID"} <= set(names):
        raise ValueError("synsets has no fields ILSVRC2012_ID and WNID")
    pairs = []
    for _ in range(count):
        row = {name: reader.matrix()[3] for name in names}
        numbers, word = row["ILSVRC2012_ID"].numbers(), row["WNID"].text()
        if len(numbers) != 1 or not float(numbers[0]).is_integer():
            raise ValueError("the ILSVRC2012_ID of a class is not a whole number")
        pairs.append((int(numbers[0]), word))
    return pairs

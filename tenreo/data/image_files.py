"""Image files to pictures of three channels of 8 bits."""

from __future__ import annotations

import stat
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tenreo.data.shards import Member

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_BITS_PER_SAMPLE = 258  # the tag of TIFF


Source = Path | Member | np.ndarray[Any, Any]


def read_picture(source: Source) -> tuple[Image.Image, list[str]]:
    """Read an image as RGB.

    Channels of 16 bits keep their upper 8; transparency is left out, as torchvision does.

    Args:
        source: a regular file, a member of a tar file, or (height, width) uint8.

    Returns:
        The picture, and what Pillow warned of.

    Raises:
        Exception: of any kind, when it can not be read; the message says why.
    """
    if isinstance(source, np.ndarray):
        return Image.fromarray(source).convert("RGB"), []
    if isinstance(source, Member):
        opened: Path | BytesIO = BytesIO(source.read())
    elif stat.S_ISREG(source.stat().st_mode):
        opened = source
    else:  # a pipe would be waited for
        raise ValueError("it is no regular file")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with Image.open(opened) as image:
            picture = _in_8_bits(image).convert("RGB")
    return picture, [str(warning.message) for warning in warned]


def name_of(source: Source) -> str:
    """The path of a picture; empty where it has none."""
    return "" if isinstance(source, np.ndarray) else str(source)


def size_of(source: Source) -> int | None:
    """The bytes of a picture; None where it can not be read."""
    if isinstance(source, np.ndarray):
        return source.nbytes
    if isinstance(source, Member):
        return source.size
    try:
        return source.stat().st_size
    except OSError:  # a broken image, which is told where it is read
        return None


def beginning_of(source: Source, most: int) -> bytes | None:
    """The first bytes of a picture, at most so many; None where it can not be read."""
    try:
        if isinstance(source, np.ndarray):
            return bytes(source)[:most]
        if isinstance(source, Member):
            return source.read(most)
        if not source.is_file():  # a pipe would be waited for
            return None
        with source.open("rb") as file:
            return file.read(most)
    except (OSError, ValueError):
        return None


def _in_8_bits(image: Image.Image) -> Image.Image:
    """An image that Pillow's conversion does not clip."""
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # the same colors, without a warning
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = 16
        if image.format == "TIFF":
            bits = int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])  # type: ignore[attr-defined]
        return Image.fromarray((np.asarray(image).astype(np.int64) >> (bits - 8)).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating point"
        raise ValueError(f"its pixels are {kind}, which have no known white; write it with 8 or 16 bits")
    return image

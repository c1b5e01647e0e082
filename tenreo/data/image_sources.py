"""Places that an image is read from, and decoding to RGB with 8 bits per channel."""

import stat
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tenreo.data.shards import TarMember

_MODES_OF_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes for gray pixels of 16 bits
# Number of the TIFF tag BitsPerSample: samples of 12 bits, for example, are stored in Pillow's modes of 16 bits.
_TIFF_BITS_PER_SAMPLE = 258

# A regular file, a member of a tar file, or gray pixels (height, width) uint8.
ImageSource = Path | TarMember | np.ndarray[Any, Any]


def decode_image(source: ImageSource) -> tuple[Image.Image, list[str]]:
    """Decode an image to RGB.

    Channels of 16 bits are reduced to their upper 8 bits. Transparency is dropped, as in torchvision.

    Returns:
        The image and the texts of Pillow's warnings.

    Raises:
        Exception: of any type, if the image cannot be read; its message contains the reason.
    """
    if isinstance(source, np.ndarray):
        return Image.fromarray(source).convert("RGB"), []
    if isinstance(source, TarMember):
        file: Path | BytesIO = BytesIO(source.read())
    elif stat.S_ISREG(source.stat().st_mode):
        file = source
    else:  # opening a named pipe would block
        raise ValueError("it is not a regular file")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Image.open(file) as image:
            rgb = _reduce_to_8_bits(image).convert("RGB")
    return rgb, [str(warning.message) for warning in caught]


def source_path(source: ImageSource) -> str:
    """Return the path of a source, or "" for an array."""
    return "" if isinstance(source, np.ndarray) else str(source)


def source_size(source: ImageSource) -> int | None:
    """Return the size of a source in bytes, or None if it cannot be determined."""
    if isinstance(source, np.ndarray):
        return source.nbytes
    if isinstance(source, TarMember):
        return source.size
    try:
        return source.stat().st_size
    except OSError:  # decoding reports the error
        return None


def first_bytes(source: ImageSource, limit: int) -> bytes | None:
    """Return at most `limit` bytes from the start of a source, or None if it cannot be read."""
    try:
        if isinstance(source, np.ndarray):
            return bytes(source)[:limit]
        if isinstance(source, TarMember):
            return source.read(limit)
        if not source.is_file():  # opening a named pipe would block
            return None
        with source.open("rb") as file:
            return file.read(limit)
    except (OSError, ValueError):
        return None


def _reduce_to_8_bits(image: Image.Image) -> Image.Image:
    """Reduce gray pixels of 12 or 16 bits to 8 bits, which Pillow's own conversion would clip."""
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # converting directly to RGB gives the same colors with a warning
    if image.mode in _MODES_OF_16_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = 16
        if image.format == "TIFF":
            bits = int(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (16,))[0])  # type: ignore[attr-defined]
        return Image.fromarray((np.asarray(image).astype(np.int64) >> (bits - 8)).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"its pixels are {kind}, for which the value of white is unknown; save it with 8 or 16 bits")
    return image

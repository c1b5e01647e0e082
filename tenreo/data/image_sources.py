"""Places that an image is read from, and decoding to RGB with 8 bits per channel."""

import stat
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tenreo.data.parquet import ParquetImage
from tenreo.data.shards import TarMember
from tenreo.errors import TenreoError

_MODES_OF_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes for gray pixels of 16 bits
# Number of the TIFF tag BitsPerSample: samples of 12 bits, for example, are stored in Pillow's modes of 16 bits.
_TIFF_BITS_PER_SAMPLE = 258

# Bytes per pixel of the modes that do not have 4; P and 16 bits include their conversion.
_MODE_BYTES = {"1": 1, "L": 1, "P": 5, "I": 18, **dict.fromkeys(_MODES_OF_16_BITS, 18)}
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323
_MOST_BYTES = 2**30  # memory for an image, so that a small file cannot exhaust the memory of every worker process
# Measured bytes per pixel that a decoder needs in addition to the image; unknown formats count as the most.
_DECODER_BYTES = {"PNG": 0, "BMP": 0, "PPM": 0, "GIF": 4, "JPEG": 0, "MPO": 0, "TIFF": 4, "WEBP": 12}
_MOST_DECODER_BYTES = 16
_PROGRESSIVE_BYTES = 6  # of a JPEG file, for its coefficients

# A regular file, a member of a tar file, a row of a Parquet file, or gray pixels (height, width) uint8.
ImageSource = Path | TarMember | ParquetImage | np.ndarray[Any, Any]


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
    if isinstance(source, TarMember | ParquetImage):
        file: Path | BytesIO = BytesIO(source.read())
    elif stat.S_ISREG(source.stat().st_mode):
        file = source
    else:  # opening a named pipe would block
        raise ValueError("it is not a regular file")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Image.open(file) as image:
            if image.format == "EPS":
                raise ValueError("it is an EPS file, which only an external program can draw")
            _check_memory(image)
            reduced = _reduce_to_8_bits(image)
            reduced.load()
            rgb = reduced if reduced.mode == "RGB" else reduced.convert("RGB")  # which would copy an RGB image
    return rgb, [str(warning.message) for warning in caught]


def _check_memory(image: Image.Image) -> None:
    """Raise ValueError if decoding an opened image and cropping a copy of it would take too much memory."""
    width, height = image.size
    decoder = _DECODER_BYTES.get(image.format or "", _MOST_DECODER_BYTES)
    if image.info.get("progressive"):
        decoder += _PROGRESSIVE_BYTES
    tile = 0
    if image.format == "TIFF":  # a tile may be larger than the image
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile = _DECODER_BYTES["TIFF"] * tags.get(_TIFF_TILE_WIDTH, 0) * tags.get(_TIFF_TILE_LENGTH, 0)
    # Pillow stores a pointer of 8 bytes for every row.
    copies = 1 if image.mode == "RGB" else 2
    own, rgb = (height * (8 + size * width) for size in (_MODE_BYTES.get(image.mode, 4), 4))
    needed = own + copies * rgb + decoder * width * height + tile
    if needed > _MOST_BYTES:
        raise ValueError(
            f"decoding its {width:,} x {height:,} pixels needs {needed / 1e9:.1f} GB of memory, more than "
            f"{_MOST_BYTES / 1e9:.1f} GB"
        )


def source_path(source: ImageSource) -> str:
    """Return the path of a source, or "" for an array."""
    return "" if isinstance(source, np.ndarray) else str(source)


def source_size(source: ImageSource) -> int | None:
    """Return the size of a source in bytes, or None if it cannot be determined."""
    if isinstance(source, np.ndarray):
        return source.nbytes
    if isinstance(source, TarMember):
        return source.size
    try:  # of a row, the size of its file: its own is known only after reading it
        return (source.file if isinstance(source, ParquetImage) else source).stat().st_size
    except OSError:  # decoding reports the error
        return None


def first_bytes(source: ImageSource, limit: int) -> bytes | None:
    """Return at most `limit` bytes from the start of a source, or None if it cannot be read."""
    try:
        if isinstance(source, np.ndarray):
            return bytes(source)[:limit]
        if isinstance(source, TarMember):
            return source.read(limit)
        if isinstance(source, ParquetImage):
            return source.read()[:limit]
        if not source.is_file():  # opening a named pipe would block
            return None
        with source.open("rb") as file:
            return file.read(limit)
    except (OSError, ValueError, TenreoError):
        return None


def _reduce_to_8_bits(image: Image.Image) -> Image.Image:
    """Reduce gray pixels of 12 or 16 bits to 8 bits, which Pillow's own conversion would clip."""
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # converting directly to RGB gives the same colors with a warning
    if image.mode in _MODES_OF_16_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = 16
        if image.format == "TIFF":
            bits = int(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (16,))[0])  # type: ignore[attr-defined]
        return Image.fromarray((np.asarray(image) >> max(bits - 8, 0)).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"its pixels are {kind}, for which the value of white is unknown; save it with 8 or 16 bits")
    return image

"""Recognition of files that are neither safetensors nor torch's format, for messages. No torch."""

from pathlib import Path
from typing import IO

from tenreo.errors import TenreoError

TORCH_ENDINGS = (".pth", ".pt", ".ckpt", ".bin")
_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run git lfs pull, or download the file"),
    (b"\x1f\x8b", "compressed with gzip; unpack it with gunzip or tar -xzf, and give the unpacked file"),
    (b"BZh", "compressed with bzip2; unpack it, and give the unpacked file"),
    (b"\xfd7zXZ", "compressed with xz; unpack it, and give the unpacked file"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it, and give the unpacked file"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it, and give the unpacked file"),
    (b"\x93NUMPY", "a NumPy array (.npy); save a dictionary of tensors with torch.save or safetensors"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it; convert it to safetensors first"),
    (b"Rar!", "a RAR archive; unpack it, and give a file in it"),
    (b"\x89PNG", "a picture; give a file of weights"),
    (b"\xff\xd8\xff", "a picture; give a file of weights"),
    (b"\xff\xfe", "a text file, not a model; give a file of weights"),  # in UTF-16, as Windows writes it
    (b"GGUF", "a GGUF file; give the original safetensors or torch file"),
)


def holds_pickle(file: IO[bytes]) -> bool:
    """Return whether a file is in torch's own format, a zip archive or a bare pickle, and not in safetensors format.

    Args:
        file: file opened for reading; its position is changed.

    Raises:
        TenreoError: if the file is empty, a text, a web page or in another known format, stating what to do.
    """
    path = Path(file.name)
    file.seek(0)
    start = file.read(512)
    kind = _kind(start)
    if kind is not None:
        raise TenreoError(f"{path}: cannot be read as a model: it is {kind}")
    if path.suffix.lower() in TORCH_ENDINGS and start[8:9] != b"{" and not start.startswith((b"PK", b"\x80")):
        raise TenreoError(
            f"{path}: cannot be read as a torch file: it does not begin like a file of torch.save; copy or download it "
            "again"
        )
    # A safetensors file has a brace after the eight bytes that contain the length of the header.
    return start.startswith((b"PK\x03\x04", b"\x80")) and start[8:9] != b"{"


def _kind(start: bytes) -> str | None:
    if not start:
        return "empty; copy or download it again"
    known = next((text for magic, text in _STARTS if start.startswith(magic)), None)
    if known is not None:
        return known
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it, and give a file in it"
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80" or start[8:9] == b"{":
        return None
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; download the file itself (on Hugging Face and GitHub, with the button for raw files)"
    try:
        text = start.decode("utf-8") if len(start) < 512 else start[:500].decode("utf-8", "ignore")
    except UnicodeDecodeError:
        return None
    plain = len(text) > 8 and all(each.isprintable() or each in "\t\r\n\x1b" for each in text)
    return "a text file, not a model; give a file of weights" if plain else None

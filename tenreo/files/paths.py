"""Checks of paths before a file is read or written, which need no torch."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tenreo.errors import TenreoError

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device", stat.S_IFLNK: "a link",
}  # fmt: skip
_FORMATS = {
    ".safetensors": "safetensors",
    ".png": "PNG",
    ".csv": "CSV",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".html": "HTML",
}
# Endings that `load` or another program would take for a different format than safetensors.
_OTHER_FORMATS = (
    ".bin", ".ckpt", ".csv", ".engine", ".gguf", ".h5", ".jpg", ".json", ".keras", ".msgpack", ".npy", ".npz", ".onnx",
    ".pb", ".pickle", ".pkl", ".png", ".pt", ".pt2", ".pte", ".pth", ".py", ".tar", ".tflite", ".txt", ".yaml", ".yml",
    ".zip",
)  # fmt: skip


def as_path(argument: str, value: object) -> Path:
    """Return the path that a caller gave.

    >>> as_path("folder", "small").name
    'small'

    Args:
        argument: name of the argument, for the message.
        value: what was given.

    Raises:
        TenreoError: if it is neither a text nor a path.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TenreoError(f"{argument}: given an object of type {type(value).__name__}, needs a path")
    return Path(value)


def kind_of(mode: int) -> str | None:
    """Name what a path is if it is not a regular file.

    >>> kind_of(Path(".").stat().st_mode)
    'a folder'

    Args:
        mode: `st_mode` of the path.

    Returns:
        Words for a message, or None for a regular file.
    """
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "not a regular file")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file, also through links, for reading. Whoever reads a file more than once opens it only once.

    Pipes and devices are refused before they are read, because reading one may never end.

    Raises:
        TenreoError: if the file does not exist, is not a regular file, or may not be read.
    """
    file = None
    try:
        kind = kind_of(path.stat().st_mode)
        if kind is None:
            file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - closed below
            kind = kind_of(os.fstat(file.fileno()).st_mode)
    except FileNotFoundError:
        raise TenreoError(f"{path}: cannot be opened: no such file; give the path of a file") from None
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL byte
        why = getattr(error, "strerror", None) or error
        raise TenreoError(f"{path}: cannot be opened: {why}; give the path of a file") from error
    if kind is not None or file is None:
        raise TenreoError(f"{path}: cannot be opened: it is {kind}; give the path of a file")
    with file:
        yield file


def _without_waiting(path: str, flags: int) -> int:
    """Open a path; a pipe, which may have replaced a file in the meantime, does not wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_readable(path: Path) -> None:
    """Raise unless a path, after following links, is a regular file that this process may read.

    Raises:
        TenreoError: as `opened`.
    """
    with opened(path):
        pass


def check_ending(path: Path, *endings: str) -> None:
    """Raise unless the ending of a path suits the format of the file that is to be written there.

    A safetensors file may have any ending that no other format uses, as in `model.v1.2`.

    >>> check_ending(Path("small.safetensors"), ".safetensors")

    Args:
        path: path of the file.
        endings: endings of the possible formats, such as .safetensors or .png.

    Raises:
        TenreoError: naming the format and a path that suits it.
    """
    ending = path.suffix.lower()
    if ending in endings or (endings == (".safetensors",) and ending not in _OTHER_FORMATS):
        return
    formats = " or ".join(dict.fromkeys(_FORMATS[each] for each in endings))
    names = " or ".join(f"{path.stem or 'file'}{each}" for each in endings)
    raise TenreoError(f"{path}: the name does not suit the {formats} format; use {names}")

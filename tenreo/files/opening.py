"""What is opened as a file: regular files alone, since a pipe or a device can be read for ever."""

from __future__ import annotations

import stat
from pathlib import Path

from tenreo.errors import TenreoError

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device", stat.S_IFLNK: "a link",
}  # fmt: skip


def kind_of(mode: int) -> str | None:
    """What a path is that is no regular file, in words; None of a regular file.

    >>> kind_of(Path(".").stat().st_mode)
    'a folder'
    """
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def check_regular(path: Path) -> None:
    """Raise unless a path is that of a regular file, links followed; nothing is opened.

    Raises:
        TenreoError: when there is no such file, or it is a folder, a pipe, a socket or a device.
    """
    try:
        kind = kind_of(path.stat().st_mode)
    except (OSError, ValueError) as error:  # the latter of a NUL byte
        why = getattr(error, "strerror", None) or error
        raise TenreoError(f"{path}: can not be opened: {why}; give the path of a file") from error
    if kind is not None:
        raise TenreoError(f"{path}: can not be opened: it is {kind}; give the path of a file")

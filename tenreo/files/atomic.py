"""Files that are replaced whole or not at all, and nothing but regular files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tenreo.errors import TenreoError
from tenreo.files.paths import kind_of

try:
    import fcntl
except ImportError:  # no POSIX: what killed runs leave is then never removed
    fcntl = None  # type: ignore[assignment]

_ENDING = ".unfinished"
_MOST_NAME = 200  # bytes of a name that go into a temporary one, which has 255 at most


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder that becomes `path` at the end, whole or not at all.

    A link is followed: the file that it leads to is replaced. The temporary file must be written in place; it is
    locked, and what an earlier process that was killed has left of this path is removed.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "figures.csv"
    >>> with atomic_write(path) as temporary:
    ...     _ = temporary.write_text("epoch,loss")
    >>> path.read_text()
    'epoch,loss'

    Raises:
        TenreoError: when the folder cannot be written to, or the path is that of anything but a regular file.
    """
    with _named(path):
        target = _target(path)
        handle, temporary = _temporary(target)
    try:
        _remove_left(target)
        yield temporary
        os.fsync(handle)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _target(path)  # something else may have come into being there
        os.replace(temporary, target)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def check_writable(path: Path) -> None:
    """Raise unless a file can be written to a path, by making and removing a temporary one beside it.

    Raises:
        TenreoError: when its folder does not exist or cannot be written to, or the path is that of a folder, of
            anything else that is no regular file, or of a link that leads to no file.
    """
    with _named(path):
        target = _target(path)
        handle, temporary = _temporary(target)
        temporary.unlink()
        os.close(handle)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the path in what the system says about it and its temporary files."""
    try:
        yield
    except (OSError, ValueError) as error:  # the latter of a NUL byte
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> TenreoError:
    why = getattr(error, "strerror", None) or error
    return TenreoError(f"{path}: cannot be written: {why}; choose another path")


def _target(path: Path) -> Path:
    """The regular file that is to be replaced, links followed, or the path of one that does not exist yet."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        kind = kind_of(target.lstat().st_mode)
    except FileNotFoundError:
        if path.is_symlink():
            raise TenreoError(
                f"{path}: cannot be written: it is a link to {target}, which does not exist; choose another path"
            ) from None
        if not path.name or not target.parent.is_dir():
            raise TenreoError(
                f"{path}: cannot be written: there is no folder {target.parent}; create it first"
            ) from None
        return target
    if kind is not None:
        raise TenreoError(f"{path}: cannot be written: it is {kind}; choose another path")
    return target


def _prefix(target: Path) -> str:
    return f".{os.fsdecode(os.fsencode(target.name)[:_MOST_NAME])}."


def _temporary(target: Path) -> tuple[int, Path]:
    """An open, empty file beside the target that this process holds."""
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=_ENDING)
        temporary = Path(name)
        try:
            # Another process may have taken it for one that was left, before it was locked.
            if not _locked(handle) or temporary.stat().st_ino == os.fstat(handle).st_ino:
                return handle, temporary
        except FileNotFoundError:
            pass
        os.close(handle)


def _locked(handle: int) -> bool:
    """Whether an open file is now held by this process, and by no other."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return False
    return True


def _remove_left(target: Path) -> None:
    """Remove the target's temporary files that no living process holds."""
    prefix = _prefix(target)
    left: list[Path] = []
    with suppress(OSError), os.scandir(target.parent) as entries:
        left = [
            Path(e.path) for e in entries
            if e.name.startswith(prefix) and e.name.endswith(_ENDING) and e.is_file(follow_symlinks=False)
        ]  # fmt: skip
    for temporary in left if fcntl is not None else ():
        with suppress(OSError):
            handle = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _locked(handle):
                    temporary.unlink()
            finally:
                os.close(handle)

"""Atomic replacement of files: a file is written completely or not at all. Only regular files are replaced."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tenreo.errors import TenreoError
from tenreo.files.paths import kind_of

try:
    import fcntl
except ImportError:  # not a POSIX system: temporary files of killed processes are then never removed
    fcntl = None  # type: ignore[assignment]

_ENDING = ".unfinished"
_MOST_NAME = 200  # bytes of the target's name in the name of a temporary file, which has at most 255


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Provide a temporary path in the same folder, which replaces `path` when the context ends without an error.

    A symbolic link is kept, and the file that it points to is replaced. The temporary file exists already and must be
    written in place, because this process holds a lock on it. Temporary files for the same path that a killed process
    has left behind are removed.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "figures.csv"
    >>> with atomic_write(path) as temporary:
    ...     _ = temporary.write_text("epoch,loss")
    >>> path.read_text()
    'epoch,loss'

    Args:
        path: path of the file to write or replace.

    Raises:
        TenreoError: if the folder cannot be written to, or something other than a regular file has this path.
    """
    with write_errors_named(path):
        target = _target(path)
        with _temporary(target) as (handle, temporary):
            _remove_abandoned(target)
            yield temporary
            os.fsync(handle)
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            _target(path)  # a folder or a pipe may have been created there in the meantime
            os.replace(temporary, target)


def write_text(path: Path, text: str) -> None:
    """Write a text to a file, completely or not at all; what Unicode lacks, as in names of files, is escaped.

    Raises:
        TenreoError: as `atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_writable(path: Path) -> None:
    """Raise unless a file can be written to a path, by creating and removing a temporary file in its folder.

    Args:
        path: path of a file that may or may not exist.

    Raises:
        TenreoError: if the folder does not exist or cannot be written to, if something other than a regular file has
            this path, or if it is a symbolic link to a file that does not exist.
    """
    with write_errors_named(path), _temporary(_target(path)):
        pass


@contextmanager
def write_errors_named(path: Path) -> Iterator[None]:
    """Raise errors of the system in the context as errors that name a path that is written.

    Raises:
        TenreoError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise TenreoError(f"{path}: cannot be written: {error.strerror or error}; choose another path") from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, unless they exist.

    Raises:
        TenreoError: if it cannot be created.
    """
    with write_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _target(path: Path) -> Path:
    """Follow symbolic links and return the path of the regular file to replace or create."""
    if "\0" in str(path):
        raise TenreoError(f"{path}: cannot be written: the path contains a null byte; choose another path")
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
    """The beginning of the names of all temporary files for a target."""
    return f".{os.fsdecode(os.fsencode(target.name)[:_MOST_NAME])}."


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[int, Path]]:
    """Create, open and lock an empty file in the target's folder; provide its descriptor and path, and remove it.

    Errors of removing and closing it are ignored: its contents have then been written, or another error is raised.
    """
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=_ENDING)
        temporary = Path(name)
        try:
            # Before this process locked the file, another one may have removed it as abandoned.
            if not _lock(handle) or _same_file(temporary, handle):
                yield handle, temporary
                return
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            with suppress(OSError):
                os.close(handle)


def _same_file(path: Path, handle: int) -> bool:
    with suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(handle).st_ino
    return False


def _lock(handle: int) -> bool:
    """Try to lock an open file; return whether this process holds the lock now."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds the lock, or the file system has no locks
        return False
    return True


def _remove_abandoned(target: Path) -> None:
    """Remove the target's temporary files that no running process has locked."""
    prefix = _prefix(target)
    candidates: list[Path] = []
    with suppress(OSError), os.scandir(target.parent) as entries:
        candidates = [
            Path(e.path) for e in entries
            if e.name.startswith(prefix) and e.name.endswith(_ENDING) and e.is_file(follow_symlinks=False)
        ]  # fmt: skip
    for temporary in candidates if fcntl is not None else ():
        with suppress(OSError):
            handle = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _lock(handle):
                    temporary.unlink()
            finally:
                os.close(handle)

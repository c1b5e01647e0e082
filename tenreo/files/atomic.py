"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenreo.errors import TenreoError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder that becomes `path` at the end, whole or not at all.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "figures.csv"
    >>> with atomic_write(path) as temporary:
    ...     _ = temporary.write_text("epoch,loss")
    >>> path.read_text()
    'epoch,loss'

    Raises:
        TenreoError: when the folder can not be written to.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise TenreoError(f"{path}: can not be written: {error.strerror}; choose another path") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise TenreoError(f"{path}: can not be written: {error}; choose another path") from error
    finally:
        temporary.unlink(missing_ok=True)

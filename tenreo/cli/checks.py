"""What is checked and chosen before a command starts its work."""

from __future__ import annotations

import os
from pathlib import Path

from tenreo.errors import TenreoError


def check_output(path: Path, force: bool) -> None:
    """Raise unless the file may be written.

    Raises:
        TenreoError: when it exists and force is not set, or its folder does not.
    """
    if path.exists() and not force:
        raise TenreoError(f"{path}: exists already; say --force to replace it, or choose another --out")
    if not path.parent.is_dir():
        raise TenreoError(f"{path}: there is no folder {path.parent}; create it first")


def check_input(path: Path) -> None:
    """Raise unless there is such a file.

    Raises:
        TenreoError: when there is none, or it is a folder.
    """
    if not path.is_file():
        raise TenreoError(f"{path}: can not be opened: no such file; give the path of a file")


def choose_workers(workers: int | None, data: str) -> int:
    """The given number, or one per core for folders and none for the digits; processes share the cores."""
    if workers is not None or data == "digits":
        return workers or 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

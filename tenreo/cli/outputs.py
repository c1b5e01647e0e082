"""The files that commands write: their names, and whether they can be written, before any work. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from tenreo.errors import TenreoError
from tenreo.files.atomic import check_writable
from tenreo.planning.rates import TargetParameters, TargetSize
from tenreo.planning.recipe import Recipe


def default_name(arch: str, recipe: Recipe) -> str:
    """The reference implementation's name for its output, as safetensors."""
    number = recipe.rate.number
    number = number if isinstance(recipe.rate, (TargetSize, TargetParameters)) else float(number)
    groups = f"-{recipe.groups}" if recipe.groups else ""
    return f"compressed-{arch}-{recipe.rate.name}{groups}-{number}.safetensors"


def run_files(best: Path, epochs: int, plot: bool) -> dict[str, Path]:
    """What a fine-tuning run writes, by what it is: beside the best model the last one, state, log and picture.

    Args:
        best: file of the best model.
        epochs: without any, the best model is all.
        plot: whether the log is drawn.
    """
    if not epochs:
        return {"file": best}
    ends = {"last": "last.safetensors", "state": "state", "log": "csv", **({"plot": "png"} if plot else {})}
    stem = best.name.removesuffix(".safetensors")
    return {"file": best, **{what: best.with_name(f"{stem}.{end}") for what, end in ends.items()}}


def check_output(path: Path, force: bool, option: str = "out") -> None:
    """Raise unless a file can be written.

    Args:
        path: path of the file.
        force: whether a file that exists may be replaced.
        option: name of the option that sets the path.

    Raises:
        TenreoError: if the file exists and force is not set, or cannot be written.
    """
    check_writable(path)
    if path.exists() and not force:
        raise TenreoError(f"{path}: exists already; say --force to replace it, or choose another --{option}")


def check_folder(path: Path, force: bool) -> None:
    """Raise unless files can be written into a folder, which is made if it does not exist.

    Raises:
        TenreoError: if it is not a folder, is not empty and force is not set, or cannot be written to.
    """
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    if not missing and (not path.is_dir() or (any(os.scandir(path)) and not force)):
        raise TenreoError(f"{path}: exists already and is not empty; say --force, or another --out")
    check_writable(missing[-1] if missing else path / "x")

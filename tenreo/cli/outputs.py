"""The files that commands write: their names, and whether they can be written, before any work. No torch."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tenreo.errors import TenreoError
from tenreo.planning.rates import TargetParameters, TargetSize, rate_name, rate_number
from tenreo.planning.recipe import Recipe

# Endings that promise another format than safetensors.
_OTHERS = (
    ".bin", ".ckpt", ".csv", ".engine", ".gguf", ".h5", ".json", ".keras", ".msgpack", ".npy", ".npz", ".onnx", ".pb",
    ".pickle", ".pkl", ".png", ".pt", ".pt2", ".pte", ".pth", ".tar", ".tflite", ".txt", ".yaml", ".yml", ".zip",
)  # fmt: skip


def default_name(arch: str, recipe: Recipe) -> str:
    """The reference implementation's name for its output, as safetensors."""
    number = rate_number(recipe.rate)
    number = number if isinstance(recipe.rate, (TargetSize, TargetParameters)) else float(number)
    groups = f"-{recipe.groups}" if recipe.groups else ""
    return f"compressed-{arch}-{rate_name(recipe.rate)}{groups}-{number}.safetensors"


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


def check_model_name(path: Path) -> None:
    """Raise when the ending of a model's file promises another format than safetensors.

    Raises:
        TenreoError: naming the ending.
    """
    if path.suffix.lower() in _OTHERS:
        raise TenreoError(
            f"out: given {path}, but what is written is safetensors, not {path.suffix}; "
            f"say {path.stem or 'model'}.safetensors"
        )


_FORMATS = {"png": "what is drawn is PNG", "csv": "what is written is CSV"}


def check_ending(option: str, path: Path, endings: Sequence[str]) -> None:
    """Raise unless the name of a file has an ending of what is written.

    Args:
        option: that names the file.
        path: of the file.
        endings: that it may have, without the dot.

    Raises:
        TenreoError: naming the ending.
    """
    if path.suffix.lower().removeprefix(".") not in endings:
        what = " or ".join(_FORMATS[ending] for ending in endings)
        names = " or ".join(f"{path.stem or option}.{ending}" for ending in endings)
        raise TenreoError(f"{option}: given {path}, but {what}; say {names}")


def check_output(path: Path, force: bool, option: str = "out") -> None:
    """Raise unless a file can be written: folder, permission and name, by making an empty one beside it.

    Raises:
        TenreoError: when it exists and force is not set, is not a regular file, or can not be written.
    """
    try:
        exists = os.path.lexists(path)
        if exists and path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise TenreoError(f"{path}: can not be written: it is {kind}; choose another path")
        if exists and not force:
            raise TenreoError(f"{path}: exists already; say --force to replace it, or choose another --{option}")
        if not path.parent.is_dir():
            raise TenreoError(f"{path}: there is no folder {path.parent}; create it first")
        _check_name(path)
        _check_writable(path.parent)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def _check_name(path: Path) -> None:
    most = os.pathconf(path.parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if len(os.fsencode(path.name)) > most:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _check_writable(folder: Path) -> None:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".tenreo.")
    os.close(handle)
    os.unlink(name)


def _unwritable(path: Path, error: Exception) -> TenreoError:
    why = getattr(error, "strerror", None) or error
    return TenreoError(f"{path}: can not be written: {why}; choose another path")


def check_folder(path: Path, force: bool) -> None:
    """Raise unless files can be written into a folder, which is made where it does not exist.

    Raises:
        TenreoError: when it is no folder, is not empty and force is not set, or can not be written to.
    """
    try:
        if os.path.lexists(path) and (not path.is_dir() or (any(path.iterdir()) and not force)):
            raise TenreoError(f"{path}: exists already and is not empty; say --force, or another --out")
        there = path
        while not there.exists():
            there = there.parent
            if there.exists():
                _check_name(there / path.relative_to(there).parts[0])
        _check_writable(there)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error

"""File formats that models are exported to. This module does not import torch."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from tenreo.errors import TenreoError, install, shown

DATA_ENDING = ".data"  # of the file with the external data of an ONNX file
FORMATS = (".safetensors", ".pth", ".pt2", ".onnx")  # endings of exported files


class WeightDtype(StrEnum):
    """Number format of exported weights."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Deployment(StrEnum):
    """The file whose size a target size limits, unless it is the compressed file."""

    ONNX = "onnx"


def check_format(path: Path, small: bool = False) -> None:
    """Raise unless models can be exported to files with the ending of this path.

    Args:
        path: path of the file.
        small: whether the weights stay compressed.

    Raises:
        TenreoError: naming the possible endings.
    """
    if path.suffix not in FORMATS:
        raise TenreoError(f"to: given {shown(path.name)}, needs a name that ends in {', '.join(FORMATS)}")
    if small and path.suffix != ".onnx":
        raise TenreoError(f"small: given {shown(path.name)}, needs a name that ends in .onnx; only ONNX models decode")


def check_packages() -> None:
    """Raise unless the packages that ONNX needs are installed.

    Raises:
        TenreoError: naming those that are missing.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise TenreoError(f"to: ONNX needs {' and '.join(missing)}; {install('onnx')}")


def check_output(path: Path, out: Path, files: tuple[Path, ...] = ()) -> None:
    """Raise if a compressed model has no name of an ONNX file, or would replace a file of the dense model."""
    if out.suffix != ".onnx":
        raise TenreoError(f"out: given {out.name!r}, needs a name that ends in .onnx")
    data = out.with_name(out.name + DATA_ENDING)
    for each in (path, *files):
        if any(own.exists() and each.exists() and own.samefile(each) for own in (out, data)):
            raise TenreoError(f"out: {out} would replace {each}, which is read; choose another name")

"""Exporting a dense model as ONNX."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tenreo.errors import TenreoError
from tenreo.exporting.arguments import Arguments, first_line
from tenreo.exporting.program import trace
from tenreo.files.atomic import atomic_write
from tenreo.models.inputs import takes_lists
from tenreo.modules.ties import stored_state

_OPSET = 17  # version of ONNX operators for detectors; torchvision tests its detectors with 11 and later
_MOST_BYTES = 2**31  # limit of a protobuf message, which an ONNX file is


def write_onnx(dense: nn.Module, arguments: Arguments, path: Path) -> bool:
    """Write an ONNX model, and return whether it takes batches of any size.

    Raises:
        TenreoError: if the model is too large or cannot be translated, or the file cannot be written.
    """
    size = sum(t.numel() * t.element_size() for t in stored_state(dense).values())
    if size >= _MOST_BYTES:
        raise TenreoError(
            f"{path}: the weights have {size:,} bytes, an ONNX file at most {_MOST_BYTES:,}; choose float16, or .pt2"
        )
    if takes_lists(dense):
        content, dynamic = _trace_detector(dense, arguments, path), False
    else:
        program, dynamic = trace(dense, arguments, path)
        content = _translate(program, path)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return dynamic


def _trace_detector(dense: nn.Module, arguments: Arguments, path: Path) -> bytes:
    """Return the ONNX bytes of a detector, traced along one run.

    The number of detections depends on the data, which torchvision supports with this older exporter only.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            file = Path(folder) / "model.onnx"
            torch.onnx.export(dense, arguments[0], file, dynamo=False, opset_version=_OPSET)
            return file.read_bytes()
    except Exception as error:
        raise TenreoError(f"{path}: torch.onnx cannot trace the model: {first_line(error)}") from error


def _translate(program: Any, path: Path) -> bytes:
    """Return the ONNX bytes of a program of torch.export."""
    try:
        import onnxscript  # noqa: F401

        with warnings.catch_warnings(), torch.no_grad():  # with gradients, torch 2.14 fails on some shapes
            warnings.simplefilter("ignore")
            model: Any = torch.onnx.export(program, dynamo=True, verbose=False)
        content: bytes = model.model_proto.SerializeToString()
    except ImportError as error:
        raise TenreoError(f"{path}: ONNX needs onnx, onnxscript and onnxruntime; install tenreo[onnx]") from error
    except Exception as error:
        raise TenreoError(f"{path}: torch.onnx cannot translate the model: {first_line(error)}") from error
    return content


def run_onnx(path: Path, arguments: Arguments) -> list[Tensor]:
    """Run an ONNX model in ONNX Runtime on the CPU and return its outputs.

    Raises:
        TenreoError: if onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise TenreoError(f"{path}: is written, but not checked; install tenreo[onnx] for onnxruntime") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = [value for value in tree_leaves(arguments) if isinstance(value, Tensor)]
    names = [each.name for each in session.get_inputs()]
    feed = {name: value.cpu().numpy() for name, value in zip(names, values, strict=True)}
    return [torch.from_numpy(each) for each in session.run(None, feed)]

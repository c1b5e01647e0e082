"""Dense models as programs: those of torch.export, and ONNX."""

import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tenreo.errors import TenreoError, shown
from tenreo.models.inputs import takes_lists
from tenreo.modules.ties import stored_state

_OPSET = 17  # version of ONNX operators for detectors; torchvision tests its detectors with 11 and later
_MOST_BYTES = 2**31  # limit of a protobuf message, which an ONNX file is

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named


def torch_program(dense: nn.Module, arguments: Arguments, path: Path) -> tuple[bytes, bool]:
    """Return a file of torch.export for a model, and whether the program takes batches of any size.

    Args:
        dense: the dense model.
        arguments: arguments of a call; the first dimension of each tensor is the batch.
        path: path of the file, for messages.

    Raises:
        TenreoError: if the model cannot be traced.
    """
    program, dynamic = _trace(dense, arguments, path)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue(), dynamic


def onnx_program(dense: nn.Module, arguments: Arguments, path: Path) -> tuple[bytes, bool]:
    """Return an ONNX file for a model, and whether it takes batches of any size; arguments as of `torch_program`.

    Raises:
        TenreoError: if the model is too large, or cannot be traced or translated.
    """
    size = sum(t.numel() * t.element_size() for t in stored_state(dense).values())
    if size >= _MOST_BYTES:
        raise TenreoError(
            f"{path}: the weights have {size:,} bytes, an ONNX file at most {_MOST_BYTES:,}; choose float16, or .pt2"
        )
    if takes_lists(dense):
        return _trace_detector(dense, arguments, path), False
    program, dynamic = _trace(dense, arguments, path)
    return _translate(program, path), dynamic


def _trace(dense: nn.Module, arguments: Arguments, path: Path) -> tuple[Any, bool]:
    """Return the exported program, and whether it takes batches of any size."""
    batch = torch.export.Dim("batch", min=1, max=2**16)

    def shape(value: Any) -> Any:
        return {0: batch} if isinstance(value, Tensor) and value.dim() else None

    positional, named = tree_map(shape, arguments)
    for shapes in (named if named else positional, None):
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    dense, arguments[0], arguments[1] or None, dynamic_shapes=shapes, strict=False
                )
            return program, shapes is not None
        except Exception as error:  # tracing runs the model, which may raise any error
            failure = error
    raise TenreoError(f"{path}: torch.export cannot trace the model: {first_line(failure)}") from failure


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


def run_program(path: Path, arguments: Arguments) -> list[Any]:
    """Run the program of a file and return its outputs as a flat list."""
    outputs: list[Any] = tree_leaves(torch.export.load(path).module()(*arguments[0], **arguments[1]))
    return outputs


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


def first_line(error: Exception) -> str:
    """Return the first line of an error's text that is not blank, or the name of its class."""
    return shown(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))

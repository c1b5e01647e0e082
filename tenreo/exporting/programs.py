"""Dense models as programs: those of torch.export, and ONNX."""

import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tenreo.errors import TenreoError, install, raise_if_out_of_memory, shown
from tenreo.models.inputs import takes_lists
from tenreo.modules.ties import stored_state

_OPSET = 18  # version of ONNX operators for the older exporter; the functions of small models need 18
# Ways to trace a model with torch.export: whether the batch may have any size, and whether the code is read by
# torch.compile's front end (strict), which traces some models that the other way does not, but is slower.
_WAYS = ((True, False), (True, True), (False, False), (False, True))
MOST_BYTES = 2**31  # limit of a protobuf message, which an ONNX file is

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

    def saved(dynamic: bool, strict: bool) -> bytes:
        buffer = io.BytesIO()
        torch.export.save(_trace(dense, arguments, dynamic, strict), buffer)
        return buffer.getvalue()

    attempts = [(dynamic, partial(saved, dynamic, strict)) for dynamic, strict in _WAYS]
    return _first(attempts, f"{path}: torch.export cannot trace the model")


def onnx_program(
    dense: nn.Module, arguments: Arguments, path: Path, finish: Callable[[Any, bool], None], small: bool = False
) -> tuple[Any, bool]:
    """Return an ONNX model for a model, and whether it takes batches of any size; arguments as of `torch_program`.

    Args:
        dense: the dense model.
        arguments: arguments of a call.
        path: path of the file, for messages.
        finish: function that changes the ONNX model in place before it is run; it is also given whether the model takes
            batches of any size.
        small: whether the weights will be replaced, so that the model must not be optimized.

    Raises:
        TenreoError: if the model cannot be traced or translated.
    """
    fits = sum(t.numel() * t.element_size() for t in stored_state(dense).values()) < MOST_BYTES
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise TenreoError(f"{path}: ONNX needs onnx, onnxscript and onnxruntime; {install('onnx')}")

    def translated(dynamic: bool, strict: bool) -> Any:
        """Export a traced program to ONNX."""
        program = _trace(dense, arguments, dynamic, strict)
        model: Any = torch.onnx.export(program, dynamo=True, verbose=False, optimize=not small)
        proto = model.model_proto
        finish(proto, dynamic)
        if fits and find_spec("onnxruntime") is not None and not _has_bfloat16(dense):
            run_onnx(proto.SerializeToString(), arguments)  # translations of some programs cannot be run
        return proto

    def along_run(trace: Callable[[nn.Module, Arguments], Any]) -> Any:
        proto = trace(dense, arguments)
        finish(proto, False)
        return proto

    problem = f"{path}: torch.onnx cannot translate the model"
    if takes_lists(dense):
        # The number of detections depends on the data, which torchvision supports with this older exporter only.
        return _first([(False, lambda: along_run(_trace_along_run))], problem)
    attempts = [(dynamic, partial(translated, dynamic, strict)) for dynamic, strict in _WAYS]
    return _first([*attempts, (False, lambda: along_run(_trace_faithfully))], problem)


def _first(attempts: Iterable[tuple[bool, Callable[[], Any]]], problem: str) -> tuple[Any, bool]:
    """Return what the first successful attempt makes, and whether it takes batches of any size.

    Args:
        attempts: pairs of whether a program takes batches of any size, and a function that makes the program.
        problem: what went wrong if all attempts fail; the cause of the first failure is added.
    """
    failure: Exception | None = None
    for dynamic, make in attempts:
        try:
            with _silent(), torch.no_grad():  # with gradients, torch 2.14 fails on some shapes
                return make(), dynamic
        except Exception as error:  # tracing runs the model, which may raise any error
            raise_if_out_of_memory(error)
            failure = failure or error
    raise TenreoError(f"{problem}: {first_line(failure or Exception('no attempt'))}") from failure


@contextmanager
def _silent() -> Iterator[None]:
    """Context in which exporters neither warn nor log nor print the programs that they cannot trace."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _trace(dense: nn.Module, arguments: Arguments, dynamic: bool, strict: bool) -> Any:
    """Return the program of torch.export."""
    batch = torch.export.Dim("batch", min=1, max=2**16)

    def shape(value: Any) -> Any:
        return {0: batch} if isinstance(value, Tensor) and value.dim() else None

    positional, named = tree_map(shape, arguments)
    shapes = (named if named else positional) if dynamic else None
    return torch.export.export(dense, arguments[0], arguments[1] or None, dynamic_shapes=shapes, strict=strict)


def _trace_along_run(dense: nn.Module, arguments: Arguments) -> Any:
    """Return the ONNX model of a model that the older exporter traces along one run."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            dense, arguments[0], file, kwargs=arguments[1] or None, dynamo=False, opset_version=_OPSET
        )  # fmt: skip
        return onnx.load(file)


def _trace_faithfully(dense: nn.Module, arguments: Arguments) -> Any:
    """Trace along one run; raise if the program could differ for other inputs because of the model's control flow."""
    warnings.simplefilter("error", torch.jit.TracerWarning)  # type: ignore[attr-defined]
    return _trace_along_run(dense, arguments)


def _has_bfloat16(dense: nn.Module) -> bool:
    """Return whether a model has weights in bfloat16, which ONNX Runtime's CPU kernels do not support."""
    return any(value.dtype == torch.bfloat16 for value in stored_state(dense).values())


def run_program(path: Path, arguments: Arguments) -> list[Any]:
    """Run the program of a file and return its outputs as a flat list."""
    outputs: list[Any] = tree_leaves(torch.export.load(path).module()(*arguments[0], **arguments[1]))
    return outputs


def run_onnx(program: Path | bytes, arguments: Arguments) -> list[Tensor]:
    """Run an ONNX model, of a file or its content, in ONNX Runtime on the CPU and return its outputs.

    Raises:
        TenreoError: if onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise TenreoError(
            f"{program!s}: is written, but not checked; onnxruntime is missing; {install('onnx')}"
        ) from error
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    values = [value for value in tree_leaves(arguments) if isinstance(value, Tensor)]
    names = [each.name for each in session.get_inputs()]
    feed = {name: value.cpu().numpy() for name, value in zip(names, values, strict=True)}
    return [torch.from_numpy(each) for each in session.run(None, feed)]


def first_line(error: BaseException) -> str:
    """Return the first line of the text of an error's cause that is not blank, or the name of its class."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # torch.onnx writes in colors
    return shown(next((line for line in text.splitlines() if line.strip()), type(error).__name__))

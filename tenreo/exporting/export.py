"""Leading a compressed model out: dense weights, an exported program, or ONNX, each checked against the model."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tenreo.compression.parametrization import expand_
from tenreo.compression.serialization import write_model
from tenreo.errors import TenreoError, shown
from tenreo.exporting.comparison import largest_difference
from tenreo.exporting.formats import check_format
from tenreo.files.atomic import atomic_write, check_writable
from tenreo.files.records import ModelInfo
from tenreo.models.identification import identify
from tenreo.models.inputs import arguments_of, input_shape, takes_lists
from tenreo.modules.ties import stored_state
from tenreo.modules.wrappers import check_unsharded, unwrapped
from tenreo.planning.recipe import DenseDtype

_OPSET = 17  # of ONNX, that of torchvision's own tests or later
_BATCH = 2  # of the input that a program is made with: 1 would be taken for a constant
_LARGEST_ONNX = 2**31  # bytes that one file of the format can hold


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: of the file.
        bytes: of the file.
        dynamic: whether a program takes batches of any size; None where the file holds weights alone.
        difference: largest difference of an output between the file, run on an input, and the compressed model; None
            where the file holds weights alone, or can not be run here.
    """

    path: Path
    bytes: int
    dynamic: bool | None = None
    difference: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "path": str(self.path)}


def export(
    model: nn.Module,
    path: str | Path,
    *,
    dtype: str = "float32",
    inputs: Any = None,
    info: ModelInfo | None = None,
) -> Export:
    """Write a compressed model as a dense one, for programs that do not know tenreo.

    >>> import tempfile
    >>> from tenreo import Recipe, Uniform, compress_
    >>> model = nn.Sequential(nn.Linear(64, 64))
    >>> _ = compress_(model, Recipe(4, Uniform(2.0)))
    >>> done = export(model, Path(tempfile.mkdtemp()) / "dense.pth")
    >>> torch.load(done.path)["0.weight"].shape
    torch.Size([64, 64])

    Args:
        model: compressed or dense; stays as it is.
        path: its ending says the format: .safetensors and .pth hold the weights under the names of the
            architecture, .pt2 a program of `torch.export`, .onnx a model that ONNX Runtime is tried on.
        dtype: of floating-point numbers: float32, float16 or bfloat16.
        inputs: a batch to run a program on: a tensor, a tuple of arguments, or a dictionary of them. By default
            random numbers, where the model takes images of a known size.
        info: what the model is; by default it is recognized.

    Raises:
        TenreoError: when the ending is unknown, a package is missing, the model can not be exported, or the file not
            be written.
    """
    path, model = Path(path), unwrapped(model)
    check_format(path)
    check_writable(path)
    check_unsharded(model)
    if dtype not in list(DenseDtype):
        raise TenreoError(f"dtype: given {shown(dtype)}, needs one of {', '.join(DenseDtype)}")
    kind: torch.dtype = getattr(torch, dtype)
    dense = expand_(deepcopy(model)).eval().to(kind)
    if path.suffix == ".safetensors":
        write_model(dense, path, replace(info or identify(model), corrections=()))
    elif path.suffix == ".pth":
        _write(path, _saved(stored_state(dense)))
    else:
        return _export_program(model, dense, path, _arguments(model, inputs), kind)
    return Export(path, path.stat().st_size)


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def made_up(model: nn.Module, size: int | tuple[int, ...] | None = None) -> tuple[Any, ...]:
    """The arguments of a call with random images.

    Args:
        model: compressed or dense.
        size: side in pixels, or the shape of an input; by default what is known of the model.

    Raises:
        TenreoError: when it takes no images, or their size is not known.
    """
    generator = torch.Generator().manual_seed(0)
    return arguments_of(model, torch.randn(_BATCH, *input_shape(model, size), generator=generator))


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _arguments(model: nn.Module, inputs: Any) -> Arguments:
    """Positional and named arguments of a call."""
    if inputs is None:
        inputs = made_up(model)
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _cast(arguments: Arguments, like: nn.Module) -> Arguments:
    """The arguments on a model's device, floating-point ones in its dtype."""
    known = next((p for p in like.parameters() if p.is_floating_point()), torch.zeros(0))

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(known) if value.is_floating_point() else value.to(known.device)

    cast: Arguments = tree_map(move, arguments)
    return cast


def _export_program(model: nn.Module, dense: nn.Module, path: Path, given: Arguments, kind: torch.dtype) -> Export:
    """Write a program and compare what it puts out with what the compressed model does."""
    was_training = model.training
    arguments, own = _cast(given, dense), _cast(given, model)
    try:
        with torch.no_grad():
            wanted = model.eval()(*own[0], **own[1])
    except Exception as error:  # a model of somebody else can fail in any way
        shapes = ", ".join(str(list(x.shape)) for x in tree_leaves(own) if isinstance(x, Tensor))
        raise TenreoError(f"input: the model does not take {shapes}: {_first_line(error)}; give another") from error
    finally:
        model.train(was_training)
    if path.suffix == ".pt2":
        program, dynamic = _program(dense, arguments, path)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        _write(path, buffer.getvalue())
        found = _run(path, lambda: _run_program(path, arguments))
    else:
        content, dynamic = _onnx(dense, arguments, path)
        _write(path, content)
        if kind == torch.bfloat16:  # which ONNX Runtime's CPU kernels do not know
            return Export(path, len(content), dynamic)
        found = _run(path, lambda: _run_onnx(path, arguments))
    difference = largest_difference(path, found, tree_leaves(wanted), len(wanted) if takes_lists(model) else 0)
    return Export(path, path.stat().st_size, dynamic, difference)


def _run(path: Path, outputs: Callable[[], list[Any]]) -> list[Any]:
    """What a file puts out.

    Raises:
        TenreoError: when it can not be run.
    """
    try:
        return outputs()
    except TenreoError:
        raise
    except Exception as error:  # of what translates and runs programs
        raise TenreoError(f"{path}: is written, but can not be run here: {_first_line(error)}") from error


def _run_program(path: Path, arguments: Arguments) -> list[Any]:
    found: list[Any] = tree_leaves(torch.export.load(path).module()(*arguments[0], **arguments[1]))
    return found


def _program(dense: nn.Module, arguments: Arguments, path: Path) -> tuple[Any, bool]:
    """The exported program, and whether it takes batches of any size."""
    batch = torch.export.Dim("batch", min=1, max=2**16)

    def shape(value: Any) -> Any:
        return {0: batch} if isinstance(value, Tensor) and value.dim() else None

    positional, named = tree_map(shape, arguments)
    dynamic_shapes = named if named else positional
    for shapes in (dynamic_shapes, None):
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                found = torch.export.export(
                    dense, arguments[0], arguments[1] or None, dynamic_shapes=shapes, strict=False
                )
            return found, shapes is not None
        except Exception as error:  # tracing fails in as many ways as there are models
            failure = error
    raise TenreoError(f"{path}: torch.export can not trace the model: {_first_line(failure)}") from failure


def _onnx(dense: nn.Module, arguments: Arguments, path: Path) -> tuple[bytes, bool]:
    """The bytes of an ONNX model, and whether it takes batches of any size."""
    size = sum(t.numel() * t.element_size() for t in stored_state(dense).values())
    if size >= _LARGEST_ONNX:
        raise TenreoError(f"{path}: {size:,} bytes of weights, ONNX holds {_LARGEST_ONNX:,}; choose float16, or .pt2")
    if takes_lists(dense):
        return _traced(dense, arguments, path), False
    program, dynamic = _program(dense, arguments, path)
    return _translated(program, path), dynamic


def _traced(dense: nn.Module, arguments: Arguments, path: Path) -> bytes:
    """The bytes of one run: detectors depend on how much they find, which torchvision wrote for this exporter alone."""
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            file = Path(folder) / "model.onnx"
            torch.onnx.export(dense, arguments[0], file, dynamo=False, opset_version=_OPSET)
            return file.read_bytes()
    except Exception as error:
        raise TenreoError(f"{path}: torch.onnx can not trace the model: {_first_line(error)}") from error


def _translated(program: Any, path: Path) -> bytes:
    """The bytes of an ONNX model of a program."""
    try:
        import onnxscript  # noqa: F401

        with warnings.catch_warnings(), torch.no_grad():  # with gradients, torch 2.14 fails on some shapes
            warnings.simplefilter("ignore")
            made: Any = torch.onnx.export(program, dynamo=True, verbose=False)
        content: bytes = made.model_proto.SerializeToString()
    except ImportError as error:
        raise TenreoError(f"{path}: ONNX needs onnx, onnxscript and onnxruntime; install tenreo[onnx]") from error
    except Exception as error:
        raise TenreoError(f"{path}: torch.onnx can not translate the model: {_first_line(error)}") from error
    return content


def _run_onnx(path: Path, arguments: Arguments) -> list[Tensor]:
    """What ONNX Runtime puts out on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise TenreoError(f"{path}: is written, but not checked; install tenreo[onnx] for onnxruntime") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = [value for value in tree_leaves(arguments) if isinstance(value, Tensor)]
    names = [each.name for each in session.get_inputs()]
    feed = {name: value.cpu().numpy() for name, value in zip(names, values, strict=True)}
    return [torch.from_numpy(each) for each in session.run(None, feed)]


def _first_line(error: Exception) -> str:
    return shown(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))

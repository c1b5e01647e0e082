"""Exporting a compressed model as dense weights, a program of torch.export, or ONNX."""

import io
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tenreo.compression.parametrization import curves, expand_
from tenreo.compression.serialization import write_model
from tenreo.devices import public_function
from tenreo.errors import TenreoError, raise_if_out_of_memory, shown
from tenreo.exporting.comparison import largest_difference
from tenreo.exporting.formats import WeightDtype, check_format
from tenreo.exporting.onnx_files import size_of, write_onnx
from tenreo.exporting.onnx_names import describe_, output_names, rename_
from tenreo.exporting.programs import Arguments, first_line, onnx_program, run_onnx, run_program, torch_program
from tenreo.exporting.small_onnx import small_model
from tenreo.files.atomic import atomic_write, check_writable
from tenreo.files.paths import as_path
from tenreo.files.records import ModelInfo
from tenreo.models.identification import identify
from tenreo.models.inputs import arguments_of, input_shape, takes_lists
from tenreo.modules.copies import evaluating
from tenreo.modules.ties import check_has_values, stored_state
from tenreo.modules.wrappers import check_unsharded, unwrapped

_tracing = Lock()  # torch's exporters change state that all threads share
_BATCH = 2  # a dimension of size 1 would be exported as a constant


@dataclass(frozen=True)
class Export:
    """The result of an export.

    Attributes:
        path: path of the file.
        bytes: size of the file, with that of the external data of a large ONNX model.
        dynamic: whether a program takes batches of any size; None if the file contains weights only.
        difference: largest absolute difference between an output of the file and of the compressed model for the same
            input; None if the file contains weights only, or cannot be run here.
        dense: names of the compressed layers that a small ONNX model cannot decode, and whose weights are dense in it.
    """

    path: Path
    bytes: int
    dynamic: bool | None = None
    difference: float | None = None
    dense: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**vars(self), "path": str(self.path)}


@public_function()
def export(
    model: nn.Module, path: str | Path, *, dtype: str = "float32", inputs: Any = None, info: ModelInfo | None = None,
    small: bool = False, announce: Callable[[int], None] | None = None,
) -> Export:  # fmt: skip
    """Write a compressed model as a dense one, for programs that do not have tenreo.

    >>> import tempfile
    >>> from tenreo import Recipe, Uniform, compress_
    >>> model = nn.Sequential(nn.Linear(64, 64))
    >>> _ = compress_(model, Recipe(4, Uniform(2.0)))
    >>> done = export(model, Path(tempfile.mkdtemp()) / "dense.pth")
    >>> torch.load(done.path)["0.weight"].shape
    torch.Size([64, 64])

    Args:
        model: compressed or dense model, which is not changed.
        path: path of the file, whose ending selects the format: .safetensors and .pth contain the weights under the
            names of the architecture, .pt2 a program of `torch.export`, .onnx a model for ONNX Runtime. Programs and
            ONNX models are run once and compared with the compressed model.
        dtype: type of floating-point numbers: float32, float16 or bfloat16. Layers in another precision than most of
            the model, as after `layer.half()`, keep it.
        inputs: batch to run a program on: a tensor, a tuple of arguments, or a dictionary of them. By default random
            numbers, if the model takes images of a known size.
        info: description of the model; by default it is recognized.
        small: whether the weights stay compressed in an ONNX model. The runtime decodes them with standard operators
            when it loads the model.
        announce: function that is given the size of a program in bytes before it is written.

    Returns:
        The path and the size of the file and, for programs, how far their outputs differ from those of the model.

    Raises:
        TenreoError: if the ending is unknown, a package is missing, or the file cannot be made or written.
    """
    path, model = as_path("path", path), unwrapped(model)
    check_format(path, small)
    check_writable(path)
    check_unsharded(model)
    check_has_values(model)
    if dtype not in list(WeightDtype):
        raise TenreoError(f"dtype: given {shown(dtype)}, needs one of {', '.join(WeightDtype)}")
    kind: torch.dtype = getattr(torch, dtype)
    dense = _dense(model, kind)
    if path.suffix == ".safetensors":
        write_model(dense, path, replace(info or identify(model), corrections=()))
        return Export(path, path.stat().st_size)
    if path.suffix == ".pth":
        buffer = io.BytesIO()  # on a full disk, torch.save raises another error than the system's
        torch.save(stored_state(dense), buffer)
        with atomic_write(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        return Export(path, path.stat().st_size)
    return _export_program(model, dense, path, inputs, small, announce or (lambda size: None))


def example_inputs(model: nn.Module, size: int | tuple[int, ...] | None = None) -> tuple[Any, ...]:
    """Return the positional arguments of a call with random images.

    Args:
        model: compressed or dense model.
        size: side of the images in pixels, or the shape of one input; by default it is taken from the model.

    Raises:
        TenreoError: if the model does not take images, or their size is not known.
    """
    generator = torch.Generator().manual_seed(0)
    shape = _BATCH, *input_shape(model, size)
    return arguments_of(model, torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu"))


def _export_program(
    model: nn.Module, dense: nn.Module, path: Path, inputs: Any, small: bool, announce: Callable[[int], None]
) -> Export:
    """Write a dense model as a program, run it, and compare its outputs with those of the compressed model."""
    given = _arguments(model, inputs)
    expected, arguments = _outputs(model, _cast(given, model)), _cast(given, dense)
    if len({p.dtype for p in model.parameters()}) > 1 and not _runs(dense, arguments):
        # The model converts values to the precision of single layers, so each layer has to keep its own.
        dense, arguments = expand_(deepcopy(model)).eval(), _cast(given, model)
    left: list[str] = []

    def finish(program: Any, dynamic: bool) -> None:
        left[:] = small_model(program, curves(model), stored_state(dense)) if small else []
        rename_(program, output_names(expected), dynamic)
        program.producer_name = "tenreo"
        describe_(program, {"tenreo.weights": "compressed" if small else "dense"})

    run = run_program if path.suffix == ".pt2" else run_onnx
    with _tracing:
        if path.suffix == ".pt2":
            program, dynamic = torch_program(dense, arguments, path)
        else:
            program, dynamic = onnx_program(dense, arguments, path, finish, small)
    if path.suffix == ".pt2":
        size = len(program)
        announce(size)
        with atomic_write(path) as temporary:
            temporary.write_bytes(program)
    else:
        announce(size_of(program))
        size = write_onnx(program, path)
    # ONNX Runtime's CPU kernels do not support bfloat16.
    if path.suffix == ".onnx" and any(p.dtype == torch.bfloat16 for p in dense.parameters()):
        return Export(path, size, dynamic, dense=tuple(left))
    try:
        outputs = run(path, arguments)
    except TenreoError:
        raise
    except Exception as error:  # torch and ONNX Runtime may raise any error
        raise_if_out_of_memory(error)
        raise TenreoError(f"{path}: is written, but cannot be run here: {first_line(error)}") from error
    images = len(expected) if takes_lists(model) else 0
    difference = largest_difference(path, outputs, tree_leaves(expected), images)
    return Export(path, size, dynamic, difference, tuple(left))


def _arguments(model: nn.Module, inputs: Any) -> Arguments:
    """Return the arguments that given inputs stand for; None stands for random images."""
    if inputs is None:
        inputs = example_inputs(model)
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _cast(arguments: Arguments, model: nn.Module) -> Arguments:
    """Return the arguments on a model's device, floating-point tensors in its dtype."""
    device, dtype = next((p.device for p in model.parameters()), torch.device("cpu")), _main_dtype(model)

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)

    result: Arguments = tree_map(move, arguments)
    return result


def _dense(model: nn.Module, kind: torch.dtype) -> nn.Module:
    """Return a copy of a model with dense weights, in a dtype unless a layer has another one than the model."""
    dense, own = expand_(deepcopy(model)).eval(), _main_dtype(model)
    return dense._apply(lambda x: x.to(kind) if x.dtype == own else x)  # type: ignore[no-untyped-call, no-any-return]


def _main_dtype(model: nn.Module) -> torch.dtype:
    """Return the floating-point dtype of most parameters of a model."""
    counts: Counter[torch.dtype] = Counter({torch.float32: 0})
    for value in model.parameters():
        if value.is_floating_point():
            counts[value.dtype] += value.numel()
    return counts.most_common(1)[0][0]


def _runs(model: nn.Module, arguments: Arguments) -> bool:
    """Return whether a model takes the arguments."""
    with suppress(TenreoError):
        _outputs(model, arguments)
        return True
    return False


def _outputs(model: nn.Module, arguments: Arguments) -> Any:
    """Return the outputs of a model in evaluation mode."""
    try:
        with torch.no_grad():
            return evaluating(model)(*arguments[0], **arguments[1])
    except Exception as error:  # a model may raise any error
        raise_if_out_of_memory(error)
        shapes = ", ".join(str(list(x.shape)) for x in tree_leaves(arguments) if isinstance(x, Tensor))
        raise TenreoError(f"input: the model does not take {shapes}: {first_line(error)}; give another") from error

"""Compression of ONNX models: the weights stay compressed in the graph, which stays as it is otherwise."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tenreo.checkpoints.compress import Written, compress_tensors
from tenreo.checkpoints.plan import resolve_tensors
from tenreo.compression.serialization import unpack_layer
from tenreo.devices import public_function
from tenreo.errors import TenreoError, raise_if_out_of_memory
from tenreo.exporting.dense_onnx import DenseOnnx, open_onnx, resolve_onnx
from tenreo.exporting.formats import check_output, check_packages
from tenreo.exporting.graph_nodes import FLOAT
from tenreo.exporting.onnx_correction import Correction, corrections, find_biases
from tenreo.exporting.onnx_files import OnnxFile, size_of, write_onnx
from tenreo.exporting.onnx_names import describe_
from tenreo.exporting.onnx_runs import (
    Arrays,
    OutputDifference,
    Runner,
    compare_outputs,
    error_of,
    given_inputs,
    random_inputs,
)
from tenreo.exporting.onnx_size import compress_for_onnx
from tenreo.exporting.onnx_weights import is_constant, looked_up, tensor_of
from tenreo.exporting.programs import MOST_BYTES, first_line
from tenreo.exporting.small_graph import SmallGraph
from tenreo.files.atomic import check_writable
from tenreo.files.checkpoints import Output
from tenreo.files.dense_stream import decode_dense
from tenreo.files.header import read_header
from tenreo.files.layout import parameter_name
from tenreo.files.safetensors import read_tensors
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import Plan
from tenreo.planning.rates import TargetSize
from tenreo.planning.recipe import DenseDtype, Recipe

_WORTH = 0.99  # of the squared error of the outputs, above which biases are not corrected
_IR_VERSION = 8  # lowest version of ONNX's format that has functions


@dataclass(frozen=True)
class CompressedOnnx:
    """The result of the compression of an ONNX model.

    Attributes:
        path: path of the compressed model.
        bytes_before: size of the files of the dense model.
        bytes: size of the files of the compressed model.
        written: plan, layers and counts of the compressed weights.
        compared_on: what the outputs of both models were compared on: a file, or "random inputs"; empty if they were
            not compared.
        outputs: differences of the outputs.
    """

    path: Path
    bytes_before: int
    bytes: int
    written: Written
    compared_on: str
    outputs: tuple[OutputDifference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "file": str(self.path), "bytes_before": self.bytes_before, "bytes": self.bytes, "snr": self.written.snr,
            "compared_on": self.compared_on, "outputs": [asdict(each) for each in self.outputs],
        }  # fmt: skip


@public_function()
def compress_onnx(
    path: str | Path, out: str | Path, recipe: Recipe, inputs: str | Path | None = None, *,
    match_statistics: bool = True, jobs: int | None = None,
    progress: Callable[[LayerPlan], None] | None = None, note: Callable[[str], None] | None = None,
) -> CompressedOnnx:  # fmt: skip
    """Compress the weights of an ONNX model; the runtime decodes them with standard operators when it loads the model.

    The graph, its names, inputs and outputs stay. Weights of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU, RNN and
    Gather are compressed, and biases and normalization parameters are rounded; all other tensors stay as they are.
    Both models are run in ONNX Runtime, and their outputs compared.

    Args:
        path: path of the dense model.
        out: path of the compressed model.
        recipe: how to compress: a rate, or a size, which is that of the compressed ONNX model.
        inputs: path of an .npz file with an array for each input of the model; by default, inputs are random.
        match_statistics: whether biases are corrected on given inputs, so that the means of the layers' outputs are
            those of the dense model. They stay as they are if that does not bring the model's outputs closer.
        jobs: number of threads; by default one per core.
        progress: function that is called with every layer after it is encoded.
        note: function that is called with every sentence that the user should know.

    Returns:
        The sizes of both models, and how far the outputs of the compressed one are from those of the dense one.

    Raises:
        TenreoError: if the model is damaged, has no weights to compress or cannot be run on the given inputs, the size
            is out of reach, or the file cannot be written.
    """
    path, out, note = Path(path), Path(out), note or (lambda text: None)
    check_packages()
    check_output(path, out)
    check_writable(out)
    dense = open_onnx(path)
    plan = resolve_onnx(dense, recipe)
    check_output(path, out, dense.file.files)
    if dense.weights.quantized:
        note(f"{path} is quantized in part: integer weights stay as they are")
    comparison = _Comparison.start(dense.file, None if inputs is None else Path(inputs), note)
    with TemporaryDirectory() as folder:
        trial = _compress(dense, plan, Path(folder), jobs, progress, note)
        model = _corrected(dense, trial, comparison, note) if match_statistics else trial.model
    _check(model, out)
    size = write_onnx(model, out)
    if size >= dense.file.bytes:
        note(
            f"the compressed model is not smaller than the dense one: {size:,} instead of {dense.file.bytes:,} bytes; "
            "the functions that decode its weights have about 10,000 bytes, so use the dense model or fewer bits"
        )
    return CompressedOnnx(out, dense.file.bytes, size, trial.written, comparison.source, tuple(comparison.finish(out)))


@dataclass(frozen=True)
class _Trial:
    """A compressed model, the file of its weights, and the recipe of its size."""

    model: Any
    weights: Path
    written: Written
    recipe: Recipe


def _compress(
    dense: DenseOnnx, plan: Plan, folder: Path, jobs: int | None, progress: Callable[[LayerPlan], None] | None,
    note: Callable[[str], None],
) -> _Trial:  # fmt: skip
    numbers = count()

    def attempt(recipe: Recipe) -> tuple[int, _Trial]:
        """Compress with a recipe; return the bytes of the ONNX model, and the trial."""
        output = Output(folder / f"{next(numbers)}.safetensors", jobs=jobs)
        written = compress_tensors(dense.weights, resolve_tensors(recipe, dense.weights), output, progress=progress)
        model = _small(dense, output.path, recipe.dense_dtype)
        size = size_of(model)
        note(f"weights of {written.after.bytes:,} bytes lead to an ONNX model of {size:,} bytes")
        return size, _Trial(model, output.path, written, plan.recipe)

    if isinstance(plan.recipe.rate, TargetSize):
        return compress_for_onnx(plan.recipe, attempt, dense.rest)
    return attempt(plan.recipe)[1]


def _small(
    dense: DenseOnnx, path: Path, dense_dtype: DenseDtype, changes: Mapping[str, Correction] | None = None
) -> Any:
    """Return a copy of a model with the compressed weights of a file, and with changes added to some of its biases."""
    import onnx

    weights, header, tensors, changes = dense.weights, read_header(path), read_tensors(path), changes or {}
    graph, replaced = SmallGraph(weights.types), set()
    for layer, record in header.layers.items():
        name = parameter_name(layer, tensors)
        if graph.add_weight(name, unpack_layer(name, record, tensors, path), record.curve.precision):
            replaced.add(name)
    rounded = header.coded if dense_dtype is DenseDtype.CODED else weights.tensors
    values = {
        name: tensor.float()
        for name, tensor in decode_dense(header, tensors).items()
        if name in rounded and weights.types.get(name) == FLOAT
    }
    values |= {name: tensor_of(weights.stored[name]) for name in changes if name not in values}
    for name, tensor in values.items():
        logarithmic = name.endswith(".running_var")
        graph.add_dense(name, changes[name].of(tensor, logarithmic) if name in changes else tensor)
    replaced |= values.keys()
    model = onnx.ModelProto()
    model.CopyFrom(dense.file.model)
    _remove_(model.graph, replaced)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    graph.finish_(model)
    describe_(model, {"tenreo.weights": "compressed"})
    return model


def _corrected(dense: DenseOnnx, trial: _Trial, comparison: "_Comparison", note: Callable[[str], None]) -> Any:
    """Return the compressed model with corrected biases, if these bring the outputs closer to the dense model's."""
    stored = {name: each for name, each in dense.weights.stored.items() if each.data_type == FLOAT}
    compressed = [x.parameter for x in trial.written.plan.layers if x.name in trial.written.layers]
    biases = find_biases(dense.file.model.graph, stored, compressed)
    if not biases:
        return trial.model
    if not comparison.is_given:
        note("biases are not corrected, since random inputs do not have the means of real ones; give inputs")
        return trial.model
    if max(size_of(dense.file.model), size_of(trial.model)) >= MOST_BYTES:
        note("biases are not corrected, since the model has 2 GB or more")
        return trial.model
    changes = corrections(dense.file.model, trial.model, biases, comparison.inputs)
    model = _small(dense, trial.weights, trial.recipe.dense_dtype, changes) if changes else trial.model
    before, after = (comparison.error(each.SerializeToString()) for each in (trial.model, model))
    if after >= _WORTH * before:
        note(f"biases are not corrected, since that does not bring the outputs on {comparison.source} closer")
        return trial.model
    limit = trial.recipe.rate.bytes if isinstance(trial.recipe.rate, TargetSize) else math.inf
    if size_of(model) > limit:
        note(f"biases are not corrected, since the model would have {size_of(model):,} bytes")
        return trial.model
    note(
        f"{len(biases)} biases are corrected on {comparison.source}: the outputs differ by {100 * after**0.5:.2f} % "
        f"instead of {100 * before**0.5:.2f} %"
    )
    return model


def _remove_(graph: Any, names: set[str]) -> None:
    """Remove tensors from a graph in place, also from its inputs, where old versions of ONNX list them."""
    stored = {each.name for each in graph.initializer}
    for field, kept in (
        (graph.input, [each for each in graph.input if each.name not in names & stored]),
        (graph.initializer, [each for each in graph.initializer if each.name not in names]),
        (graph.node, [node for node in graph.node if not (is_constant(node) and node.output[0] in names)]),
    ):
        if len(kept) < len(field):
            del field[:]
            field.extend(kept)


def _check(model: Any, out: Path) -> None:
    import onnx

    if size_of(model) >= MOST_BYTES:
        return
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises errors of several classes
        raise_if_out_of_memory(error)
        raise TenreoError(f"{out}: the compressed model is not valid: {first_line(error)}; report this") from error


@dataclass
class _Comparison:
    """Outputs of the dense model, with which those of the compressed one are compared."""

    source: str
    inputs: Arrays
    expected: Arrays
    is_given: bool = False

    @classmethod
    def start(cls, file: OnnxFile, inputs: Path | None, note: Callable[[str], None]) -> "_Comparison":
        """Run the dense model; without given inputs, a model that takes no random ones is not compared."""
        try:
            runner = Runner(file.path, str(file.path))
            if inputs is not None:
                arrays = given_inputs(inputs, runner)
            else:
                arrays = random_inputs(runner, looked_up(file.model.graph))
            return cls(str(inputs or "random inputs"), arrays, runner.run(arrays), inputs is not None)
        except TenreoError as error:
            if inputs is not None:
                raise
            note(f"outputs are not compared: {error}; give inputs")
            return cls("", {}, {})

    def error(self, model: bytes) -> float:
        """Return the error of the outputs of a model; see `error_of`."""
        return error_of(self.expected, Runner(model, "compressed model").run(self.inputs))

    def finish(self, path: Path) -> Iterator[OutputDifference]:
        """Yield the differences of the outputs of the compressed model."""
        if self.source:
            yield from compare_outputs(self.expected, Runner(path, str(path)).run(self.inputs))

"""Compression of ONNX models: the weights stay compressed in the graph, which stays as it is otherwise."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tenreo.checkpoints.compress import Written, compress_tensors
from tenreo.checkpoints.plan import resolve_tensors
from tenreo.compression.serialization import unpack_layer
from tenreo.devices import public_function
from tenreo.errors import TenreoError, raise_if_out_of_memory
from tenreo.exporting.decoder_functions import OPSET
from tenreo.exporting.formats import check_output, check_packages
from tenreo.exporting.graph_nodes import FLOAT
from tenreo.exporting.onnx_files import OnnxFile, read_onnx, size_of, write_onnx
from tenreo.exporting.onnx_names import all_nodes, describe_
from tenreo.exporting.onnx_runs import Arrays, OutputDifference, Runner, compare_outputs, given_inputs, random_inputs
from tenreo.exporting.onnx_size import compress_for_onnx
from tenreo.exporting.onnx_weights import OnnxWeights, is_constant, looked_up
from tenreo.exporting.programs import MOST_BYTES, first_line
from tenreo.exporting.small_graph import SmallGraph
from tenreo.exporting.stream_functions import DOMAIN
from tenreo.files.atomic import check_writable
from tenreo.files.checkpoints import Output
from tenreo.files.dense_stream import decode_dense
from tenreo.files.header import read_header
from tenreo.files.layout import parameter_name
from tenreo.files.safetensors import read_tensors
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import Plan
from tenreo.planning.rates import RelativeSize, TargetBits, TargetSize
from tenreo.planning.recipe import DenseDtype, Recipe

_IR_VERSION = 8  # lowest version of ONNX's format that has functions
_WEIGHTS = "weights.safetensors"


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
    path: str | Path, out: str | Path, recipe: Recipe, inputs: str | Path | None = None, *, jobs: int | None = None,
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
    model, written = _compress(dense, plan, jobs, progress, note)
    _check(model, out)
    size = write_onnx(model, out)
    return CompressedOnnx(out, dense.file.bytes, size, written, comparison.source, tuple(comparison.finish(out)))


@dataclass(frozen=True)
class DenseOnnx:
    """An ONNX model that can be compressed, and its weights."""

    file: OnnxFile
    weights: OnnxWeights

    @property
    def rest(self) -> int:
        """Bytes of the files that are not those of weights."""
        return self.file.bytes - sum(int(self.weights.original(name).ByteSize()) for name in self.weights.tensors)


def open_onnx(path: Path) -> DenseOnnx:
    """Read an ONNX model that can be compressed.

    Raises:
        TenreoError: if it is damaged, is compressed already, or has no weights.
    """
    file = read_onnx(path)
    if any(each.domain == DOMAIN for each in (*file.model.opset_import, *file.model.functions)):
        raise TenreoError(f"{path}: is already compressed; give the dense model")
    weights = OnnxWeights(_modern(file), path.name)
    if not weights.traits:
        if weights.quantized:
            raise TenreoError(f"{path}: has integer weights, since it is quantized; give the model before quantization")
        if file.model.graph.sparse_initializer:
            raise TenreoError(f"{path}: has sparse weights, which are not compressed; store them densely")
        raise TenreoError(
            f"{path}: has no floating-point weights of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU, RNN or Gather "
            "that could be compressed"
        )
    return DenseOnnx(file, weights)


def _modern(file: OnnxFile) -> Any:
    """Convert a model in place to the version of the operators that the decoder needs; return it."""
    import onnx
    from onnx import version_converter

    version = next((each.version for each in file.model.opset_import if each.domain in ("", "ai.onnx")), OPSET)
    if version >= OPSET:
        return file.model
    nested = any(node for node in all_nodes(file.model.graph) if any(x.HasField("g") for x in node.attribute))
    names = [[each.name for each in (*g.input, *g.output)] for g in [file.model.graph]]
    try:
        if nested:
            raise ValueError("it has operators with inner graphs")
        converted = version_converter.convert_version(file.model, OPSET)
        onnx.checker.check_model(converted)
        if [[each.name for each in (*g.input, *g.output)] for g in [converted.graph]] != names:
            raise ValueError("its inputs or outputs would change")
    except Exception as error:  # the converter raises errors of several classes
        raise_if_out_of_memory(error)
        raise TenreoError(
            f"{file.path}: has version {version} of ONNX's operators, needs {OPSET}, and cannot be converted: "
            f"{first_line(error)}; export the model again with opset {OPSET} or later"
        ) from error
    metadata = list(file.model.metadata_props)
    file.model.CopyFrom(converted)
    if not file.model.metadata_props:
        file.model.metadata_props.extend(metadata)
    return file.model


def resolve_onnx(dense: DenseOnnx, recipe: Recipe) -> Plan:
    """Return the plan of the compression of an ONNX model.

    A fraction is that of the size of its files; bits are those of each weight, in addition to the rest of the files.

    Raises:
        TenreoError: as for `resolve_tensors`.
    """
    if isinstance(recipe.rate, RelativeSize):
        numel = sum(each.numel for each in dense.weights.tensors.values())
        rate = recipe.rate.size(numel, dense.file.bytes)
        if isinstance(recipe.rate, TargetBits):
            rate = TargetSize(rate.bytes + dense.rest)
        recipe = replace(recipe, rate=rate)
    return resolve_tensors(recipe, dense.weights)


def _compress(
    dense: DenseOnnx, plan: Plan, jobs: int | None, progress: Callable[[LayerPlan], None] | None,
    note: Callable[[str], None],
) -> tuple[Any, Written]:  # fmt: skip
    def attempt(trial: Recipe) -> tuple[int, tuple[Any, Written]]:
        with TemporaryDirectory() as folder:
            output = Output(Path(folder) / _WEIGHTS, jobs=jobs)
            written = compress_tensors(dense.weights, resolve_tensors(trial, dense.weights), output, progress=progress)
            model = _small(dense, output.path, trial.dense_dtype)
        size = size_of(model)
        note(f"weights of {written.after.bytes:,} bytes lead to an ONNX model of {size:,} bytes")
        return size, (model, written)

    if isinstance(plan.recipe.rate, TargetSize):
        return compress_for_onnx(plan.recipe, attempt, dense.rest)
    return attempt(plan.recipe)[1]


def _small(dense: DenseOnnx, path: Path, dense_dtype: DenseDtype) -> Any:
    """Return a copy of a model with the compressed weights of a file."""
    import onnx

    weights, header, tensors = dense.weights, read_header(path), read_tensors(path)
    graph, replaced = SmallGraph(weights.types), set()
    for layer, record in header.layers.items():
        name = parameter_name(layer, tensors)
        if graph.add_weight(name, unpack_layer(name, record, tensors, path), record.curve.precision):
            replaced.add(name)
    rounded = header.coded if dense_dtype is DenseDtype.CODED else weights.tensors
    for name, tensor in decode_dense(header, tensors).items():
        if name in rounded and weights.types.get(name) == FLOAT:
            graph.add_dense(name, tensor.float())
            replaced.add(name)
    model = onnx.ModelProto()
    model.CopyFrom(dense.file.model)
    _remove_(model.graph, replaced)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    graph.finish_(model)
    describe_(model, {"tenreo.weights": "compressed"})
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

    @classmethod
    def start(cls, file: OnnxFile, inputs: Path | None, note: Callable[[str], None]) -> "_Comparison":
        """Run the dense model; without given inputs, a model that takes no random ones is not compared."""
        try:
            runner = Runner(file.path, str(file.path))
            if inputs is not None:
                arrays = given_inputs(inputs, runner)
            else:
                arrays = random_inputs(runner, looked_up(file.model.graph))
            return cls(str(inputs or "random inputs"), arrays, runner.run(arrays))
        except TenreoError as error:
            if inputs is not None:
                raise
            note(f"outputs are not compared: {error}; give inputs")
            return cls("", {}, {})

    def finish(self, path: Path) -> Iterator[OutputDifference]:
        """Yield the differences of the outputs of the compressed model."""
        if self.source:
            yield from compare_outputs(self.expected, Runner(path, str(path)).run(self.inputs))

"""ONNX models that can be compressed: reading, and the plan of their compression."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenreo.checkpoints.plan import resolve_tensors
from tenreo.errors import TenreoError, raise_if_out_of_memory
from tenreo.exporting.decoder_functions import OPSET
from tenreo.exporting.onnx_files import OnnxFile, read_onnx
from tenreo.exporting.onnx_names import all_nodes
from tenreo.exporting.onnx_weights import OnnxWeights
from tenreo.exporting.programs import first_line
from tenreo.exporting.stream_functions import DOMAIN
from tenreo.planning.plan import Plan
from tenreo.planning.rates import RelativeSize, TargetBits, TargetSize
from tenreo.planning.recipe import Recipe


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

"""Counts and size of the file that a plan leads to, computed without encoding."""

import math
from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo import __version__
from tenreo.codec.shape import CurveShape, Positions, Precision
from tenreo.files.counts import Counts, count
from tenreo.files.dense_stream import encode_dense
from tenreo.files.header import check_readable, metadata
from tenreo.files.layout import COEFFICIENTS, DENSE, POSITIONS, TensorRecord, file_size, layer_tensors
from tenreo.files.provenance import Provenance
from tenreo.files.records import LayerErrors, LayerRecord, ModelInfo
from tenreo.files.safetensors import record
from tenreo.modules.ties import stored_state
from tenreo.modules.weights import find_weights
from tenreo.modules.wrappers import full_tensor
from tenreo.planning.dense_storage import dense_step
from tenreo.planning.layers import LayerPlan
from tenreo.planning.recipe import DenseDtype, Recipe

# Placeholders for header values that a plan does not know: the longest texts that they can have.
_ERRORS = LayerErrors(-1.2345678901234567e-100, -1.2345678901234567e-100, 1.2345678901234567e-100)
_SOURCE = Provenance(__version__, "0" * 64)
_NAMED = ModelInfo("a" * 20, 10_000, "w" * 20)  # of a model whose name `tenreo.save` may find out
_NAMING_PACKAGES = ("torchvision", "timm")
_META_BITS = 3.0  # bits of a coded dense value without its step; weights on the meta device have no values
# Bits of a coded coefficient, bytes until the coder has adapted to a layer, and bits by which layers differ.
_CODED_BITS, _CODED_BYTES, _CODED_DOUBT = {Precision.INT8: 7.4, Precision.INT6: 5.45}, 40, 0.1
_HALF = {DenseDtype.FLOAT16: "F16", DenseDtype.BFLOAT16: "BF16"}


class FileEstimate:
    """The counts and the file size of a model for any choice of curves; the dense tensors are counted only once.

    Layers of the model that are compressed already are counted as such. The header of the file will contain the info;
    without one, the info that `tenreo.save` will find out. The attribute `before` has the counts of the dense model.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, info: ModelInfo | None = None) -> None:
        named = type(model).__module__.partition(".")[0] in _NAMING_PACKAGES
        self.recipe, self.info = recipe, info or (_NAMED if named else ModelInfo(classes=100_000))
        state = {name: tensor for name, tensor in stored_state(model).items() if ".parametrizations." not in f".{name}"}
        self.state, self.parameters = state, {name for name, _ in model.named_parameters()}
        self.dense = {name: record(tensor) for name, tensor in state.items()}
        self.stored = {name: _stored(tensor, recipe.dense_dtype) for name, tensor in state.items()}
        self.records: dict[str, LayerRecord] = {}  # layers that are compressed already
        for name, weight in find_weights(model).items():
            if not parametrize.is_parametrized(weight.module, weight.tensor):
                continue
            self.dense[weight.parameter] = record(weight.value)
            if (curve := weight.curve) is not None:
                self.records[name] = LayerRecord(weight.shape, curve, positions=recipe.positions)
                self.stored |= self._tensors(weight.parameter, self.records[name])
            else:
                self.stored[weight.parameter] = _stored(weight.value, recipe.dense_dtype)
        self.before = count(self.dense)
        self._dense_counts = {name: count({name: tensor}) for name, tensor in self.stored.items()}
        self._stored_counts = count(self.stored, self.records)

    def after(self, layers: Iterable[LayerPlan]) -> Counts:
        """Return the counts of the model once the layers with a curve are compressed; the bytes are `file_size`."""
        layers, total = list(layers), self._stored_counts
        for layer in layers:
            if layer.curve:
                compressed = self._record(layer)
                tensors = self._tensors(layer.parameter, compressed, layer.position_bytes)
                total += count(tensors, {layer.name: compressed})
                total -= self._dense_counts[layer.parameter]
        return replace(total, bytes=self.file_size(layers))

    def file_size(self, layers: Iterable[LayerPlan]) -> int:
        """Return the maximum size of the file in bytes once the layers with a curve are compressed."""
        return file_size(*self._content(layers))

    def check_header(self, layers: Iterable[LayerPlan]) -> None:
        """Raise unless the file can be read again, once the layers with a curve are compressed.

        Raises:
            TenreoError: naming what a reader would refuse.
        """
        check_readable("plan", *self._content(layers))

    def _content(self, layers: Iterable[LayerPlan]) -> tuple[dict[str, TensorRecord], dict[str, str]]:
        """Return the tensors and the metadata of the file."""
        layers, tensors = list(layers), dict(self.stored)
        records = {n: replace(layer, errors=_ERRORS) for n, layer in self.records.items()}
        for layer in layers:
            if layer.curve:
                tensors.pop(layer.parameter)
                records[layer.name] = self._record(layer)
                tensors |= self._tensors(layer.parameter, records[layer.name], layer.position_bytes)
        coded = self._code_(tensors, layers) if self.recipe.dense_dtype is DenseDtype.CODED else {}
        source = replace(_SOURCE, license=self.info.license)
        return tensors, metadata(self.info, self.recipe.to_dict(), records, coded, source)

    def _code_(self, tensors: dict[str, TensorRecord], layers: Iterable[LayerPlan]) -> dict[str, TensorRecord]:
        """Replace the dense tensors of a file by their stream, and return those that it contains."""
        step = dense_step((layer.numel, layer.errors.snr) for layer in layers if layer.curve)
        dense = {name: self.state[name] for name in tensors if name in self.state}
        if any(tensor.is_meta for tensor in dense.values()):
            coded = {name: tensors[name] for name in dense if name in self.parameters}
            size = int(sum(each.numel for each in coded.values()) * (_META_BITS - math.log2(step)) / 8)
        else:
            stream, coded = encode_dense({n: full_tensor(x).cpu() for n, x in dense.items()}, self.parameters, step)
            size = len(stream)
        for name in coded:
            del tensors[name]
        if coded:
            tensors[DENSE] = TensorRecord("U8", (size,))
        return coded

    def _record(self, layer: LayerPlan) -> LayerRecord:
        errors = _ERRORS if layer.errors.snr is None else layer.errors
        coded = self.recipe.positions == Positions.CODED and _are_coded(layer.encoding)
        return LayerRecord(layer.shape, layer.encoding, errors, self.recipe.positions, coded_coefficients=coded)

    def _tensors(
        self, parameter: str, layer: LayerRecord, position_bytes: int | None = None
    ) -> dict[str, TensorRecord]:
        """Return the tensors of a compressed parameter; without `position_bytes`, positions have their maximum size."""
        tensors = layer_tensors(layer, self.dense[parameter].dtype)
        if layer.coded_coefficients:
            tensors[COEFFICIENTS] = replace(tensors[COEFFICIENTS], shape=(_coded_bytes(layer.curve),))
        if position_bytes is not None:
            most = tensors[POSITIONS].numel
            tensors[POSITIONS] = replace(tensors[POSITIONS], shape=(min(position_bytes, most),))
        return {parameter + suffix: tensor for suffix, tensor in tensors.items()}


def _coded_bytes(curve: CurveShape) -> int:
    """Estimate the bytes of coded integer coefficients."""
    return _CODED_BYTES + math.ceil(_CODED_BITS[curve.precision] * curve.coefficients / 8)


def _are_coded(curve: CurveShape) -> bool:
    """Return whether coefficients are certainly smaller if they are coded; otherwise the header may be longer, too."""
    if curve.precision not in _CODED_BITS:
        return False
    doubt = _CODED_DOUBT * curve.coefficients / 8
    return _coded_bytes(curve) + doubt < curve.precision.bits * curve.coefficients / 8


def _stored(tensor: Tensor, dtype: DenseDtype) -> TensorRecord:
    known = record(tensor)
    return replace(known, dtype=_HALF[dtype]) if known.is_floating and dtype in _HALF else known

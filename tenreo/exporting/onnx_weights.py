"""The weights of an ONNX model: which of its tensors are compressed or rounded, and which stay as they are."""

from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tenreo.checkpoints.sources import Source
from tenreo.exporting.graph_nodes import BFLOAT16, DOUBLE, FLOAT, FLOAT16
from tenreo.files.layout import layer_name
from tenreo.files.records import MOST_DIMENSIONS
from tenreo.files.values import check_name
from tenreo.planning.rules import MOST_COLORS, Traits

_STANDARD = ("", "ai.onnx")
# The inputs of an operator that are weights, and those that are other parameters, by their numbers.
_WEIGHTS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
    "Gather": (0,),
}  # fmt: skip
_PARAMETERS = {
    "Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "LSTM": (3,), "GRU": (3,), "RNN": (3,), "Add": (0, 1),
    "BatchNormalization": (1, 2, 3, 4), "LayerNormalization": (1, 2), "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
}  # fmt: skip
_STATISTICS = {("BatchNormalization", 3): ".running_mean", ("BatchNormalization", 4): ".running_var"}
_TRANSPARENT = ("Identity", "Transpose", "Cast")  # operators that hand a weight on to its operator
_TYPES = {FLOAT: torch.float32, FLOAT16: torch.float16, BFLOAT16: torch.bfloat16, DOUBLE: torch.float64}
_FEW = 16  # elements of a parameter that is left as it is
_MOST_PARAMETER = 1e3  # values of a parameter; larger ones are those of a mask


class _Use(NamedTuple):
    """A use of a tensor by an operator."""

    operator: str
    number: int  # of the input
    groups: int


class _Values(Mapping[str, Tensor]):
    """Tensors of ONNX by name; each is converted when it is asked for, and not kept."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return tensor_of(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class OnnxWeights(Source):
    """The floating-point weights and other parameters of an ONNX model, as tensors that can be compressed.

    Attributes:
        types: ONNX's number of the type of every tensor.
        quantized: whether the model has operators on integers that stand for weights.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._tensors = _stored(model.graph)
        uses = _uses(model.graph, self._tensors)
        kept = {each.name for each in model.graph.output}
        weights = {n: own for n, own in uses.items() if n not in kept and _is_weight(self._tensors[n], own)}
        others = sorted(n for n, own in uses.items() if n not in kept | weights.keys() and self._is_parameter(n, own))
        self.types = {n: self._tensors[n].data_type for n in (*weights, *others)}
        super().__init__(name, _Values({n: self._tensors[n] for n in self.types}))
        self.quantized = any(_is_quantized(node) for node in model.graph.node)
        self._traits = _traits({n: (tuple(self._tensors[n].dims), own) for n, own in weights.items()})

    @property
    def traits(self) -> list[Traits]:
        """Traits of the weights, by the operators that use them."""
        return self._traits

    @property
    def stored(self) -> dict[str, Any]:
        """All floating-point tensors of the model by name, also those that stay as they are."""
        return self._tensors

    def original(self, name: str) -> Any:
        """Return a tensor as it is in the model."""
        return self._tensors[name]

    def _is_parameter(self, name: str, uses: list[_Use]) -> bool:
        """Whether a tensor that is no weight can be rounded."""
        if not uses or not all(use.number in _PARAMETERS.get(use.operator, ()) for use in uses):
            return False
        endings = {_STATISTICS[use[:2]] for use in uses if use[:2] in _STATISTICS}
        if any(not name.endswith(ending) for ending in endings):  # rounded by the name, which says what they are
            return False
        values = tensor_of(self._tensors[name])
        return values.numel() > _FEW and bool(values.abs().max() < _MOST_PARAMETER)

    def is_parameter(self, name: str) -> bool:
        """Whether a tensor can be rounded: all that are not statistics."""
        return not name.endswith(tuple(_STATISTICS.values()))


def _stored(graph: Any) -> dict[str, Any]:
    """Return the floating-point tensors of initializers and Constant nodes with names that a file can have."""
    stored = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if is_constant(node):
            stored[node.output[0]] = next(each.t for each in node.attribute if each.name == "value")
    return {name: each for name, each in stored.items() if each.data_type in _TYPES and _is_name(name)}


def is_constant(node: Any) -> bool:
    """Return whether a node of ONNX is a tensor."""
    standard = node.op_type == "Constant" and is_standard(node)
    return standard and any(each.name == "value" for each in node.attribute)


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except ValueError:
        return False
    return True


def _uses(graph: Any, stored: dict[str, Any]) -> dict[str, list[_Use]]:
    """Return the uses of tensors, also behind operators that hand them on, in the order of the graph."""
    uses: dict[str, list[_Use]] = {}
    for node, own in origins(graph, stored):
        groups = next((x.i for x in node.attribute if x.name == "group"), 1)
        operator = node.op_type if is_standard(node) else ""
        for number, name in own.items():
            uses.setdefault(name, []).append(_Use(operator, number, groups))
    return uses


def origins(graph: Any, stored: Container[str]) -> Iterator[tuple[Any, dict[int, str]]]:
    """Yield the nodes that use tensors, or what others hand on of these, with the tensors' names by input."""
    origin: dict[str, str] = {}
    for node in graph.node:
        names = {number: origin.get(name, name) for number, name in enumerate(node.input)}
        own = {number: name for number, name in names.items() if name in stored}
        if node.op_type in _TRANSPARENT and is_standard(node) and own and len(node.output) == 1:
            origin[node.output[0]] = own[0]
        else:
            yield node, own


def is_standard(node: Any) -> bool:
    """Return whether a node of ONNX is one of the standard operators."""
    return node.domain in _STANDARD


def _is_weight(tensor: Any, uses: list[_Use]) -> bool:
    several = len(tensor.dims) >= 2 and min(tensor.dims) > 0
    return several and any(use.number in _WEIGHTS.get(use.operator, ()) for use in uses)


def _traits(weights: dict[str, tuple[tuple[int, ...], list[_Use]]]) -> list[Traits]:
    convolutions = {name for name, (_, uses) in weights.items() if any("Conv" in use.operator for use in uses)}
    first = next((name for name, (shape, _) in weights.items() if name in convolutions and len(shape) == 4), None)

    def traits(name: str, shape: tuple[int, ...], uses: list[_Use]) -> Traits:
        """Return the traits of a weight by the operators that use it."""
        convolution = name in convolutions
        why = f"it has more than {MOST_DIMENSIONS} dimensions" if len(shape) > MOST_DIMENSIONS else ""
        layer = layer_name(name)
        return Traits(
            name=name if layer in weights and layer != name else layer, parameter=name, shape=shape, is_matrix=True,
            is_convolution=convolution,
            is_depthwise=convolution and shape[1] == 1 and max(use.groups for use in uses) > 1,
            is_first=name == first and shape[1] <= MOST_COLORS, why_incompressible=why,
        )  # fmt: skip

    return [traits(name, *each) for name, each in weights.items()]


def _is_quantized(node: Any) -> bool:
    return any(part in node.op_type.lower() for part in ("quantize", "qlinear", "integer"))


def tensor_of(tensor: Any) -> Tensor:
    """Return a tensor of ONNX as one of torch; float64 becomes float32, in which weights are decoded."""
    from onnx import numpy_helper

    if tensor.data_type == BFLOAT16:
        bits = numpy_helper.to_array(tensor).view("int16").copy()
        return torch.from_numpy(bits).view(torch.bfloat16)
    values = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    return values.float() if tensor.data_type == DOUBLE else values


def looked_up(graph: Any) -> dict[str, int]:
    """Return the number of rows of the table that each input of integers looks up, by its name."""
    stored = _stored(graph)
    inputs = {each.name: each.name for each in graph.input}
    rows: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _TRANSPARENT and node.input and node.input[0] in inputs:
            inputs[node.output[0]] = inputs[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in stored and node.input[1] in inputs:
            name, axis = inputs[node.input[1]], next((x.i for x in node.attribute if x.name == "axis"), 0)
            dims = stored[node.input[0]].dims
            if -len(dims) <= axis < len(dims):
                rows[name] = min(rows.get(name, dims[axis]), dims[axis])
    return rows

"""Correction of the biases of a compressed ONNX model, on given inputs.

The errors of a weight shift the mean of every channel of its output. The bias that is added to this output can take
the shift back: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv
1906.04721, section 4.2. With n values per channel, the bias changes by n / (n + 64) of the shift. A BatchNorm behind a
layer without a bias gets the statistics of its new input, by the formulas for models of torch
(`tenreo.correction.corrected_layers`).

Every correction changes the inputs of later layers, so all are measured and changed several times; as the layers have
an order, this converges. The moments are further outputs of both models, and the changes further inputs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenreo.codec.grid import exact_grid
from tenreo.exporting.onnx_names import all_nodes
from tenreo.exporting.onnx_runs import Arrays, Runner, error_of
from tenreo.exporting.onnx_weights import is_standard, origins

_ROUNDS = 12
_EPSILON = 1e-5  # of a BatchNorm
_CONFIDENT = 64  # values per channel from which on a shift is rather an error than noise
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_AXES_ARE_INPUTS = 18  # version of the operators from which on the axes of ReduceMean are an input


class Bias(NamedTuple):
    """A tensor of one number per channel that shifts the output of a compressed layer.

    Attributes:
        name: name of the tensor.
        output: name of the output.
        dimensions: number of dimensions of the output, whose second one is that of the channels; 0 if it is the last.
        variance: name of the variance of a BatchNorm, whose mean the tensor is; empty for others.
    """

    name: str
    output: str
    dimensions: int
    variance: str = ""


def find_biases(graph: Any, stored: Mapping[str, Any], compressed: Iterable[str]) -> list[Bias]:
    """Return the biases of compressed layers that nothing else uses.

    Args:
        graph: graph of the dense model.
        stored: its tensors of float32 by name.
        compressed: names of the compressed weights.
    """
    weights = set(compressed)
    users = {name: node for node in graph.node for name in node.input}
    counts = Counter(name for node in graph.node for name in node.input)
    counts.update(each.name for each in graph.output)
    found = []
    for node, inputs in origins(graph, stored):
        if not is_standard(node) or inputs.get(1) not in weights:
            continue
        output = node.output[0]
        following = users.get(output) if counts[output] == 1 else None
        dimensions = len(stored[inputs[1]].dims) if node.op_type in _CONVOLUTIONS else 0
        if node.op_type in (*_CONVOLUTIONS, "Gemm") and len(node.input) > 2 and node.input[2]:
            found.append(Bias(node.input[2], output, dimensions))
        elif node.op_type in _CONVOLUTIONS and following is not None and following.op_type == "BatchNormalization":
            found.append(Bias(following.input[3], output, dimensions, following.input[4]))
        elif node.op_type == "MatMul" and following is not None and following.op_type == "Add":
            bias = following.input[1 - list(following.input).index(output)]
            found.append(Bias(bias, following.output[0], 0))

    def is_own(name: str) -> bool:
        return counts[name] == 1 and name in stored and len(stored[name].dims) == 1 and stored[name].dims[0] > 1

    return [each for each in found if is_own(each.name) and (not each.variance or is_own(each.variance))]


class _Moments(NamedTuple):
    """Mean and variance of every channel of an output, float64, and the number of values of a channel."""

    mean: NDArray[Any]
    variance: NDArray[Any]
    values: float


class Correction(NamedTuple):
    """What changes a tensor: it is multiplied by `factor`, and then `change` is added."""

    factor: Tensor | float
    change: Tensor | float

    def of(self, tensor: Tensor, logarithmic: bool) -> Tensor:
        """Return a corrected tensor, rounded to the grid of the tensor, so that it needs no more bytes."""
        grid = exact_grid(tensor.float(), logarithmic)
        values = tensor.double() * self.factor + self.change
        return values.to(tensor.dtype) if grid is None else grid.values(grid.levels(values)).to(tensor.dtype)


def corrections(dense: Any, compressed: Any, biases: Sequence[Bias], inputs: Arrays) -> dict[str, Correction]:
    """Return the corrections by which the outputs come closest to those of the dense model; empty if none does.

    Args:
        dense: dense ONNX model.
        compressed: compressed ONNX model, whose biases are not corrected.
        biases: biases of compressed layers.
        inputs: inputs of both models.

    Raises:
        TenreoError: if a model cannot be run.
    """
    from onnx import numpy_helper

    stored = {each.name: each for each in dense.graph.initializer}
    values = {bias.name: numpy_helper.to_array(stored[bias.name]).astype(np.float64) for bias in biases}
    names = dict(zip(_unused_names(len(biases), dense, compressed), biases, strict=True))
    both = [Runner(_measured(model, names), "corrected model") for model in (dense, compressed)]
    state = {name: (np.ones_like(values[bias.name]), 0 * values[bias.name]) for name, bias in names.items()}
    results = [each.name for each in dense.graph.output]
    expected = both[0].run(inputs, _as_inputs(names, state))
    best, least = dict[str, Correction](), np.inf
    for trial in range(_ROUNDS):
        found = both[1].run(inputs, _as_inputs(names, state))
        error = error_of(*({name: each[name] for name in results if name in each} for each in (expected, found)))
        if not trial or error < least:
            least, best = error, _by_name(names, state) if trial else {}
        for name, bias in names.items():
            wanted, own = (_moments(outputs, name, len(values[bias.name])) for outputs in (expected, found))
            state[name] = _next(wanted, own, values[bias.name], state[name][1], bool(bias.variance))
    return best


def _next(
    wanted: _Moments, own: _Moments, value: NDArray[Any], change: NDArray[Any], is_statistic: bool
) -> tuple[NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Return the next factor of a variance and the next change of a bias, or of a mean, whose value is given."""
    confidence = own.values / (own.values + _CONFIDENT)
    if not is_statistic:
        return np.ones_like(value), np.nan_to_num((change + wanted.mean - own.mean) * confidence)
    ratio = np.nan_to_num(((own.variance + _EPSILON) / (wanted.variance + _EPSILON)) ** confidence, nan=1.0)
    root = np.sqrt(ratio)
    return ratio, np.nan_to_num(value * (root - 1) + confidence * (own.mean - wanted.mean * root))


def _as_inputs(names: Iterable[str], state: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Arrays:
    changes = {name: state[name][1].astype(np.float32) for name in names}
    return changes | {f"{name}.factor": state[name][0].astype(np.float32) for name in names}


def _by_name(
    names: Mapping[str, Bias], state: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
) -> dict[str, Correction]:  # fmt: skip
    found = {bias.name: Correction(1.0, torch.from_numpy(state[name][1])) for name, bias in names.items()}
    statistics = {name: bias.variance for name, bias in names.items() if bias.variance}
    return found | {each: Correction(torch.from_numpy(state[name][0]), 0.0) for name, each in statistics.items()}


def _unused_names(count: int, *models: Any) -> list[str]:
    """Return names of new inputs, which are also the beginnings of the names of other tensors."""
    used = {name for model in models for node in all_nodes(model.graph) for name in (*node.input, *node.output)}
    prefix = "change"
    while any(name.startswith(prefix) for name in used):
        prefix += "_"
    return [f"{prefix}{i}" for i in range(count)]


def _moments(outputs: Arrays, name: str, channels: int) -> _Moments:
    """Return the moments of the channels over all parts of a batch."""
    mean, square = (
        outputs[f"{name}.{each}"].reshape(-1, channels).astype(np.float64).mean(0) for each in ("mean", "square")
    )
    count = float(outputs[f"{name}.shape"].reshape(-1, 2)[:, 0].sum())
    return _Moments(mean, np.maximum(square - mean**2, 0), count)


def _measured(model: Any, names: Mapping[str, Bias]) -> bytes:
    """Return a copy of a model with inputs for the changes of biases, and outputs for the moments of the channels."""
    import onnx
    from onnx import TensorProto, helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    version = next(each.version for each in copy.opset_import if each.domain in ("", "ai.onnx"))
    added: dict[str, list[Any]] = {}  # by the first output of the node before which they are
    for name, bias in names.items():
        user = next(node for node in copy.graph.node if bias.name in node.input)
        before = added.setdefault(user.output[0], [])
        for operator, tensor, own in (("Add", bias.name, name), ("Mul", bias.variance, f"{name}.factor")):
            copy.graph.input.append(helper.make_tensor_value_info(own, TensorProto.FLOAT, [None]))
            if tensor:
                user.input[:] = [f"{own}.used" if each == tensor else each for each in user.input]
                before.append(helper.make_node(operator, [tensor, own], [f"{own}.used"]))
    nodes = [each for node in copy.graph.node for each in (*added.get("".join(node.output[:1]), []), node)]
    for name, bias in names.items():
        nodes += _moment_nodes(bias, name, version)
        for output, shape in (("mean", [None]), ("square", [None]), ("shape", [2])):
            copy.graph.output.append(helper.make_tensor_value_info(f"{name}.{output}", TensorProto.FLOAT, shape))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    content: bytes = copy.SerializeToString()
    return content


def _moment_nodes(bias: Bias, name: str, version: int) -> list[Any]:
    """Return nodes that compute the means of all channels and of their squares, and the shape of (values, channels)."""
    from onnx import TensorProto, helper

    source, nodes = bias.output, []
    if bias.dimensions:
        order = [0, *range(2, bias.dimensions), 1]
        nodes.append(helper.make_node("Transpose", [source], [f"{name}.turned"], perm=order))
        source = f"{name}.turned"
    options: dict[str, Any]
    axes, options = ([f"{name}.axes"], {}) if version >= _AXES_ARE_INPUTS else ([], {"axes": [0]})
    if axes:
        nodes.append(helper.make_node("Constant", [], axes, value_ints=[0]))
    return [
        *nodes,
        helper.make_node("Shape", [name], [f"{name}.size"]),
        helper.make_node("Constant", [], [f"{name}.all"], value_ints=[-1]),
        helper.make_node("Concat", [f"{name}.all", f"{name}.size"], [f"{name}.rows_shape"], axis=0),
        helper.make_node("Reshape", [source, f"{name}.rows_shape"], [f"{name}.rows"]),
        helper.make_node("Mul", [f"{name}.rows", f"{name}.rows"], [f"{name}.squares"]),
        helper.make_node("ReduceMean", [f"{name}.rows", *axes], [f"{name}.mean"], keepdims=0, **options),
        helper.make_node("ReduceMean", [f"{name}.squares", *axes], [f"{name}.square"], keepdims=0, **options),
        helper.make_node("Shape", [f"{name}.rows"], [f"{name}.rows_size"]),
        helper.make_node("Cast", [f"{name}.rows_size"], [f"{name}.shape"], to=TensorProto.FLOAT),
    ]

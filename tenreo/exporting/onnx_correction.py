"""Correction of the biases of a compressed ONNX model, on given inputs.

The errors of a weight shift the mean of every channel of its output. The bias that is added to this output, or the mean
that a BatchNorm subtracts from it, can take the shift back: M. Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", arXiv 1906.04721, section 4.2. With n values per channel, the bias changes by
n / (n + 64) of the shift, as for models of torch (`tenreo.correction`).

Every correction shifts the inputs of later layers, so all are measured and changed several times; as the layers have an
order, this converges. The means are further outputs of both models, and the changes further inputs.
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

_ROUNDS = 6
_CONFIDENT = 64  # values per channel from which on a shift is rather an error than noise
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_AXES_ARE_INPUTS = 18  # version of the operators from which on the axes of ReduceMean are an input


class Bias(NamedTuple):
    """A tensor of one number per channel that shifts the output of a compressed layer.

    Attributes:
        name: name of the tensor.
        output: name of the output.
        dimensions: number of dimensions of the output, whose second one is that of the channels; 0 if it is the last.
        sign: -1 if the tensor is subtracted.
    """

    name: str
    output: str
    dimensions: int
    sign: int


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
            found.append(Bias(node.input[2], output, dimensions, 1))
        elif node.op_type in _CONVOLUTIONS and following is not None and following.op_type == "BatchNormalization":
            found.append(Bias(following.input[3], output, dimensions, -1))
        elif node.op_type == "MatMul" and following is not None and following.op_type == "Add":
            bias = following.input[1 - list(following.input).index(output)]
            found.append(Bias(bias, following.output[0], 0, 1))
    return [each for each in found if counts[each.name] == 1 and _is_vector(stored.get(each.name))]


def _is_vector(tensor: Any) -> bool:
    return tensor is not None and len(tensor.dims) == 1 and tensor.dims[0] > 1


def corrections(dense: Any, compressed: Any, biases: Sequence[Bias], inputs: Arrays) -> dict[str, Tensor]:
    """Return what to add to each bias so that the outputs come closest to those of the dense model; empty if none does.

    Args:
        dense: dense ONNX model.
        compressed: compressed ONNX model, whose biases are not corrected.
        biases: biases of compressed layers.
        inputs: inputs of both models.

    Raises:
        TenreoError: if a model cannot be run.
    """
    names = _unused_names(len(biases), dense, compressed)
    both = [Runner(_measured(model, biases, names), "corrected model") for model in (dense, compressed)]
    sizes = _sizes(dense, biases)
    changes: Arrays = {name: np.zeros(size, np.float32) for name, size in zip(names, sizes, strict=True)}
    results = [each.name for each in dense.graph.output]
    expected = both[0].run(inputs, changes)
    best, least = dict[str, Tensor](), np.inf
    for trial in range(_ROUNDS):
        found = both[1].run(inputs, changes)
        error = error_of(*({name: each[name] for name in results if name in each} for each in (expected, found)))
        if not trial or error < least:
            least = error
            pairs = zip(biases, names, strict=True)
            best = {bias.name: torch.from_numpy(changes[name]) * bias.sign for bias, name in pairs} if trial else {}
        for name, size in zip(names, sizes, strict=True):
            (wanted, count), (mean, _) = (_mean(outputs, name, size) for outputs in (expected, found))
            changed = (changes[name] + wanted - mean) * count / (count + _CONFIDENT)
            changes[name] = np.nan_to_num(changed).astype(np.float32)
    return best


def _unused_names(count: int, *models: Any) -> list[str]:
    """Return names of new inputs, which are also the beginnings of the names of other tensors."""
    used = {name for model in models for node in all_nodes(model.graph) for name in (*node.input, *node.output)}
    prefix = "change"
    while any(name.startswith(prefix) for name in used):
        prefix += "_"
    return [f"{prefix}{i}" for i in range(count)]


def _sizes(model: Any, biases: Sequence[Bias]) -> list[int]:
    stored = {each.name: each for each in model.graph.initializer}
    return [int(stored[each.name].dims[0]) for each in biases]


def _mean(outputs: Arrays, name: str, size: int) -> tuple[NDArray[Any], float]:
    """Return the mean of every channel over all parts of a batch, and the number of values of a channel."""
    means = outputs[f"{name}.mean"].reshape(-1, size).astype(np.float64)
    return means.mean(0), float(outputs[f"{name}.shape"].reshape(-1, 2)[:, 0].sum())


def _measured(model: Any, biases: Sequence[Bias], names: Sequence[str]) -> bytes:
    """Return a copy of a model with an input for the change of each bias, and outputs for the means of its channels."""
    import onnx
    from onnx import TensorProto, helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    version = next(each.version for each in copy.opset_import if each.domain in ("", "ai.onnx"))
    added: dict[str, list[Any]] = {}  # by the output of the node before which or behind which they are
    for bias, name in zip(biases, names, strict=True):
        user = next(node for node in copy.graph.node if bias.name in node.input)
        user.input[:] = [f"{name}.sum" if each == bias.name else each for each in user.input]
        combine = "Add" if bias.sign > 0 else "Sub"
        added.setdefault(user.output[0], []).append(helper.make_node(combine, [bias.name, name], [f"{name}.sum"]))
        copy.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]))
    nodes = []
    for node in copy.graph.node:
        nodes += [*added.get(node.output[0] if node.output else "", []), node]
    for bias, name in zip(biases, names, strict=True):
        nodes += _means(bias, name, version)
        for output, shape in (("mean", [None]), ("shape", [2])):
            copy.graph.output.append(helper.make_tensor_value_info(f"{name}.{output}", TensorProto.FLOAT, shape))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    content: bytes = copy.SerializeToString()
    return content


def _means(bias: Bias, name: str, version: int) -> list[Any]:
    """Return nodes that compute the mean of every channel of an output, and the shape of (values, channels).

    A BatchNorm measures its input, from which the change is not yet subtracted, so the change is added here.
    """
    from onnx import TensorProto, helper

    source, nodes = bias.output, []
    if bias.dimensions:
        order = [0, *range(2, bias.dimensions), 1]
        nodes.append(helper.make_node("Transpose", [source], [f"{name}.turned"], perm=order))
        source = f"{name}.turned"
    if version >= _AXES_ARE_INPUTS:
        axes = helper.make_node("Constant", [], [f"{name}.axes"], value_ints=[0])
        mean = helper.make_node("ReduceMean", [f"{name}.rows", f"{name}.axes"], [f"{name}.own_mean"], keepdims=0)
        nodes.append(axes)
    else:
        mean = helper.make_node("ReduceMean", [f"{name}.rows"], [f"{name}.own_mean"], axes=[0], keepdims=0)
    return [
        *nodes,
        helper.make_node("Shape", [name], [f"{name}.size"]),
        helper.make_node("Constant", [], [f"{name}.all"], value_ints=[-1]),
        helper.make_node("Concat", [f"{name}.all", f"{name}.size"], [f"{name}.rows_shape"], axis=0),
        helper.make_node("Reshape", [source, f"{name}.rows_shape"], [f"{name}.rows"]),
        mean,
        helper.make_node("Add" if bias.sign < 0 else "Identity",
                         [f"{name}.own_mean", *([name] if bias.sign < 0 else [])], [f"{name}.mean"]),
        helper.make_node("Shape", [f"{name}.rows"], [f"{name}.rows_size"]),
        helper.make_node("Cast", [f"{name}.rows_size"], [f"{name}.shape"], to=TensorProto.FLOAT),
    ]  # fmt: skip


def corrected(bias: Tensor, change: Tensor) -> Tensor:
    """Return a bias plus its change, rounded to the grid of the bias, so that it needs no more bytes."""
    grid = exact_grid(bias.float())
    values = bias.double() + change.double()
    return values.to(bias.dtype) if grid is None else grid.values(grid.levels(values)).to(bias.dtype)

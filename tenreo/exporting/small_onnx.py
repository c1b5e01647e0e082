"""ONNX models whose weights stay compressed: the runtime decodes them when it loads the model.

The optimizer of ONNX gets the weights as inputs, so that it neither folds nor merges them. Then the nodes of
`tenreo.exporting.small_graph` take the place of these inputs. The weights are those that `tenreo.load` decodes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tenreo.compression.parametrization import Curve
from tenreo.exporting.graph_nodes import BFLOAT16, FLOAT, FLOAT16
from tenreo.exporting.onnx_names import all_nodes
from tenreo.exporting.small_graph import SmallGraph


def small_model(model: Any, curves: Iterable[Curve], state: Mapping[str, Tensor]) -> list[str]:
    """Replace the initializers of an ONNX model, in place, by nodes that decode them.

    Args:
        model: ONNX model with dense weights that is not optimized; `state` has the names of its initializers.
        curves: compressed weights of the model.
        state: dense tensors by name.

    Returns:
        The names of the weights that stay dense, because a runtime could not decode them.
    """
    stored = {each.name: each for each in model.graph.initializer}
    floats = {name for name, each in stored.items() if each.data_type in (FLOAT, FLOAT16, BFLOAT16) and name in state}
    graph, dense = SmallGraph({name: stored[name].data_type for name in floats}), []
    _optimize_(model, floats)
    used = {name for node in all_nodes(model.graph) for name in node.input}
    compressed = {curve.parameter: curve for curve in curves}
    for name in sorted(floats & used):
        curve = compressed.get(name)
        if curve is not None and graph.add_weight(name, curve.encoded, curve.weight.curve.precision):
            continue
        if curve is not None:
            dense.append(name)
        graph.add_dense(name, state[name].detach().cpu())
    graph.finish_(model)
    return dense


def _optimize_(model: Any, hidden: set[str]) -> None:
    """Optimize a model in place, without looking at some of its initializers, which are then missing."""
    from onnx import helper
    from onnxscript import optimizer, rewriter

    kept = [each for each in model.graph.initializer if each.name not in hidden]
    as_inputs = [
        helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        for each in model.graph.initializer
        if each.name in hidden
    ]
    inputs = [each for each in model.graph.input if each.name not in hidden]
    _replace(model.graph.initializer, kept)
    _replace(model.graph.input, [*inputs, *as_inputs])
    for _ in range(2):
        model.CopyFrom(rewriter.rewrite(optimizer.optimize(model)))
    _replace(model.graph.input, [each for each in model.graph.input if each.name not in hidden])
    _replace(model.graph.value_info, [])
    for node in all_nodes(model.graph):
        _replace(node.metadata_props, [])
        node.doc_string = ""


def _replace(field: Any, values: Sequence[Any]) -> None:
    values = list(values)
    del field[:]
    field.extend(values)

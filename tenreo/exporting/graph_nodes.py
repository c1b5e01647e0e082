"""Nodes, tensors and functions that are added to an ONNX model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenreo.exporting.decoder_functions import function_protos
from tenreo.exporting.onnx_names import all_nodes
from tenreo.exporting.stream_functions import DOMAIN

FLOAT, FLOAT16, DOUBLE, BFLOAT16 = 1, 10, 11, 16  # ONNX's numbers of the types


class GraphNodes:
    """Nodes, tensors and functions that decode the weights of a model.

    Attributes:
        tensors: NumPy arrays and torch tensors by name, which become initializers.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}
        self._nodes: list[Any] = []
        self._called: dict[str, str] = {}  # functions by name, with the text of those of streams

    def add(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> None:
        """Add a node, whose name is that of its first output."""
        from onnx import helper

        self._nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, name=outputs[0], **attributes))

    def call(self, function: str, inputs: Sequence[str], outputs: Sequence[str], text: str = "") -> None:
        """Add a node that calls a function of `tenreo.exporting.decoder_functions`, or one with a text of its own."""
        self._called[function] = text
        self.add(function, inputs, outputs, domain=DOMAIN)

    def use_first(self, nodes: "GraphNodes", names: Mapping[str, str]) -> None:
        """Put the nodes that decode streams before all others, which use their results, and add their tensors.

        Args:
            nodes: the nodes that decode streams.
            names: names of the results by the names that the other nodes use.
        """
        for node in self._nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
        self._nodes = [*nodes._nodes, *self._nodes]
        self._called |= nodes._called
        self.tensors |= nodes.tensors

    def insert_into_(self, model: Any) -> None:
        """Add everything to a model in place; names that are new get another ending if the model has used them."""
        from onnx import helper, numpy_helper

        graph = model.graph
        made = {name for node in graph.node for name in node.output}
        made |= {each.name for field in (graph.input, graph.initializer) for each in field}
        used = made | {name for node in all_nodes(graph) for name in (*node.input, *node.output)}
        new = {*self.tensors, *(name for node in self._nodes for name in node.output)} - (used - made)
        names = {name: _unused(name, used | new) for name in sorted(new & used)}
        for node in self._nodes:
            node.name = names.get(node.name, node.name)
            for field in (node.input, node.output):
                field[:] = [names.get(name, name) for name in field]
        nodes = [*self._nodes, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        for name, tensor in self.tensors.items():
            make = numpy_helper.from_array if isinstance(tensor, np.ndarray) else _torch_tensor
            graph.initializer.append(make(tensor, names.get(name, name)))
        opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
        model.functions.extend(function_protos(self._called, opset))
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _unused(name: str, used: set[str]) -> str:
    while name in used:
        name += "_"
    return name


def _torch_tensor(tensor: Tensor, name: str) -> Any:
    """Return a torch tensor as one of ONNX."""
    from onnx import TensorProto, numpy_helper

    if tensor.dtype != torch.bfloat16:
        return numpy_helper.from_array(tensor.detach().cpu().numpy(), name)
    content = tensor.detach().cpu().contiguous().view(torch.int16).numpy().tobytes()
    return TensorProto(name=name, data_type=BFLOAT16, dims=tensor.shape, raw_data=content)

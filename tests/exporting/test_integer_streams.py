"""Streams of integers, decoded by ONNX Runtime and by ONNX's reference evaluator."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tenreo.exporting.decoder_functions import OPSET
from tenreo.exporting.graph_nodes import GraphNodes
from tenreo.exporting.integer_streams import IntegerStreams, Numbers

DRAW = np.random.default_rng(0)
PARTS = {
    "one part": [DRAW.integers(0, 4, 5000)],
    "several parts": [np.round(DRAW.laplace(size=9000) * 2).astype(np.int64)],
    "raw bits": [np.round(DRAW.laplace(size=9000) * 900).astype(np.int64)],
    "more than 256 codes": [DRAW.integers(0, 1 << 20, 700)[(700 * DRAW.random(30000) ** 4).astype(int)]],
    "fixed width": [np.array([7, -(1 << 22), 1 << 22])],
    "several tensors": [
        np.round(DRAW.laplace(size=size) * scale).astype(np.int64) for size in (900, 7) for scale in (1, 3)
    ],
    "one number": [np.array([5])],
    "equal numbers": [np.full(300, -3)],
}


def decoder(parts):
    """Return a model whose outputs are the integers."""
    nodes, streams = GraphNodes(), IntegerStreams()
    for i, part in enumerate(parts):
        assert not streams.add(Numbers(f"range_{i}", part), "integers")
        nodes.add("Split", [f"range_{i}"], [f"start_{i}", f"end_{i}"], axis=0)
    streams.add_to_(nodes)
    graph = helper.make_graph([], "decoder", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    nodes.insert_into_(model)
    functions = {node.op_type for node in model.graph.node if node.domain}
    made = [node.output[0] for node in model.graph.node if node.domain]
    for name in made:
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT32, [None]))
    return model, functions, made


@pytest.mark.parametrize("name", PARTS)
def test_streams_are_decoded(name):
    model, functions, made = decoder(PARTS[name])
    onnx.checker.check_model(model, full_check=True)
    ranges = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer if "range" in each.name}
    for run in (onnxruntime.InferenceSession(model.SerializeToString()).run, ReferenceEvaluator(model).run):
        streams = run(None, {})
        parts = [slice(*ranges[f"range_{i}"]) for i in range(len(PARTS[name]))]
        for part, expected in zip(parts, PARTS[name], strict=True):
            assert any(np.array_equal(stream[part], expected) for stream in streams)
    assert ("Wide" in "".join(functions)) == (name == "more than 256 codes") and len(made) == len(functions) == 1

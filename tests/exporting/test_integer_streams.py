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
    """Return a model whose outputs are the integers, and its functions."""
    nodes, streams = GraphNodes(), IntegerStreams()
    for i, part in enumerate(parts):
        assert not streams.add(Numbers(f"numbers_{i}", part), "integers")
    streams.add_to_(nodes)
    graph = helper.make_graph([], "decoder", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    nodes.insert_into_(model)
    for i in range(len(parts)):
        model.graph.output.append(helper.make_tensor_value_info(f"numbers_{i}", onnx.TensorProto.INT32, [None]))
    return model, {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("name", PARTS)
def test_streams_are_decoded(name):
    model, functions = decoder(PARTS[name])
    onnx.checker.check_model(model, full_check=True)
    for run in (onnxruntime.InferenceSession(model.SerializeToString()).run, ReferenceEvaluator(model).run):
        for found, expected in zip(run(None, {}), PARTS[name], strict=True):
            assert np.array_equal(found, expected)
    streams = [each for each in functions if each.startswith("Stream")]
    assert len(streams) < 2 and ("Wide" in "".join(streams)) == (name == "more than 256 codes")

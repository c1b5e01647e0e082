"""Streams of integers, decoded by ONNX Runtime and by ONNX's reference evaluator."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tenreo.codec.trellis import following, path_bits
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


def model_of(streams, outputs):
    """Return a model whose outputs are those of streams."""
    nodes = GraphNodes()
    streams.add_to_(nodes)
    graph = helper.make_graph([], "decoder", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    nodes.insert_into_(model)
    model.graph.output.extend(helper.make_tensor_value_info(name, kind, [None]) for name, kind in outputs.items())
    onnx.checker.check_model(model, full_check=True)
    return model, [node.op_type for node in model.graph.node if node.op_type.startswith("Stream")]


def decoder(parts):
    """Return a model whose outputs are the integers, and its streams."""
    streams = IntegerStreams()
    for i, part in enumerate(parts):
        assert not streams.add(Numbers(f"numbers_{i}", part), "integers")
    return model_of(streams, {f"numbers_{i}": onnx.TensorProto.INT32 for i in range(len(parts))})


def path(memory, count, scale):
    """Return random positions on a path through a trellis."""
    machine, state, positions = following(memory), 0, []
    symbols = np.round(DRAW.laplace(size=count) * scale).astype(np.int64)
    for symbol, bit in zip(symbols, DRAW.integers(0, 2, count), strict=True):
        positions.append(symbol << 2 | bit << 1 | state & 1)
        state = machine[state, bit]
    return np.array(positions)


@pytest.mark.parametrize(("size", "scale"), [("", 2), ("Long", 9), ("Wide", 60)])
def test_paths_through_a_trellis_are_decoded(size, scale):
    paths, streams = [path(7, count, scale) for count in (4000, 9)], IntegerStreams()
    for i, positions in enumerate(paths):
        assert streams.add(Numbers(f"places_{i}", positions, path_bits(positions, 7), 0.0, f"steps_{i}"), "path", 7)
    kind = onnx.TensorProto.INT32 if size else onnx.TensorProto.UINT8
    outputs = {f"places_{i}": kind for i in range(2)} | {"stream_0.values": onnx.TensorProto.INT32}
    model, names = model_of(streams, outputs)
    assert len(names) == 1 and names[0].endswith(f"Trellis{size}")
    for run in (onnxruntime.InferenceSession(model.SerializeToString()).run, ReferenceEvaluator(model).run):
        *places, values = run(None, {})
        for found, expected in zip(places, paths, strict=True):
            assert np.array_equal(values[found], expected)


@pytest.mark.parametrize("name", PARTS)
def test_streams_are_decoded(name):
    model, streams = decoder(PARTS[name])
    for run in (onnxruntime.InferenceSession(model.SerializeToString()).run, ReferenceEvaluator(model).run):
        for found, expected in zip(run(None, {}), PARTS[name], strict=True):
            assert np.array_equal(found, expected)
    assert len(streams) < 2 and ("Wide" in "".join(streams)) == (name == "more than 256 codes")

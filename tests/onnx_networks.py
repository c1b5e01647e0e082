"""Small ONNX models, made by hand."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import tenreo

BITS = tenreo.Recipe(None, tenreo.TargetBits(6))


def normal(*shape, dtype=np.float32):
    """Weights like those of trained layers."""
    return (np.random.default_rng(sum(shape)).laplace(size=shape) / np.sqrt(shape[-1])).astype(dtype)


def model_of(nodes, inputs, outputs, tensors, opset=18, ir_version=10, kind=TensorProto.FLOAT):
    """Make a model; inputs and outputs are names with shapes, and tensors are arrays by name."""
    values = [
        [
            each if not isinstance(each, tuple) else helper.make_tensor_value_info(each[0], kind, each[1])
            for each in side
        ]
        for side in (inputs, outputs)
    ]
    stored = [numpy_helper.from_array(each, name) for name, each in tensors.items()]
    graph = helper.make_graph(nodes, "graph", *values, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def mlp(opset=18, ir_version=10, dtype=np.float32, kind=TensorProto.FLOAT):
    """Two layers, the second of them a Gemm."""
    tensors = {"first": normal(64, 200, dtype=dtype), "second": normal(150, 200, dtype=dtype),
               "bias": normal(150, dtype=dtype)}  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"]), helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "second", "bias"], ["logits"], transB=1),
    ]  # fmt: skip
    return model_of(nodes, [("x", ["batch", 64])], [("logits", ["batch", 150])], tensors, opset, ir_version, kind)

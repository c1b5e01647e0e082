"""Compression of ONNX models: graphs of many operators and versions, and their outputs in ONNX Runtime."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_networks import BITS, mlp, model_of, normal
from processes import here

import tenreo

RNG = np.random.default_rng(0)


def convolutions():
    """Convolutions of every kind, with the BatchNorm of a network of torch."""
    tensors = {
        "stem.weight": normal(32, 3, 3, 3), "stem.bias": normal(32), "depthwise.weight": normal(32, 1, 3, 3),
        "mix.weight": normal(128, 32, 3, 3), "bn.weight": normal(128) + 1, "bn.bias": normal(128),
        "bn.running_mean": normal(128), "bn.running_var": np.square(normal(128)) + 0.1,
        "up.weight": normal(128, 32, 2, 2),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["images", "stem.weight", "stem.bias"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["a", "depthwise.weight"], ["b"], group=32, pads=[1] * 4),
        helper.make_node("Conv", ["b", "mix.weight"], ["c"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", *(f"bn.{each}" for each in (
            "weight", "bias", "running_mean", "running_var"))], ["d"]),
        helper.make_node("ConvTranspose", ["d", "up.weight"], ["pictures"], strides=[2, 2]),
    ]  # fmt: skip
    shapes = [["batch", each, "height", "width"] for each in (3, 32)]
    return model_of(nodes, [("images", shapes[0])], [("pictures", shapes[1])], tensors)


def recurrent():
    """An embedding, an LSTM and a GRU."""
    tensors = {
        "words": normal(500, 32), "w": normal(1, 256, 32), "r": normal(1, 256, 64), "b": normal(1, 512),
        "gru_w": normal(1, 192, 64), "gru_r": normal(1, 192, 64), "axes": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["embedded"]),
        helper.make_node("LSTM", ["embedded", "w", "r", "b"], ["states"], hidden_size=64),
        helper.make_node("Squeeze", ["states", "axes"], ["sequence"]),
        helper.make_node("GRU", ["sequence", "gru_w", "gru_r"], ["", "last"], hidden_size=64),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["length", "batch"])
    return model_of(nodes, [ids], [("last", [1, "batch", 64])], tensors)


def hidden_weights():
    """Weights in a Constant node, behind a Transpose and an Identity, shared, and in the body of an If."""
    shared, inner = normal(150, 150), normal(150, 150)
    branch = [
        helper.make_graph([helper.make_node("MatMul", ["kept", "inner"], [name])], name,
                          [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
                          [numpy_helper.from_array(inner, "inner")]) for name in ("then", "else")
    ]  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], ["fixed"], value=numpy_helper.from_array(normal(150, 150), "fixed")),
        helper.make_node("Transpose", ["shared"], ["turned"], perm=[1, 0]),
        helper.make_node("Identity", ["shared"], ["same"]),
        helper.make_node("MatMul", ["x", "fixed"], ["a"]), helper.make_node("MatMul", ["a", "turned"], ["b"]),
        helper.make_node("MatMul", ["b", "same"], ["c"]), helper.make_node("Mul", ["c", "table"], ["kept"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]  # fmt: skip
    tensors = {"shared": shared, "table": normal(150), "yes": np.array(True)}
    return model_of(nodes, [("x", ["batch", 150])], [("y", ["batch", 150])], tensors)


MODELS = {"mlp": mlp, "convolutions": convolutions, "recurrent": recurrent, "hidden weights": hidden_weights}
COMPRESSED = {
    "mlp": {"first", "second"}, "convolutions": {"mix", "up"}, "recurrent": {"words", "w", "r", "gru_w", "gru_r"},
    "hidden weights": {"fixed", "shared"},
}  # fmt: skip


def compressed(model, folder, recipe=BITS, **options):
    """Compress a model; return what is written and the compressed model, which is checked."""
    onnx.save(model, folder / "dense.onnx")
    done = tenreo.compress_onnx(folder / "dense.onnx", folder / "small.onnx", recipe, **options)
    small = onnx.load(done.path)
    onnx.checker.check_model(small, full_check=True)
    assert done.bytes == done.path.stat().st_size
    return done, small


def signature(model):
    graph = model.graph
    own = [node for node in graph.node if node.domain != "tenreo"]
    return [(each.name, str(each.type)) for each in (*graph.input, *graph.output)], [
        (node.op_type, list(node.input), list(node.output)) for node in own if node.op_type in (
            "Conv", "MatMul", "Gemm", "LSTM", "GRU", "Gather", "If", "Transpose", "ConvTranspose", "Mul")
    ]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_every_operator_are_compressed_and_the_graph_stays(name, tmp_path):
    model = MODELS[name]()
    done, small = compressed(model, tmp_path)
    assert set(done.written.layers) == COMPRESSED[name]
    assert signature(small) == signature(model) and small.opset_import[0].version == 18
    assert done.bytes < 0.75 * done.bytes_before and done.compared_on == "random inputs"
    assert [each.name for each in done.outputs] == [each.name for each in model.graph.output]
    assert all(0 < each.relative < 0.17 for each in done.outputs)


def test_the_stated_differences_are_those_of_the_models(tmp_path):
    x = RNG.standard_normal((7, 64)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    done, _ = compressed(mlp(), tmp_path, inputs=tmp_path / "x.npz")
    sessions = [onnxruntime.InferenceSession(tmp_path / f"{name}.onnx") for name in ("dense", "small")]
    a, b = (each.run(None, {"x": x})[0].astype(float) for each in sessions)
    p, q = (np.exp(each) / np.exp(each).sum(1, keepdims=True) for each in (a, b))
    (found,) = done.outputs
    assert done.compared_on == str(tmp_path / "x.npz") and found.shape == (7, 150)
    assert found.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-6)
    assert found.agreement == pytest.approx(100 * (a.argmax(1) == b.argmax(1)).mean())


@pytest.mark.parametrize("opset", [9, 21, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (11, 13, 14, 17))])
def test_older_and_newer_versions_of_the_operators(opset, tmp_path):
    model = mlp(opset, ir_version=3 if opset < 11 else 8)
    if opset < 11:
        kinds = [(x.name, x.data_type, x.dims) for x in model.graph.initializer]
        model.graph.input.extend(helper.make_tensor_value_info(*each) for each in kinds)
    done, small = compressed(model, tmp_path)
    assert [each.name for each in onnxruntime.InferenceSession(done.path).get_inputs()] == ["x"]
    assert next(each.version for each in small.opset_import if each.domain == "") == max(opset, 14)
    assert done.outputs[0].relative < 0.17


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_number_formats_stay(dtype, tmp_path):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    done, _ = compressed(mlp(dtype=dtype, kind=kind), tmp_path)
    assert done.outputs[0].relative < 0.17 and done.bytes < done.bytes_before
    (found,) = onnxruntime.InferenceSession(done.path).run(None, {"x": np.ones((1, 64), dtype)})
    assert found.dtype == dtype


def test_weights_in_bfloat16_are_compressed_but_not_run(tmp_path):
    notes = []
    dense = mlp(opset=22, kind=TensorProto.BFLOAT16)
    for each in dense.graph.initializer:
        content = (numpy_helper.to_array(each).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        each.CopyFrom(TensorProto(name=each.name, dims=each.dims, data_type=TensorProto.BFLOAT16, raw_data=content))
    onnx.save(dense, tmp_path / "dense.onnx")
    done = tenreo.compress_onnx(tmp_path / "dense.onnx", tmp_path / "small.onnx", BITS, note=notes.append)
    onnx.checker.check_model(onnx.load(done.path), full_check=True)
    assert done.outputs == () and "not compared" in notes[0]


@pytest.mark.parametrize("size", ["4x", *(pytest.param(size, marks=pytest.mark.slow) for size in ("33kB", "25%"))])
def test_the_size_is_that_of_the_onnx_file(size, tmp_path):
    onnx.save(mlp(), tmp_path / "dense.onnx")
    limit = {"33kB": 33_000}.get(size, (tmp_path / "dense.onnx").stat().st_size // 4)
    done = here("compress", tmp_path / "dense.onnx", "--target-size", size, "-o", tmp_path / "small.onnx", "--json")
    result = json.loads(done.stdout)
    assert 0.97 * limit < result["bytes"] <= limit and result["bytes"] == (tmp_path / "small.onnx").stat().st_size
    assert [each["name"] for each in result["layers"]] == ["first", "second"]
    assert result["outputs"][0]["name"] == "logits" and result["compared_on"] == "random inputs"


def test_a_model_that_grows_is_noted(tmp_path):
    tensors, notes = {"weight": normal(64, 80, dtype=np.float16)}, []
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    model = model_of(nodes, [("x", [2, 64])], [("y", [2, 80])], tensors, kind=TensorProto.FLOAT16)
    recipe = tenreo.Recipe(4, tenreo.Uniform(1.5), refine=0)
    done, _ = compressed(model, tmp_path, recipe, note=notes.append)
    assert done.bytes > done.bytes_before
    assert f"not smaller than the dense one: {done.bytes:,} instead of {done.bytes_before:,} bytes" in notes[-1]


def test_patterns_of_names_and_curves(tmp_path):
    recipe = tenreo.Recipe(4, tenreo.Uniform(2.0), refine=1, exclude=("first",), pack="plain")
    done, _ = compressed(mlp(), tmp_path, recipe)
    assert set(done.written.layers) == {"second"} and done.outputs[0].relative < 0.7


def test_unknown_operators_are_left_alone(tmp_path):
    model, notes = mlp(), []
    model.graph.node.append(helper.make_node("Own", ["logits", "own"], ["y"], domain="somebody"))
    model.opset_import.append(helper.make_opsetid("somebody", 1))
    model.graph.initializer.append(numpy_helper.from_array(normal(80, 90), "own"))
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"]))
    done, small = compressed(model, tmp_path, note=notes.append)
    stored = {each.name: each for each in small.graph.initializer}
    assert stored["own"] == model.graph.initializer[-1] and not {"first", "second"} & stored.keys()
    assert done.outputs == () and "outputs are not compared" in notes[0] and "Own" in notes[0]


def test_names_that_the_decoder_would_use_are_free(tmp_path):
    model = mlp()
    model.graph.node[1].output[0] = model.graph.node[2].input[0] = "stream_0"
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "first.range"
    assert compressed(model, tmp_path)[0].outputs[0].relative < 0.17


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "model.onnx")
    assert "second" in here("compress", "model.onnx", "--bits", "5", "--dry-run").stdout
    done = here("compress", "model.onnx", "--target-size", "40%", "-o", "small.onnx", columns=80)
    assert "Outputs on random inputs" in done.stdout and "wrote small.onnx" in done.stdout
    assert "exists already" in here("compress", "model.onnx", "--bits", "5", "-o", "small.onnx", code=2).stderr

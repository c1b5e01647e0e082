"""Correction of the biases of compressed ONNX models, with NumPy as the oracle."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx_networks import mlp, model_of, normal

import tenreo

RNG = np.random.default_rng(0)
COARSE = tenreo.Recipe(4, tenreo.Uniform(4.0), refine=1)


def compress(model, folder, inputs=None, **options):
    """Compress a model on inputs; return what is written and all notes."""
    notes = []
    onnx.save(model, folder / "dense.onnx")
    if inputs is not None:
        np.savez(folder / "x.npz", **inputs)
        options["inputs"] = folder / "x.npz"
    options.setdefault("note", notes.append)
    return tenreo.compress_onnx(folder / "dense.onnx", folder / "small.onnx", COARSE, **options), notes


def outputs(path, inputs, names):
    """Return values inside of a graph, by name, in float64."""
    model = onnx.load(path)
    known = {each.name for each in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return dict(zip(names, (each.astype(float) for each in session.run(list(names), inputs)), strict=True))


def one_layer():
    """A layer whose inputs have means."""
    tensors = {"weight": normal(64, 100), "bias": normal(100)}
    nodes = [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])]
    return model_of(nodes, [("x", ["batch", 64])], [("y", ["batch", 100])], tensors)


def test_the_mean_of_a_layer_moves_by_its_share_of_the_shift(tmp_path):
    x = {"x": RNG.standard_normal((192, 64)).astype(np.float32) + 2}
    found = {}
    for corrected in (False, True):
        compress(one_layer(), tmp_path, x, match_statistics=corrected)
        found[corrected] = outputs(tmp_path / "small.onnx", x, ["y"])["y"]
    dense = outputs(tmp_path / "dense.onnx", x, ["y"])["y"]
    shift = (dense - found[False]).mean(0)
    change = (found[True] - found[False]).mean(0)
    np.testing.assert_allclose(change, shift * 192 / (192 + 64), atol=np.abs(normal(100)).max() / 200)
    assert np.abs(shift).mean() > 10 * np.abs(change - shift * 0.75).mean()


def network(opset):
    """A convolution with a bias, one with a BatchNorm, and a MatMul with an Add."""
    tensors = {
        "first.weight": normal(48, 16, 3, 3), "first.bias": normal(48), "second.weight": normal(64, 48, 3, 3),
        "scale": normal(64) + 1, "shift": normal(64), "mean": normal(64), "variance": np.square(normal(64)) + 0.1,
        "last": normal(64, 120), "last.bias": normal(120), "axes": np.array([2, 3]),
    }  # fmt: skip
    pool = {"axes": [2, 3]} if opset < 18 else {}
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second.weight"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("ReduceMean", ["e", *(["axes"] if opset >= 18 else [])], ["f"], keepdims=0, **pool),
        helper.make_node("MatMul", ["f", "last"], ["g"]), helper.make_node("Add", ["last.bias", "g"], ["logits"]),
    ]  # fmt: skip
    return model_of(nodes, [("x", [16, 16, 9, 9])], [("logits", [16, 120])], tensors, opset)


@pytest.mark.parametrize("opset", [pytest.param(14, marks=pytest.mark.slow), 18])
def test_outputs_come_closer_on_other_inputs_too(opset, tmp_path):
    x, other = ({"x": RNG.random((count, 16, 9, 9)).astype(np.float32)} for count in (64, 16))
    made, errors = [], []
    for match_statistics in (False, True):
        done, notes = compress(network(opset), tmp_path, x, match_statistics=match_statistics)
        dense, own = (outputs(tmp_path / f"{name}.onnx", other, ["logits"])["logits"] for name in ("dense", "small"))
        errors.append(np.linalg.norm(own - dense) / np.linalg.norm(dense))
        made.append((done, {each.name: numpy_helper.to_array(each) for each in onnx.load(done.path).graph.initializer}))
    (plain, tensors), (corrected, after) = made
    assert errors[1] < 0.8 * errors[0] and corrected.outputs[0].relative < 0.8 * plain.outputs[0].relative
    assert f"3 biases are corrected on {tmp_path / 'x.npz'}" in notes[-1]
    assert f"instead of {100 * plain.outputs[0].relative:.2f} %" in notes[-1]
    assert abs(corrected.bytes - plain.bytes) < 100  # corrected biases are rounded as the others are
    weights = [name for name in tensors if ".coefficients" in name]
    assert weights and all(np.array_equal(tensors[name], after[name]) for name in weights)


def test_random_inputs_and_shared_biases_are_no_reason_to_correct(tmp_path):
    _, notes = compress(mlp(), tmp_path)
    assert "biases are not corrected, since random inputs" in notes[-1]
    model = mlp()
    model.graph.node.append(helper.make_node("Add", ["logits", "bias"], ["more"]))
    model.graph.output.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["batch", 150]))
    _, notes = compress(model, tmp_path, {"x": RNG.random((8, 64)).astype(np.float32)})
    assert not any("biases" in note for note in notes)


def test_a_correction_that_does_not_help_is_left_out(tmp_path):
    x = np.concatenate([np.ones((100, 64)), -np.ones((100, 64))]).astype(np.float32)  # layers without means
    model = one_layer()
    _, notes = compress(model, tmp_path, {"x": x})
    assert "biases are not corrected" in notes[-1] and "closer" in notes[-1]

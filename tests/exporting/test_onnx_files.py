"""Damaged, hostile and unusual ONNX files, and files with external data."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_networks import BITS, mlp
from processes import refused

import tenreo
from tenreo.errors import TenreoError
from tenreo.exporting.onnx_files import read_onnx, write_onnx


def first(model):
    return model.graph.initializer[0]


def huge_dims(model):
    first(model).dims[:] = [2**40, 2**40]


def negative_dims(model):
    first(model).dims[:] = [-64, -200]


def other_dims(model):
    first(model).dims[:] = [64, 201]


def huge_without_values(model):
    first(model).CopyFrom(TensorProto(name="first", data_type=1, dims=[2**31, 2**31], float_data=[0.0]))


def calls_of_itself(model):
    body = [helper.make_node("F", ["a"], ["b"], domain="own")]
    inner = [helper.make_node("G", ["a"], ["b"], domain="own")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model.functions.extend([
        helper.make_function("own", "G", ["a"], ["b"], body, opsets),
        helper.make_function("own", "F", ["a"], ["b"], inner, opsets),
    ])  # fmt: skip
    model.opset_import.append(helper.make_opsetid("own", 1))


def elsewhere(location, **entries):
    def change(model):
        tensor = first(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=str(value))

    change.__name__ = f"in {location} {entries}"
    return change


def quantized(model):
    for each in list(model.graph.initializer)[:2]:
        values = numpy_helper.to_array(each)
        each.CopyFrom(numpy_helper.from_array((values * 100).astype(np.int8), each.name + "_q"))
        node = helper.make_node("DequantizeLinear", [each.name, "scale"], [each.name.removesuffix("_q")])
        model.graph.node.insert(0, node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.01, np.float32), "scale"))


def compressed_already(model):
    model.opset_import.append(helper.make_opsetid("tenreo", 1))


def without_weights(model):
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(helper.make_node("Relu", ["x"], ["logits"]))


def not_finite(model):
    first(model).raw_data = np.full(64 * 200, np.nan, np.float32).tobytes()


def missing_tensor(model):
    model.graph.node[0].input[1] = "nothing"


def old_with_bodies(model):
    model.opset_import[0].version = 11
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "body", [], [helper.make_tensor_value_info("z", 1, ["b", 64])]
    )
    model.graph.node.append(helper.make_node("If", ["yes"], ["w"], then_branch=body, else_branch=body))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))


BAD = {
    huge_dims: "which do not fit; the file is damaged", negative_dims: "do not fit", other_dims: "do not fit",
    huge_without_values: "but only", calls_of_itself: "calls itself, which ONNX does not permit",
    elsewhere("none.data"): "copy both files", elsewhere("../up.data"): "is not in the folder",
    elsewhere("/etc/passwd"): "is not in the folder", elsewhere(""): "is not in the folder",
    elsewhere("link.data"): "is a link", elsewhere("folder"): "is a folder", elsewhere("linked/a.data"): "is a link",
    elsewhere("short.data", length=51200): "copy both files again",
    elsewhere("short.data", offset=-1): "copy both files again", elsewhere("short.data", offset="x"): "is no number",
    elsewhere("short.data"): "do not fit", quantized: "is quantized", compressed_already: "is already compressed",
    without_weights: "has no floating-point weights", not_finite: "contains NaN",
    missing_tensor: "not a valid ONNX model", old_with_bodies: "has version 11",
}  # fmt: skip


@pytest.mark.parametrize("damage", BAD, ids=lambda x: x.__name__)
def test_damaged_and_hostile_models_are_refused_in_one_line(damage, tmp_path):
    (tmp_path / "sub" / "folder").mkdir(parents=True)
    (tmp_path / "up.data").write_bytes(bytes(51200))
    (tmp_path / "sub" / "short.data").write_bytes(bytes(100))
    (tmp_path / "sub" / "link.data").symlink_to(tmp_path / "up.data")
    (tmp_path / "sub" / "linked").symlink_to(tmp_path)
    model = mlp()
    damage(model)
    path = tmp_path / "sub" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    message = refused("compress", path, "--bits", 5, "-o", tmp_path / "small.onnx", code=1)
    assert BAD[damage] in message and len(message.splitlines()) == 1 and "Traceback" not in message
    assert not (tmp_path / "small.onnx").exists() and sorted(os.listdir(tmp_path)) == ["sub", "up.data"]


@pytest.mark.parametrize("content", [b"", b"some text\n", b"\x08\x0a" * 40, b"\0" * 100, b"PK\x03\x04", None])
def test_files_that_are_not_onnx(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(mlp().SerializeToString()[:-1000] if content is None else content)
    message = refused("compress", path, "--bits", 5, "-o", tmp_path / "small.onnx", code=1)
    assert "is not an ONNX file" in message and len(message.splitlines()) == 1


def test_wrong_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "model.onnx")
    np.savez("other.npz", y=np.zeros(3))
    np.savez("wide.npz", x=np.zeros((2, 65), np.float32))
    np.savez("words.npz", x=np.array(["a"]))
    (tmp_path / "text.npz").write_text("no")
    bits = ("compress", "model.onnx", "--bits", 5, "-o")
    assert "would replace model.onnx" in refused(*bits, "model.onnx", "--force")
    assert "ends in .onnx" in refused(*bits, "small.safetensors")
    assert "license: given together with an ONNX model" in refused(*bits, "small.onnx", "--license", "MIT")
    assert "inputs: given together with" in refused("compress", "other.npz", "--bits", 5, "--inputs", "other.npz")
    assert "no such file" in refused(*bits, "small.onnx", "--inputs", "none.npz")
    for name, text in (("other", "needs the inputs of the model: ['x']"), ("wide", "does not take x [2, 65]"),
                       ("words", "has the type"), ("text", "is not an .npz file")):  # fmt: skip
        assert text in refused(*bits, "small.onnx", "--inputs", f"{name}.npz", code=1)
    assert "needs more; give more" in refused("compress", "model.onnx", "--target-size", "5kB", "-o", "a.onnx", code=1)
    assert "matches no weight" in refused(*bits, "small.onnx", "--include", "third", code=1)
    assert not list(tmp_path.glob("small*")) and not list(tmp_path.glob(".*"))


def test_other_commands_name_the_format(tmp_path):
    onnx.save(mlp(), tmp_path / "model.onnx")
    assert "is an ONNX model; give a safetensors file" in refused("inspect", tmp_path / "model.onnx", code=1)


def test_external_data_of_the_dense_model(tmp_path):
    onnx.save(mlp(), tmp_path / "dense.onnx", save_as_external_data=True, location="weights.bin", size_threshold=10)
    done = tenreo.compress_onnx(tmp_path / "dense.onnx", tmp_path / "small.onnx", BITS)
    sizes = [(tmp_path / name).stat().st_size for name in ("dense.onnx", "weights.bin")]
    assert done.bytes_before == sum(sizes) and done.outputs[0].relative < 0.17
    with pytest.raises(TenreoError, match=r"would replace .*a.onnx.data"):
        (tmp_path / "weights.bin").rename(tmp_path / "a.onnx.data")
        model = onnx.load(tmp_path / "dense.onnx", load_external_data=False)
        for each in model.graph.initializer:
            each.external_data[0].value = "a.onnx.data"
        onnx.save(model, tmp_path / "dense.onnx")
        tenreo.compress_onnx(tmp_path / "dense.onnx", tmp_path / "a.onnx", BITS)


def test_large_models_are_written_with_external_data(tmp_path):
    model, path = mlp(), tmp_path / "large.onnx"
    size = write_onnx(mlp(), path, most_bytes=10_000)
    assert sorted(os.listdir(tmp_path)) == ["large.onnx", "large.onnx.data"]
    assert size == sum(each.stat().st_size for each in tmp_path.iterdir()) and path.stat().st_size < 10_000
    onnx.checker.check_model(str(path), full_check=True)
    loaded = onnx.load(path)
    assert [numpy_helper.to_array(a).tobytes() for a in loaded.graph.initializer] == [
        numpy_helper.to_array(a).tobytes() for a in model.graph.initializer
    ]
    assert read_onnx(path).model.graph.initializer[0].raw_data == model.graph.initializer[0].raw_data

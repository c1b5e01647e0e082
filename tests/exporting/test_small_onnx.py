"""ONNX models whose weights stay compressed, in several runtimes."""

import copy
import json

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from networks import golden, strided_and_grouped
from onnx.reference import ReferenceEvaluator
from processes import DATA, here
from torch import nn

import tenreo
from tenreo.compression.parametrization import curves
from tenreo.errors import TenreoError

X = torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(0))
RATE = tenreo.Uniform(2.0)


def wide():
    """A network with enough weights for a target size, whose distributions differ."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2),
        nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 200, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(200, 150),
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[1].running_var.copy_(torch.rand(32) + 0.1)
        net[4].running_mean.copy_(torch.randn(64))
        net[6].weight.mul_(torch.rand(200, 1, 1, 1) ** 2)
    return net


def small(net, path, **options):
    """Export a model, check the file, and return it and the largest difference in ONNX Runtime, relative to logits."""
    done = tenreo.export(net, path, inputs=X, small=True, **options)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    x = torch.randn(5, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    expected = net(x).detach().float().numpy()
    (found,) = onnxruntime.InferenceSession(path).run(None, {"images": x.numpy()})
    assert done.bytes == path.stat().st_size
    return model, np.abs(found - expected).max() / np.abs(expected).max()


RECIPES = {
    "cosines": tenreo.Recipe(4, RATE, refine=1),
    "all coefficients": tenreo.Recipe(2, tenreo.Uniform(1.0), refine=0),
    "short curves": tenreo.Recipe(2, RATE, position_bits=7, refine=1, precision="float16"),
    "tables": tenreo.Recipe(1, RATE, position_bits=4, refine=1, pack="plain"),
    "int8": tenreo.Recipe(4, RATE, refine=1, precision="int8", dense_dtype="float16"),
    "int6": tenreo.Recipe(8, RATE, refine=1, precision="int6", dense_dtype="bfloat16"),
    "bfloat16": tenreo.Recipe(4, tenreo.Uniform(7.0), refine=1, precision="bfloat16"),
    "ramps": tenreo.Recipe(None, tenreo.TargetSize(24_000)),
    "precise ramps": tenreo.Recipe(None, tenreo.TargetSize(60_000)),
}


SLOW = (
    "all coefficients",
    "tables",
    "int8",
    "int6",
    "bfloat16",
    "ramps",
    "short curves",
)  # the others use every function


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in RECIPES])
def test_every_encoding_is_decoded_exactly(name, tmp_path):
    net = wide()
    tenreo.compress_(net, RECIPES[name])
    tenreo.save(net, tmp_path / "net.safetensors")
    net = tenreo.load(tmp_path / "net.safetensors", wide())
    model, difference = small(net, tmp_path / "model.onnx")
    assert difference < 1e-5
    stored = {each.name for each in model.graph.initializer}
    assert not stored & {curve.parameter for curve in curves(net)}
    assert all(sum(node.output[0] == each.parameter for node in model.graph.node) == 1 for each in curves(net))


@pytest.mark.parametrize("name", [pytest.param("float32", marks=pytest.mark.slow), "int6"])
def test_files_of_older_versions(name, tmp_path):
    net = tenreo.load(DATA / f"{name}.safetensors", golden())
    assert small(net, tmp_path / "model.onnx")[1] < 1e-5


def test_the_file_is_small_and_the_size_is_announced(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(243, 400), nn.ReLU(), nn.Linear(400, 100)).eval()
    tenreo.compress_(net, tenreo.Recipe(None, tenreo.TargetSize(70_000)))
    announced = []
    model, difference = small(net, tmp_path / "model.onnx", announce=announced.append)
    dense = tenreo.export(net, tmp_path / "dense.onnx", inputs=X)
    assert difference < 1e-5 and announced == [(tmp_path / "model.onnx").stat().st_size]
    assert announced[0] < 95_000 and dense.bytes > 540_000
    assert {each.key: each.value for each in model.metadata_props}["tenreo.weights"] == "compressed"


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """A network with one row of values per weight, and its ONNX file."""
    net, path = wide(), tmp_path_factory.mktemp("ramps") / "model.onnx"
    tenreo.compress_(net, RECIPES["ramps"])
    small(net, path)
    return net, path


def test_without_optimization_and_in_the_reference_evaluator(ramps):
    net, path = ramps
    expected, feed = net(X).detach().numpy(), {"images": X.numpy()}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for run in (onnxruntime.InferenceSession(path, options).run, ReferenceEvaluator(onnx.load(path)).run):
        np.testing.assert_allclose(run(None, feed)[0], expected, atol=1e-5 * np.abs(expected).max())


def test_in_openvino_without_functions(tmp_path):
    openvino, passes = pytest.importorskip("openvino"), pytest.importorskip("openvino.passes")
    net = wide()
    tenreo.compress_(net, RECIPES["ramps"])
    model, _ = small(net, tmp_path / "model.onnx")
    onnx.save(onnx.inliner.inline_local_functions(model), tmp_path / "inlined.onnx")
    loaded, manager = openvino.Core().read_model(tmp_path / "inlined.onnx"), passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(loaded)
    assert "Gather" not in {each.get_type_name() for each in loaded.get_ops()}  # all weights are decoded
    (found,) = openvino.compile_model(tmp_path / "inlined.onnx", "CPU")([X.numpy()]).values()
    expected = net(X).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_onnx_runtime_decodes_when_it_loads(ramps, tmp_path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(ramps[1], options)
    left = {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}
    assert not left & {"MatMulInteger", "ScatterElements", "Gather", "Cast"}


def test_all_operators_of_the_decoder_are_evaluated_when_openvino_loads_a_model(ramps):
    used = {node.op_type for node in onnx.inliner.inline_local_functions(onnx.load(ramps[1])).graph.node}
    assert "MatMulInteger" in used and not used & {"CumSum", "BitShift", "Max", "Identity"}


@pytest.mark.slow
def test_half_precision(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(243, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    tenreo.compress_(net, tenreo.Recipe(4, RATE, include=("1",), refine=1))
    done = tenreo.export(net, tmp_path / "model.onnx", inputs=X, small=True, dtype="float16")
    assert done.difference < 0.01


def test_names_of_inputs_outputs_and_batch(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(64, 64)

        def forward(self, words, scale):
            return {"score": self.out(words) * scale, "half": words / 2}

    net = Scaled().eval()
    tenreo.compress_(net, tenreo.Recipe(4, RATE, refine=0, include=("out",)))
    for is_small in (False, True):
        tenreo.export(net, tmp_path / "model.onnx", inputs=(torch.rand(3, 64), torch.rand(3, 1)), small=is_small)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        assert [(each.name, each.shape[0]) for each in session.get_inputs()] == [("words", "batch"), ("scale", "batch")]
        assert [each.name for each in session.get_outputs()] == ["score", "half"]
    images = strided_and_grouped()
    tenreo.export(images, tmp_path / "images.onnx", inputs=X)
    session = onnxruntime.InferenceSession(tmp_path / "images.onnx")
    assert [each.name for each in (*session.get_inputs(), *session.get_outputs())] == ["images", "logits"]


def test_the_model_itself_is_unchanged_and_other_formats_are_refused(tmp_path):
    net = tenreo.load(DATA / "int8.safetensors", golden())
    before = copy.deepcopy(net.state_dict())
    small(net, tmp_path / "model.onnx")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(TenreoError, match=r"small: given 'model\.pt2', needs a name that ends in \.onnx"):
        tenreo.export(net, tmp_path / "model.pt2", inputs=X, small=True)


def test_the_command_says_what_an_export_costs(tmp_path):
    options = ("--model", "networks:golden", "--input", "3x9x9")
    dense = here("export", DATA / "float32.safetensors", *options, "--to", tmp_path / "dense.onnx")
    assert "dense, " in dense.stdout and "times the compressed file; --small keeps" in " ".join(dense.stdout.split())
    made = here("export", DATA / "int8.safetensors", *options, "--to", tmp_path / "small.onnx", "--small", "--json")
    values = json.loads(made.stdout)
    assert values["small"] and values["difference"] < 1e-4
    assert f"will have {values['bytes']:,} bytes" in " ".join(made.stderr.split())

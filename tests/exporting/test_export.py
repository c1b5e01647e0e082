"""Exported models compute the same as the compressed model."""

import copy
import subprocess
import sys

import numpy
import onnxruntime
import pytest
import torch
from networks import strided_and_grouped
from processes import start_tenreo
from torch import nn

import tenreo
from tenreo.errors import TenreoError

RECIPE = tenreo.Recipe(4, tenreo.Uniform(2.0), refine=1)
X = torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    return net


@pytest.fixture(scope="module")
def onnx_file(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return tenreo.export(net, path, inputs=X)


def test_weights_have_the_names_of_the_architecture(net, tmp_path):
    for ending, read in ((".pth", torch.load), (".safetensors", None)):
        done = tenreo.export(net, tmp_path / f"dense{ending}")
        assert done.bytes == done.path.stat().st_size and done.difference is None and done.dynamic is None
        plain = strided_and_grouped()
        if read:
            plain.load_state_dict(read(done.path))
        else:
            from safetensors.torch import load_file

            plain.load_state_dict(load_file(done.path))
            assert torch.equal(tenreo.load(done.path, strided_and_grouped())(X), net(X))
        assert torch.equal(plain(X), net(X))
    assert torch.nn.utils.parametrize.is_parametrized(net[4])  # the model itself is unchanged


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_in_half_precision(net, tmp_path, dtype):
    tenreo.export(net, tmp_path / "half.pth", dtype=dtype)
    state = torch.load(tmp_path / "half.pth")
    assert state["4.weight"].dtype == getattr(torch, dtype)
    torch.testing.assert_close(state["4.weight"].float(), net[4].weight.detach().clone(), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("batch", [1, pytest.param(3, marks=pytest.mark.slow), 5])
def test_onnx_takes_any_batch_and_agrees(net, onnx_file, batch):
    assert onnx_file.dynamic and onnx_file.difference < 1e-5
    session = onnxruntime.InferenceSession(onnx_file.path)
    x = torch.randn(batch, 3, 9, 9)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    numpy.testing.assert_allclose(found, net(x).detach().numpy(), atol=1e-5)


LOAD = """
import sys, torch
x = torch.load("x.pt")
outputs = [torch.export.load("model.pt2").module()(x)]
assert "tenreo" not in sys.modules
import tenreo.codec.decoding
outputs.append(torch.export.load("compressed.pt2").module()(x[:3]))
torch.save(outputs, "outputs.pt")
"""


@pytest.mark.slow
def test_a_program_is_loaded_without_tenreo_or_after_importing_the_decoding_if_it_decodes(net, tmp_path):
    done = tenreo.export(net, tmp_path / "model.pt2", inputs=X)
    assert done.dynamic and done.difference < 1e-6
    torch.export.save(torch.export.export(net, (X,)), tmp_path / "compressed.pt2")
    torch.save(torch.cat([X, X]), tmp_path / "x.pt")
    subprocess.run([sys.executable, "-W", "ignore", "-c", LOAD], check=True, cwd=tmp_path)
    expanded, decoding = torch.load(tmp_path / "outputs.pt")
    torch.testing.assert_close(expanded, net(torch.cat([X, X])).detach())
    torch.testing.assert_close(decoding, net(X).detach())
    subprocess.run([sys.executable, "-c", "import sys, tenreo; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.slow
def test_dictionaries_and_tuples_of_arguments(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(300, 64), nn.Linear(64, 64)

        def forward(self, words, scale):
            return {"logits": self.out(self.embedding(words)).mean(1) * scale}

    torch.manual_seed(0)
    net = Two().eval()
    tenreo.compress_(net, RECIPE)
    words, scale = torch.randint(0, 300, (3, 7)), torch.rand(3, 1)
    assert tenreo.export(net, tmp_path / "net.onnx", inputs=(words, scale)).difference < 1e-5
    assert tenreo.export(net, tmp_path / "net.pt2", inputs={"words": words, "scale": scale}).difference < 1e-6


@pytest.mark.slow
def test_random_images_of_a_known_size_are_the_default_inputs(tmp_path):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    net = squeezenet1_1(weights=None, num_classes=10).eval()
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(8.0), refine=0))
    assert tenreo.export(net, tmp_path / "model.pt2").difference < 1e-5


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        (
            "model.tflite",
            {},
            r"to: given 'model\.tflite', needs a name that ends in \.safetensors, \.pth",
        ),
        ("no/model.onnx", {"inputs": X}, "no"),
        ("model.pth", {"dtype": "int8"}, "dtype: given 'int8', needs one of float32, float16, bfloat16"),
        ("model.onnx", {}, "the size of the model's input is not known"),
        ("model.onnx", {"inputs": torch.randn(2, 5, 9, 9)}, "does not take .*channels"),
    ],
)
def test_wrong_options_and_inputs_are_refused(net, tmp_path, name, options, match):
    with pytest.raises(TenreoError, match=match):
        tenreo.export(net, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


class Dependent(nn.Module):
    """A model whose control flow depends on the data."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(64, 64)

    def forward(self, x):
        return self.out(x) if x.sum() > 0 else x


class PerImage(nn.Module):
    """A model with a convolution of one group per image, which exporters cannot translate for any batch size."""

    def __init__(self):
        super().__init__()
        self.kernel, self.out = nn.Parameter(torch.randn(64, 3, 3, 3)), nn.Linear(64, 64)

    def forward(self, x):
        batch, channels, height, width = x.shape
        kernels = self.kernel.repeat(batch, 1, 1, 1)
        y = nn.functional.conv2d(x.reshape(1, batch * channels, height, width), kernels, groups=batch)
        return self.out(y.mean((2, 3)).reshape(batch, 64))


class Padded(nn.Module):
    """A model with a mask for sequences of given lengths, as in torchaudio's Conformer."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(64, 64)

    def forward(self, x, lengths):
        longest = int(torch.max(lengths).item())
        mask = torch.arange(longest).expand(len(lengths), longest) < lengths.unsqueeze(1)
        return self.out(x) * mask.unsqueeze(2)


class Mixed(nn.Module):
    """A model with a layer in half precision."""

    def __init__(self):
        super().__init__()
        self.first, self.low, self.out = nn.Linear(64, 64), nn.Linear(64, 64).half(), nn.Linear(64, 64)

    def forward(self, x):
        return self.out(self.low(self.first(x).half()).float())


class MostlyHalf(nn.Module):
    """A model with most of its weights in half precision, to which it converts values."""

    def __init__(self):
        super().__init__()
        self.low, self.out = nn.Linear(64, 64).half(), nn.Linear(64, 8)

    def forward(self, x):
        return self.out(self.low(x.half()).float())


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_models_that_cannot_be_traced_raise_one_line(tmp_path, name, capfd):
    net = Dependent()
    tenreo.compress_(net, RECIPE)
    with pytest.raises(TenreoError, match=r"torch\.\w+ cannot \w+ the model: .*data-dependent") as caught:
        tenreo.export(net, tmp_path / name, inputs=torch.ones(2, 64))
    assert "\\x1b" not in str(caught.value) and capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "inputs", "dynamic"),
    [
        pytest.param(PerImage, torch.randn(2, 3, 8, 8), False, marks=pytest.mark.slow),
        pytest.param(Padded, (torch.randn(2, 5, 64), torch.tensor([5, 4])), True, marks=pytest.mark.slow),
        (Mixed, torch.randn(2, 64), True),
        (MostlyHalf, torch.randn(2, 64), True),
    ],
)
def test_onnx_is_written_by_the_first_exporter_that_succeeds(tmp_path, make, inputs, dynamic):
    torch.manual_seed(0)
    net = make()
    tenreo.compress_(net, RECIPE)
    done = tenreo.export(net, tmp_path / "model.onnx", inputs=inputs)
    assert done.dynamic is dynamic and done.difference < 1e-3


def test_layers_in_another_precision_than_the_model_keep_it(tmp_path):
    net = Mixed()
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("first", "out"), refine=0))
    tenreo.export(net, tmp_path / "model.pth", dtype="bfloat16")
    state = torch.load(tmp_path / "model.pth")
    assert [state[f"{name}.weight"].dtype for name in ("first", "low", "out")] == [
        torch.bfloat16, torch.float16, torch.bfloat16
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [pytest.param(True, marks=pytest.mark.slow), False])
def test_direct_onnx_export_of_a_compressed_model_names_tenreo_export(net, tmp_path, dynamo):
    with pytest.raises(Exception, match=r"tenreo\.export\(model, path\)"):
        torch.onnx.export(copy.deepcopy(net), (X,), tmp_path / "no.onnx", dynamo=dynamo, verbose=False)


@pytest.mark.slow
def test_detectors_are_exported_for_a_fixed_batch(tmp_path):
    from tenreo.models.builders import build_model

    torch.manual_seed(3)
    sides = {"min_size": 96, "max_size": 96, "box_score_thresh": 0.0, "box_detections_per_img": 3}
    net = build_model("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", sides)
    # Large weights separate the scores: rounding, which depends on the processor, selects among nearly equal ones.
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    with torch.no_grad():
        for layer in (net.rpn.head.cls_logits, net.roi_heads.box_predictor.cls_score):
            layer.weight.mul_(1000)
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(4.0), include=("roi_heads.box_head.fc7",), refine=0))
    images = [torch.rand(3, 96, 96), torch.rand(3, 96, 96)]
    wanted = net([image.clone() for image in images])
    done = tenreo.export(net, tmp_path / "detector.onnx", inputs=(images,))
    assert done.dynamic is False and done.difference < 1e-3
    session = onnxruntime.InferenceSession(done.path)
    feed = dict(zip((each.name for each in session.get_inputs()), (x.numpy() for x in images), strict=True))
    found = session.run(None, feed)
    assert len(found) == 6 and all(len(each["scores"]) == 3 for each in wanted)
    for i, each in enumerate(wanted):
        for key, value in zip(("boxes", "labels", "scores"), found[3 * i : 3 * i + 3], strict=True):
            assert value.shape == tuple(each[key].shape)
            numpy.testing.assert_allclose(value, each[key].detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_full_disk_gives_one_line_and_leaves_no_file(net, tmp_path, disk_full_after, name):
    for size in (0, 100, 3000):
        with disk_full_after(size), pytest.raises(TenreoError, match=f"{name}: cannot be written: "):
            tenreo.export(net, tmp_path / name)
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pth", "pt2", "onnx"])
def test_one_of_two_exports_to_the_same_path_is_the_whole_file(tmp_path, ending):
    (tmp_path / "two.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64))\n"
    )
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 64)) for _ in range(2)]
    for i, model in enumerate(models):
        tenreo.save(model, tmp_path / f"{i}.safetensors")
    (tmp_path / "out").mkdir()
    typed = ("--model", "two:build", "--input", "1x8x8", "--force", "--to", f"out/m.{ending}")
    exports = [start_tenreo("export", f"{i}.safetensors", *typed, cwd=tmp_path) for i in range(2)]
    messages = [export.communicate()[1] for export in exports]
    assert [export.returncode for export in exports] == [0, 0], messages
    (path,) = (tmp_path / "out").iterdir()
    if ending == "pth":
        assert any(torch.equal(torch.load(path)["1.weight"], model[1].weight) for model in models)
        return
    x = torch.randn(3, 1, 8, 8)
    outputs = torch.export.load(path).module()(x) if ending == "pt2" else torch.from_numpy(session_outputs(path, x))
    assert any(torch.allclose(outputs, model(x), atol=1e-5) for model in models)


def session_outputs(path, x):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]

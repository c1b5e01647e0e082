"""Models are the same after saving and loading."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.header import read_header
from tenreo.models.builders import build_model
from tenreo.models.identification import identify
from tenreo.models.model_files import save
from tenreo.models.model_info import model_info

X = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def test_round_trip_is_exact_and_recognizes_the_architecture(saved_file):
    model, report, path = saved_file
    again = tenreo.load(path)
    assert type(again) is type(model)
    assert torch.equal(again(X), model(X))
    header = read_header(path)
    assert (header.info.arch, header.info.classes, header.kind) == ("resnet18", 7, "tenreo")
    named = replace(report.after, bytes=header.size)  # the report does not know the name of the architecture
    assert (
        header.counts() == named
        and 0 <= header.size - report.after.bytes < 64
        and header.dense_counts() == report.before
    )
    assert not any("parametrizations" in name for name in header.tensors)


def test_other_models_load_into_a_skeleton(tmp_path):
    make = lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))  # noqa: E731
    model = make()
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0))
    tenreo.save(model, tmp_path / "m.safetensors")
    with pytest.raises(TenreoError, match=r"load it with tenreo.load\(path, model\)"):
        tenreo.load(tmp_path / "m.safetensors")
    x = torch.randn(1, 64)
    assert torch.equal(tenreo.load(tmp_path / "m.safetensors", make())(x), model(x))


def test_saving_twice_gives_the_same_bytes(saved_file, tmp_path):
    tenreo.save(saved_file[0], tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved_file[2].read_bytes()


def test_layers_that_read_their_version_from_the_metadata_load(tmp_path):
    info = model_info("torchvision:mnasnet0_5")
    model = build_model("torchvision:mnasnet0_5")
    save(model, tmp_path / "m.safetensors", info)
    again = tenreo.load(tmp_path / "m.safetensors")
    assert all(torch.equal(a, again.state_dict()[k]) for k, a in model.state_dict().items())


def test_the_recipe_and_the_info_are_stored(tmp_path):
    model = build_model("torchvision:resnet18", {"num_classes": 7})
    info, recipe = model_info("torchvision:resnet18", {"num_classes": 7}), tenreo.Recipe(8, tenreo.Progressive(4.0))
    save(model, tmp_path / "m.safetensors", info, recipe)
    header = read_header(tmp_path / "m.safetensors")
    assert header.info == info and tenreo.Recipe.from_dict(header.recipe) == recipe


@pytest.mark.parametrize(
    "arch",
    [
        "squeezenet1_1",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("resnet18", "resnext50_32x4d", "mobilenet_v3_small")),
    ],
)
def test_architectures_are_recognized_by_their_shapes(arch):
    info = identify(build_model(f"torchvision:{arch}", {"num_classes": 12}))
    assert (info.arch, info.classes, info.weights) == (arch, 12, None)


def test_models_that_are_not_torchvisions_have_no_architecture():
    assert identify(nn.Sequential(nn.Linear(3, 3))).arch is None


def test_loading_uses_no_random_numbers_and_leaves_no_file_mapped(saved_file):
    mapped = Path("/proc/self/maps")
    before = torch.get_rng_state()
    model = tenreo.load(saved_file[2])
    assert torch.equal(before, torch.get_rng_state())
    if mapped.exists():
        assert str(saved_file[2]) not in mapped.read_text()
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_random_values_of_a_function_that_no_file_contains_are_drawn(tmp_path, monkeypatch):
    (tmp_path / "drawing.py").write_text(
        "import torch\n\n\ndef build():\n    torch.manual_seed(0)\n    net = torch.nn.Linear(64, 64)\n"
        "    net.register_buffer('noise', torch.empty(8).normal_(), persistent=False)\n"
        "    return torch.nn.Sequential(net)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from drawing import build as draw

    model = draw()
    tenreo.save(model, tmp_path / "m.safetensors", builder="drawing:build")
    again = tenreo.load(tmp_path / "m.safetensors", trust_builder=True)
    assert again[0].noise.std() > 0.1 and torch.equal(again[0].noise, model[0].noise)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda model, path: tenreo.save(path, model),
            r"given save\(PosixPath, Sequential\), needs save\(",
        ),
        (lambda model, path: tenreo.save(model.state_dict(), path), r"given save\(OrderedDict, PosixPath\), needs"),
        (lambda model, path: tenreo.save(None, path), r"given save\(NoneType, PosixPath\), needs"),
        (lambda model, path: tenreo.save(model, None), r"given save\(Sequential, NoneType\), needs"),
        (lambda model, path: tenreo.save(nn.Linear, path), r"given save\(the class Linear, PosixPath\), needs"),
        (lambda model, path: tenreo.save(model, path, builder=nn.Sequential), "builder: given .*, needs its name"),
        (
            lambda model, path: tenreo.load(model, path),
            r"given load\(Sequential, PosixPath\), needs load\(",
        ),
        (lambda model, path: tenreo.load(path, nn.Linear), r"given load\(PosixPath, the class Linear\), needs"),
        (lambda model, path: tenreo.load(path, {}), r"given load\(PosixPath, dict\), needs load\(path, model\)"),
        (lambda model, path: tenreo.load(model), r"given load\(Sequential\), needs load\(path\)"),
    ],
)
def test_arguments_of_wrong_types_are_refused(tmp_path, call, match):
    model = nn.Sequential(nn.Linear(64, 64))
    with pytest.raises(TenreoError, match=match):
        call(model, tmp_path / "m.safetensors")

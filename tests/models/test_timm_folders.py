"""Folders in timm's layout: timm reads what tenreo writes, and the other way round; hostile ones do nothing."""

import json
import os
import shutil
import socket
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from processes import here, refused

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.header import read_header
from tenreo.models.timm_folders import read_timm_folder

timm = pytest.importorskip("timm")
COMPRESS = ("compress", "-g", 4, "-r", 4, "--refine", 0, "--no-match-statistics", "--include", "conv_head")
X = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(model, folder): a model of timm with five classes and one channel, in the folder that timm writes."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("timm") / "dense"
    model = timm.create_model("test_efficientnet", num_classes=5, in_chans=1).eval()
    names = [f"n{i}" for i in range(5)]
    timm.models.save_for_hf(
        model, folder, model_config={"label_names": names, "pretrained_cfg": {"mean": [0.5], "std": [0.25]}},
        safe_serialization=True, data_config={"crop_pct": 0.8, "input_size": (1, 64, 64)},
    )  # fmt: skip
    return model, folder


@pytest.fixture
def folder(written, inside):
    """(model, folder): the model, and a copy of its folder in the working folder."""
    shutil.copytree(written[1], "dense")
    return written[0], inside / "dense"


def outputs(model):
    with torch.no_grad():
        return model.eval()(X)


def edited(folder, **changes):
    """Change entries of the configuration, those of pretrained_cfg by names with two underscores."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for key, value in changes.items():
        inner = key.startswith("cfg__")
        (values["pretrained_cfg"] if inner else values)[key.removeprefix("cfg__")] = value
    path.write_text(json.dumps(values))


def test_a_folder_of_timm_is_compressed_and_timm_loads_the_decoded_one(folder):
    here(*COMPRESS, "--model", "local-dir:dense", "-o", "small")
    assert sorted(os.listdir("small")) == ["README.md", "config.json", "model.safetensors"]
    info = read_header(Path("small/model.safetensors")).info
    assert (info.builder, info.classes) == ("timm:test_efficientnet", 5)
    assert info.class_names == ("n0", "n1", "n2", "n3", "n4")
    p = info.preprocess
    assert (p.crop, p.resize, p.mean, p.std, p.channels) == (64, 80, (0.5,), (0.25,), 1)
    compressed = tenreo.from_pretrained("small")
    here("export", "small", "--to", "dense1")
    here("decompress", "small", "-o", "dense2")
    here("decompress", "small/model.safetensors", "-o", "dense3")
    for name in ("dense1", "dense2", "dense3"):
        model = timm.create_model(f"local-dir:{name}", pretrained=True)
        torch.testing.assert_close(outputs(model), outputs(compressed))  # decompress rounds differently
        config = timm.data.resolve_model_data_config(model)
        assert (config["input_size"], tuple(config["mean"]), config["crop_pct"]) == ((1, 64, 64), (0.5,), 0.8)
        assert json.loads(Path(name, "config.json").read_text())["label_names"] == ["n0", "n1", "n2", "n3", "n4"]
        assert torch.equal(outputs(tenreo.from_pretrained(name)), outputs(model))


def test_the_dense_weights_of_a_folder_are_found_again(folder):
    from tenreo.models.dense_weights import open_dense

    here(*COMPRESS, "--model", "local-dir:dense", "-o", "small.safetensors")
    assert torch.equal(outputs(open_dense(read_header(Path("small.safetensors")))), outputs(folder[0]))


def test_a_model_of_timm_is_recognized_in_python(folder):
    model = deepcopy(folder[0])
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(4.0), ("conv_head",), refine=0))
    tenreo.save_pretrained(model, "small")
    assert json.loads(Path("small/config.json").read_text())["architecture"] == "test_efficientnet"
    again = tenreo.from_pretrained(Path("small"))
    assert torch.equal(outputs(again), outputs(model)) and type(again) is type(model)


def test_a_compressed_folder_of_tensors_is_loaded_through_its_configuration(folder):
    here("compress", "dense", "-g", 4, "-r", 4, "--refine", 0, "--include", "conv_head.weight", "-o", "small")
    here("decompress", "small", "-o", "plain")
    model = timm.create_model("local-dir:plain", pretrained=True)
    torch.testing.assert_close(outputs(tenreo.from_pretrained("small")), outputs(model))
    assert "is already compressed" in refused(*COMPRESS, "--model", "local-dir:small", "-o", "x", code=1)


def test_an_older_configuration_has_its_values_at_the_top(folder):
    values = json.loads(Path("dense/config.json").read_text())
    old = {**values["pretrained_cfg"], "architecture": values["architecture"], "num_classes": 5}
    Path("dense/config.json").write_text(json.dumps(old))
    info = read_timm_folder(Path("dense")).info
    assert (info.classes, info.kwargs, info.preprocess.channels) == (5, {"num_classes": 5, "in_chans": 1}, 1)


HOSTILE = [
    ({"architecture": "../../x"}, "needs timm:NAME"),
    ({"architecture": "hf-hub:some/one"}, "needs timm:NAME"),
    ({"architecture": "os.system"}, "timm has no model 'os.system'"),
    ({"architecture": ["resnet18"]}, "architecture .* needs a string"),
    ({"architecture": "x" * 300}, "architecture .* needs a string of at most"),
    ({"auto_map": {"AutoModel": "code.Model"}}, r"names code of its own \(auto_map\), which tenreo never runs"),
    ({"trust_remote_code": True}, r"names code of its own \(trust_remote_code\)"),
    ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "checkpoint_path .* may read files"),
    ({"model_args": {"pretrained_cfg": "hf-hub:some/one"}}, "may read files"),
    ({"model_args": {"depth_multiplier": 5000.0}}, "no dimension"),
    ({"model_args": [1]}, "model_args .* needs an object"),
    ({"num_classes": 10**9}, "num_classes .* needs a whole number of 0 to 100,000"),
    ({"num_classes": "5"}, "num_classes '5'"),
    ({"num_classes": 6, "model_args": {"in_chans": 1}}, "does not fit the model"),
    ({"pretrained_cfg": "https://host/x"}, "is not an object"),
    ({"cfg__input_size": [3, 10**6, 224]}, "input_size"),
    ({"cfg__input_size": [3, 224]}, "input_size"),
    ({"cfg__mean": [0.5, 0.5]}, "mean has 2"),
    ({"cfg__mean": "0.5"}, "mean '0.5', needs a list"),
    ({"cfg__crop_pct": 0}, "crop_pct 0, needs a number"),
    ({"cfg__interpolation": 3}, "interpolation 3"),
]


@pytest.mark.parametrize(("changes", "why"), HOSTILE, ids=lambda x: next(iter(x)) if isinstance(x, dict) else "")
def test_hostile_configurations_are_refused_in_one_line(folder, monkeypatch, changes, why):
    edited(folder[1], **changes)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connects"))
    modules = set(sys.modules)
    with pytest.raises(TenreoError, match=why) as raised:
        # A folder that tenreo wrote names its model in the file; a dense one of timm only in the configuration.
        tenreo.from_pretrained("dense")
    assert len(str(raised.value).splitlines()) == 1
    assert not {name for name in set(sys.modules) - modules if name.startswith(("os.", "code"))}


def test_addresses_in_a_configuration_are_not_used(folder, monkeypatch):
    edited(folder[1], cfg__url="http://127.0.0.1:9/x", cfg__file="/etc/passwd", cfg__hf_hub_id="some/one",
           cfg__custom_load=True, cfg__source="hf-hub", cfg__hf_hub_filename="../x")  # fmt: skip
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connects"))
    assert torch.equal(outputs(tenreo.from_pretrained("dense")), outputs(folder[0]))


def test_a_hostile_folder_gives_one_line_on_the_command_line(folder, inside):
    (inside / "secret.json").write_text("{}")
    os.rename("dense/config.json", "config.json")
    for make, why in (
        (lambda path: path.symlink_to("../secret.json"), "outside of its folder"),
        (lambda path: path.write_text("{"), "cannot be read as a configuration"),
        (lambda path: path.write_text("{}"), "names no architecture of timm"),
        (os.mkfifo, "it is a pipe"),
        (os.mkdir, "it is a folder"),
    ):
        path = Path("dense/config.json")
        make(path)
        error = refused("compress", "--model", "local-dir:dense", "--bits", 4, "-o", "out")
        assert why in error and len(error.splitlines()) == 1
        path.rmdir() if path.is_dir() else path.unlink()
    os.rename("config.json", "dense/config.json")
    os.rename("dense/model.safetensors", "model.safetensors")
    os.symlink("../model.safetensors", "dense/model.safetensors")
    assert "outside of its folder" in refused("compress", "--model", "local-dir:dense", "--bits", 4, "-o", "out")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--model", "local-dir:nothing"), "nothing/config.json: cannot be opened: no such file"),
        (("--model", "local-dir:dense", "--weights", "none"), "weights: given together with local-dir:dense"),
        (("--model", "hf-hub:../x"), "model: given 'hf-hub:../x', needs a name of the hub, such as user/model"),
        (("--model", "local-dir:dense", "-o", "dense"), "dense: is the folder that is read"),
    ],
)
def test_wrong_names_of_folders(folder, words, why):
    assert why in refused("compress", "--bits", 4, *words)

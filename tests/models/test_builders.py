"""Building models by name, and the limits of what a file may cause."""

import json
import socket
import sys
from dataclasses import replace

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.header import read_header
from tenreo.models.builders import build_model, check_model
from tenreo.models.dense_weights import open_dense
from tenreo.models.model_files import open_model

MODULE = """
import torch
from pathlib import Path
from torch import nn
def build(width=64):
    Path("called").touch()
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, 64)).eval()
def other(): return nn.Sequential(nn.Linear(64, 64))
def fails(): raise RuntimeError("on purpose")
def number(): return 3
value = 3
"""
X = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def ownnet(inside, monkeypatch):
    """A module of functions in the working folder; build creates the file `called`."""
    (inside / "ownnet.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield inside
    sys.modules.pop("ownnet", None)


@pytest.fixture
def own_file(ownnet):
    """(model, file) of the function build."""
    model = build_model("ownnet:build", {"width": 32}, trusted=True)
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("1", "4"), refine=0))
    tenreo.save(model, "own.safetensors", builder="ownnet:build", kwargs={"width": 32})
    (ownnet / "called").unlink()
    return model, ownnet / "own.safetensors"


def relabeled(path, **changes):
    """A copy of a file with changes to the model in its metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    model = {**json.loads(metadata["tenreo.model"]), **changes}
    other = path.with_name("relabeled.safetensors")
    save_file(load_file(path), other, {**metadata, "tenreo.model": json.dumps(model)})
    return other


@pytest.mark.parametrize(
    ("builder", "kwargs", "shape", "layers"),
    [
        ("timm:resnet10t", {"num_classes": 5, "in_chans": 1}, (2, 1, 64, 64), "layer1.*"),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                ("torchvision:lraspp_mobilenet_v3_large", {"num_classes": 5}, (2, 3, 64, 64), "classifier.*"),
                ("torchvision:mc3_18", {"num_classes": 5}, (2, 3, 4, 32, 32), "layer1.0.*"),
            )
        ),
    ],
)
def test_safe_names_are_built_by_loading(tmp_path, builder, kwargs, shape, layers):
    torch.manual_seed(0)
    model, recipe = build_model(builder, kwargs), tenreo.Recipe(4, tenreo.Uniform(8.0), (layers,), refine=0)
    tenreo.compress_(model, recipe)
    path = tmp_path / "m.safetensors"
    tenreo.save(model, path, recipe=recipe, builder=builder, kwargs=kwargs)
    info = read_header(path).info
    assert (info.builder, info.kwargs, info.arch) == (builder, kwargs, None)
    x = torch.randn(shape)
    with torch.no_grad():
        wanted, found = model(x), tenreo.load(path)(x)
    if isinstance(wanted, dict):
        wanted, found = wanted["out"], found["out"]
    assert torch.equal(found, wanted)


def test_a_function_is_only_called_if_it_is_trusted(own_file, ownnet):
    model, path = own_file
    for fails in (lambda: tenreo.load(path), lambda: open_model(path, builder="timm:resnet10t")):
        with pytest.raises(TenreoError, match="ownnet:build"):
            fails()
    header = replace(read_header(path), info=replace(read_header(path).info, weights="own.safetensors"))
    with pytest.raises(TenreoError, match="is not called because a file names it"):
        open_dense(header, path)
    assert not (ownnet / "called").exists()
    assert torch.equal(tenreo.load(path, trust_builder=True)(X), model(X))
    assert torch.equal(open_model(path, builder="ownnet:build")[0](X), model(X))


def test_a_file_without_a_model_is_built_by_the_given_builder(ownnet):
    model = build_model("ownnet:build", {}, trusted=True)
    torch.save(model.state_dict(), "own.pth")
    tenreo.save(model, "own.safetensors")
    assert read_header(ownnet / "own.safetensors").info.builder is None
    for name in ("own.pth", "own.safetensors"):
        found, header = open_model(ownnet / name, builder="ownnet:build")
        assert torch.equal(found(X), model(X)) and header.info.builder == "ownnet:build"


def test_a_model_that_differs_from_its_builder_is_refused(ownnet):
    model = build_model("ownnet:build", {}, trusted=True)
    longer, other = nn.Sequential(nn.ReLU(), *model), nn.Sequential(*model[:2], nn.AdaptiveMaxPool2d(1), *model[3:])
    for changed, why in ((longer, "other names"), (other, "other outputs")):
        with pytest.raises(TenreoError, match=f"this model differs from ownnet:build: .*{why}"):
            tenreo.save(changed, "no.safetensors", builder="ownnet:build")
    assert not (ownnet / "no.safetensors").exists()


@pytest.mark.parametrize(
    ("builder", "kwargs", "match"),
    [
        ("timm:resnet10t", {"checkpoint_path": "/etc/passwd"}, "checkpoint_path .* may read files"),
        ("timm:resnet10t", {"pretrained": True}, "pretrained .* may read files"),
        ("timm:resnet10t", {"pretrained_cfg": "hf-hub:some/one"}, "may read files"),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}, "may read files"),
        ("torchvision:quantized_resnet18", {"quantize": True}, "quantize .* or run the model"),
        ("timm:resnet10t", {"num_classes": 10**12}, "num_classes .* is 1000000000000, but no dimension"),
        ("timm:resnet10t", {"layers": [1, 10**9, 1, 1]}, "layers .* but no dimension"),
        ("timm:resnet10t", {"nonsense": 3}, "cannot be built: .*nonsense"),
        ("timm:hf-hub:some/one", {}, "needs timm:NAME"),
        ("timm:../../x", {}, "needs timm:NAME"),
        ("timm:local-dir:/tmp", {}, "needs timm:NAME"),
        ("torchvision:nothing", {}, "torchvision has no model 'nothing'"),
        ("timm:nothing_at_all", {}, "timm has no model 'nothing_at_all'"),
        ("os:system", {}, "is not called because a file names it"),
        ("", {}, "needs timm:NAME"),
        ("a:b:c", {}, "needs timm:NAME"),
    ],
)
def test_a_file_cannot_cause_downloads_calls_or_large_models(own_file, builder, kwargs, match):
    with pytest.raises(TenreoError, match=match):
        tenreo.load(relabeled(own_file[1], builder=builder, kwargs=kwargs))


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_wrong_arguments_cause_no_download(monkeypatch, step):
    def connect(*_, **__):
        pytest.fail("a connection to the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, connect)
    # Models of other tasks than classification have backbones with weights of their own.
    names = [name for name in torchvision.models.list_models() if not hasattr(torchvision.models, name)]
    assert len(names) > 20
    for name in names[::step]:
        with pytest.raises(TenreoError, match=f"torchvision:{name} cannot be built"):
            build_model(f"torchvision:{name}", {"num_classes": "x"}, "meta")


def test_a_large_model_is_refused_by_its_shapes_before_it_takes_memory(own_file):
    path = relabeled(own_file[1], builder="timm:vit_giant_patch14_dinov2", kwargs={"num_classes": 2000})
    with pytest.raises(TenreoError, match="does not fit the model"):
        tenreo.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"kwargs": {"a": {"b": 1}}},
        {"kwargs": [1]},
        {"kwargs": {"a": "x" * 300}},
        {"builder": 3},
        {"builder": "x" * 300},
    ],
)
def test_invalid_metadata_are_refused(own_file, changes):
    with pytest.raises(TenreoError, match="the metadata cannot be understood"):
        tenreo.load(relabeled(own_file[1], **changes))


@pytest.mark.parametrize(
    ("builder", "match"),
    [
        ("ownnet:nothing", "cannot be imported: .*no attribute 'nothing'"),
        ("ownnet:value", "is of type int, needs a function"),
        ("nowhere:build", "there is no module 'nowhere'"),
        (".:build", "needs|there is no module"),
        ("ownnet.sub:build", "cannot be imported"),
    ],
)
def test_missing_functions_are_refused(ownnet, builder, match):
    with pytest.raises(TenreoError, match=match):
        check_model(builder)


@pytest.mark.parametrize(
    ("name", "match"), [("fails", "cannot be built: on purpose"), ("number", "returned an object of type int")]
)
def test_functions_that_fail_or_return_no_model(ownnet, name, match):
    with pytest.raises(TenreoError, match=match):
        build_model(f"ownnet:{name}", {}, trusted=True)


@pytest.mark.slow
def test_values_that_layers_cache_during_the_check_are_discarded(tmp_path):
    torch.manual_seed(0)
    model = build_model("timm:levit_128s", {"num_classes": 5})  # caches its attention biases in evaluation mode
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(8.0), ("stages.0.*",), refine=0))
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        before = model(x)
        tenreo.save(model, tmp_path / "m.safetensors", builder="timm:levit_128s", kwargs={"num_classes": 5})
        assert torch.equal(model(x), before) and torch.equal(tenreo.load(tmp_path / "m.safetensors")(x), before)


def test_architectures_have_shapes_without_memory():
    for arch in ("regnet_y_128gf", "vit_h_14", "vgg19"):
        assert all(p.is_meta for p in build_model(f"torchvision:{arch}", device="meta").parameters())

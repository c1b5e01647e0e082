"""A file names an architecture only if a plain model of it computes the same."""

import copy
import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.header import read_header
from tenreo.models.builders import build_model, with_transform
from tenreo.models.identification import identify, similar_architecture
from tenreo.models.model_info import model_info

X = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@cache
def initialized():
    torch.manual_seed(0)
    return torchvision.models.shufflenet_v2_x0_5(num_classes=7).eval()


def shufflenet():
    return copy.deepcopy(initialized())


class Reversed(torchvision.models.ShuffleNetV2):
    def forward(self, x):
        return super().forward(x.flip(1))


def replaced(path, module):
    def change(model):
        model.set_submodule(path, module)
        return model

    return change


def activations(model):
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU):
            model.set_submodule(name, nn.SiLU())
    return model


def other_eps(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.1
    return model


def own_forward(model):
    model.__class__ = Reversed
    return model


def bound_forward(model):
    plain = model.forward
    model.forward = lambda x: plain(2 * x)
    return model


def pre_hook(model):
    model.register_forward_pre_hook(lambda module, x: (2 * x[0],))
    return model


def buffer(model):
    model.register_buffer("seen", torch.zeros(3))
    return model


def dilated(_):
    torch.manual_seed(0)
    return torchvision.models.resnet50(num_classes=7, replace_stride_with_dilation=[False, True, True]).eval()


@pytest.mark.parametrize("change", [
    activations, other_eps, own_forward, bound_forward, pre_hook, buffer,
    replaced("conv1.0", nn.Conv2d(3, 24, 3, stride=1, padding=1, bias=False)),
    *(pytest.param(change, marks=pytest.mark.slow) for change in (
        replaced("maxpool", nn.Identity()), replaced("maxpool", nn.AvgPool2d(3, 2, 1)), dilated,
        replaced("stage4.1.branch2.4", nn.Identity()),
    )),
])  # fmt: skip
def test_a_changed_model_is_saved_without_an_architecture(tmp_path, change):
    model = change(shufflenet())
    assert similar_architecture(model).arch in ("shufflenet_v2_x0_5", "resnet50")
    tenreo.save(model, tmp_path / "m.safetensors")
    assert read_header(tmp_path / "m.safetensors").info.arch is None
    info = model_info("torchvision:shufflenet_v2_x0_5", {"num_classes": 7})
    with pytest.raises(
        TenreoError,
        match=r"save: this model differs from (shufflenet_v2_x0_5|resnet50) with 7 classes: .* names no architecture",
    ):
        tenreo.save(model, tmp_path / "n.safetensors", info)
    assert not (tmp_path / "n.safetensors").exists()


def test_a_changed_model_is_loaded_into_a_model_of_the_same_kind(tmp_path):
    model = activations(shufflenet())
    tenreo.compress_(model, tenreo.Recipe(8, tenreo.Uniform(4.0), ("stage2.0.*",), refine=0))
    tenreo.save(model, tmp_path / "m.safetensors")
    with pytest.raises(
        TenreoError, match=r"m\.safetensors: does not contain how to build the model; .*tenreo\.load\(path, model\)"
    ):
        tenreo.load(tmp_path / "m.safetensors")
    again = tenreo.load(tmp_path / "m.safetensors", activations(shufflenet()))
    assert torch.equal(again(X), model(X))


@pytest.mark.parametrize("transform", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_transform_input_is_stored(tmp_path, transform):
    model = torchvision.models.googlenet(
        num_classes=5, transform_input=transform, aux_logits=False, init_weights=False
    ).eval()
    tenreo.save(model, tmp_path / "m.safetensors")
    info = read_header(tmp_path / "m.safetensors").info
    assert (info.arch, info.transform_input) == ("googlenet", transform)
    assert torch.equal(tenreo.load(tmp_path / "m.safetensors")(X), model(X))
    # In files of earlier versions it follows from the name of the weights.
    fields = {"arch": "googlenet", "weights": "IMAGENET1K_V1"}
    assert with_transform(tenreo.ModelInfo.from_dict(fields)).transform_input is True
    assert with_transform(tenreo.ModelInfo.from_dict({**fields, "arch": "shufflenet_v2_x0_5"})).transform_input is None


@pytest.mark.parametrize("dtype", [
    torch.float32, torch.bfloat16,
    *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float64, torch.float16)),
])  # fmt: skip
def test_plain_models_are_recognized_in_every_dtype(dtype):
    assert identify(build_model("torchvision:mobilenet_v2", {"num_classes": 10}).to(dtype)).arch == "mobilenet_v2"


def test_zero_parameters_do_not_hide_a_change():
    """Like that of torchvision's transformers, the last layer is initialized with zeros, so all logits are zero."""
    model = shufflenet()
    nn.init.zeros_(model.fc.weight), nn.init.zeros_(model.fc.bias)
    assert identify(model).arch == "shufflenet_v2_x0_5"
    model.stage3[1].branch2[2] = nn.SiLU()
    assert not model(X).any() and identify(model).arch is None


def test_identifying_a_model_does_not_change_it():
    model = shufflenet().train()
    model.stage2.eval()
    tenreo.compress_(model, tenreo.Recipe(8, tenreo.Uniform(4.0), ("stage2.0.*",), refine=0))
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    numbers = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    calls = []
    assert identify(model).arch == "shufflenet_v2_x0_5"
    model.stage2.register_forward_hook(lambda *_: calls.append(1))
    assert identify(model).arch is None and not calls
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(numbers[0], torch.random.get_rng_state()) and random.getstate() == numbers[2]
    assert (numbers[1] == np.random.get_state()[1]).all()
    assert not any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("wrap", [
    lambda m: nn.DataParallel(AveragedModel(torch.compile(m))),
    *(pytest.param(wrap, marks=pytest.mark.slow) for wrap in (nn.DataParallel, AveragedModel, torch.compile)),
])  # fmt: skip
def test_wrapped_models_are_saved_like_the_models_inside(tmp_path, wrap):
    model = shufflenet()
    tenreo.save(model, tmp_path / "m.safetensors")
    tenreo.save(wrap(model), tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    assert torch.equal(tenreo.load(tmp_path / "w.safetensors", nn.DataParallel(shufflenet())).module(X), model(X))


def test_an_info_that_a_file_cannot_store_is_refused(tmp_path):
    info = model_info("torchvision:shufflenet_v2_x0_5", {"num_classes": 7})
    big = replace(info.preprocess, crop=50_000)
    for wrong, match in (
        (replace(info, preprocess=big), "info: crop 50000, needs a whole number of 1 to 1,024"),
        (replace(info, classes=True), "info: classes True"),
        (replace(info, classes=8), r"its tensors have other names or shapes \(fc.bias, fc.weight\)"),
        (replace(info, arch="resnet99"), "torchvision has no model 'resnet99'"),
    ):
        with pytest.raises(TenreoError, match=match):
            tenreo.save(shufflenet(), tmp_path / "m.safetensors", wrong)
    strange = replace(info, weights="a\x1b[2Jb\n.pth")
    tenreo.save(shufflenet(), tmp_path / "m.safetensors", strange)
    assert read_header(tmp_path / "m.safetensors").info.weights == "a\\x1b[2Jb\\n.pth"

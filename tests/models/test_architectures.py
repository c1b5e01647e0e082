"""Torchvision's architectures, their names and weights."""

import os
import re

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import tenreo
from tenreo.errors import TenreoError
from tenreo.models.architectures import build, default_info
from tenreo.models.names import architecture_names, check_architecture
from tenreo.models.pretrained import check_weights, named_architecture, weights_name, with_weights


def test_weights_files(tmp_path):
    model = build("resnet18", 5, "none")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        loaded, info = with_weights("resnet18", str(tmp_path / name))
        assert info.classes == 5 and torch.equal(loaded.fc.weight, model.fc.weight)
    with pytest.raises(TenreoError, match=r"missing: layer1\.2\.conv1\.weight, .*77 more; these are names of resnet18"):
        with_weights("resnet34", str(tmp_path / "w.pth"))
    with pytest.raises(TenreoError, match="neither a file, nor none, nor one of IMAGENET1K_V1"):
        with_weights("resnet18", "IMAGENET22K")
    with pytest.raises(TenreoError, match="no classification architecture 'resnet51'"):
        with_weights("resnet51", "none")


def test_weights_that_can_not_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(
        TenreoError, match=r"https://.*resnet18-.*\.pth can not be downloaded.*put resnet18-.*none for random weights"
    ):
        with_weights("resnet18", None)


def test_names_are_torchvisions():
    assert list(architecture_names()) == torchvision.models.list_models(module=torchvision.models)


def test_a_misspelled_name_is_told_what_there_is():
    check_architecture("resnet50")
    with pytest.raises(TenreoError, match=r"arch: .*no classification architecture 'resnet51'; such as .*resnet50"):
        check_architecture("resnet51")
    with pytest.raises(TenreoError, match=r"'fcn_resnet50'; such as .*mobilenet_v2"):  # it segments
        check_architecture("fcn_resnet50")


@pytest.mark.parametrize("arch", ["resnet50", "mobilenet_v2", "vit_b_16", "inception_v3"])
def test_the_info_of_an_architecture_is_that_of_its_weights(arch):
    info = default_info(arch)
    weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    preset = weights.transforms()
    assert (info.arch, info.classes, info.weights) == (arch, len(weights.meta["categories"]), "IMAGENET1K_V1")
    assert (info.preprocess.resize, info.preprocess.crop) == (preset.resize_size[0], preset.crop_size[0])
    assert (list(info.preprocess.mean), list(info.preprocess.std)) == (preset.mean, preset.std)
    assert info.preprocess.interpolation == preset.interpolation.value


def test_compressed_weights_and_those_of_another_architecture_are_refused(saved_file):
    with pytest.raises(TenreoError, match="is compressed already; give the dense weights"):
        with_weights("resnet18", str(saved_file[2]))
    with pytest.raises(TenreoError, match="holds resnet18, given the architecture resnet34"):
        with_weights("resnet34", str(saved_file[2]))


def test_random_weights_follow_their_seed():
    first, again, other = (with_weights("mobilenet_v2", "none", seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])


def test_weights_by_the_names_of_torchvisions_classes(tmp_path):
    assert weights_name("resnet18", "ResNet18_Weights.IMAGENET1K_V1") == "IMAGENET1K_V1"
    assert (
        weights_name("resnet50", "ResNet50_Weights.DEFAULT") == weights_name("resnet50", "DEFAULT") == "IMAGENET1K_V2"
    )
    assert weights_name("resnet50", None) == "IMAGENET1K_V1"
    assert named_architecture("ResNet50_Weights.IMAGENET1K_V2") == "resnet50"
    with pytest.raises(TenreoError, match=r"those of resnet18 are ResNet18_Weights\.IMAGENET1K_V1"):
        check_weights("resnet18", "ResNet50_Weights.IMAGENET1K_V1")
    with pytest.raises(TenreoError, match=r"those of resnet18 are ResNet18_Weights\.IMAGENET1K_V1"):
        check_weights("resnet18", "ResNet18_Weights.IMAGENET1K_V9")
    os.mkfifo(tmp_path / "pipe")
    for weights, why in ((tmp_path, "a folder"), (tmp_path / "pipe", "a pipe")):
        with pytest.raises(TenreoError, match=f"cannot be opened: it is {why}"):
            check_weights("resnet18", str(weights))
    for weights in ("x" * 5000, "a\0b", "\x1b[2J"):
        with pytest.raises(TenreoError, match=r"weights: .* is neither a file, nor none"):
            check_weights("resnet18", weights)


def test_our_own_dense_file_names_its_architecture(dense_file, tmp_path):
    model, info = with_weights(None, str(dense_file))
    assert (info.arch, info.classes, type(model).__name__) == ("mobilenet_v2", 10, "MobileNetV2")
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.pth")
    for weights in (None, "none", "DEFAULT", str(tmp_path / "m.safetensors"), str(tmp_path / "m.pth")):
        with pytest.raises(TenreoError, match=r"arch: given none, and the weights .* do not name it"):
            with_weights(None, weights)
    with pytest.raises(TenreoError, match=r"nowhere\.pth: cannot be opened"):
        with_weights(None, "nowhere.pth")


def test_what_does_not_fit_is_named_in_short(tmp_path):
    def refused(state, arch="resnet18"):
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(TenreoError) as caught:
            with_weights(arch, str(tmp_path / "w.pth"))
        assert len(str(caught.value)) < 700
        return str(caught.value)

    said = refused(build("mobilenet_v2", 5, "none").state_dict())
    assert re.search(r"missing: conv1\.weight, bn1\.weight, bn1\.bias and \d+ more; not expected: classifier", said)
    assert said.endswith("; these are names of mobilenet_v2")
    assert refused(build("wide_resnet50_2").state_dict(), "resnet50").endswith("; these are names of wide_resnet50_2")
    timm = {f"blocks.{i}.0.conv_dw.weight": torch.zeros(3) for i in range(3000)}
    assert "timm's models" in refused({"conv_stem.weight": torch.zeros(1), **timm})
    assert "these are names" not in refused({f"mine.{i}": torch.zeros(1) for i in range(30)})
    with pytest.raises(TenreoError, match=r"shape: fc.weight .*; these weights have 5 classes, the model has 7$"):
        save_file(build("resnet18", 5).state_dict(), tmp_path / "w.safetensors")
        tenreo.load(tmp_path / "w.safetensors", build("resnet18", 7))


def test_every_architecture_has_shapes_without_memory():
    for arch in ("regnet_y_128gf", "vit_h_14", "vgg19"):
        assert all(p.is_meta for p in build(arch, device="meta").parameters())


def test_weights_that_torchvision_downloads_are_known_by_the_name_of_their_file(tmp_path):
    """A file does not say that GoogLeNet's first weights want another input."""
    state = build("googlenet", 1000).state_dict()
    for name, transform in (("googlenet-1378be20.pth", True), ("mine.pth", False)):
        torch.save(state, tmp_path / name)
        model, info = with_weights("googlenet", str(tmp_path / name))
        assert (model.transform_input, info.transform_input, info.weights) == (transform, transform, name)

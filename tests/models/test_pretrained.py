"""Models with weights: by name, from files, and random ones."""

import os
import re

import pytest
import torch
from safetensors.torch import save_file

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.records import ModelInfo
from tenreo.models.builders import build_info, build_model
from tenreo.models.pretrained import find_weights, with_weights


def resnet18(classes):
    return build_model("torchvision:resnet18", {"num_classes": classes})


def test_weights_are_read_from_files(tmp_path):
    model = resnet18(5)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        loaded, info = with_weights("torchvision:resnet18", str(tmp_path / name))
        assert (info.arch, info.classes, info.weights) == ("resnet18", 5, str(tmp_path / name))
        assert torch.equal(loaded.fc.weight, model.fc.weight)
    with pytest.raises(TenreoError, match=r"missing: layer1\.2\.conv1\.weight, .*77 more; these are names of resnet18"):
        with_weights("torchvision:resnet34", str(tmp_path / "w.pth"))
    with pytest.raises(TenreoError, match="neither a file, nor none, nor one of IMAGENET1K_V1"):
        with_weights("torchvision:resnet18", "IMAGENET22K")
    with pytest.raises(TenreoError, match="torchvision has no model 'resnet51'"):
        with_weights("torchvision:resnet51", "none")


def test_a_failed_download_names_the_file_and_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(
        TenreoError, match=r"https://.*resnet18-.*\.pth cannot be downloaded.*put resnet18-.*none for random weights"
    ):
        with_weights("torchvision:resnet18", None)


def test_compressed_weights_and_those_of_another_architecture_are_refused(saved_file):
    with pytest.raises(TenreoError, match="is already compressed; give the file of the dense weights"):
        with_weights("torchvision:resnet18", str(saved_file[2]))
    with pytest.raises(TenreoError, match=r"given torchvision:resnet34, but m\.safetensors names torchvision:resnet18"):
        with_weights("torchvision:resnet34", str(saved_file[2]))


def test_random_weights_follow_their_seed():
    models = [with_weights("torchvision:mobilenet_v2", "none", seed)[0] for seed in (1, 1, 2)]
    first, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])


def test_weights_are_named_by_torchvisions_enumerations(tmp_path):
    def name(arch, weights):
        return find_weights(f"torchvision:{arch}", weights).name

    assert name("resnet18", "ResNet18_Weights.IMAGENET1K_V1") == "IMAGENET1K_V1"
    assert name("resnet50", "ResNet50_Weights.DEFAULT") == name("resnet50", "DEFAULT") == "IMAGENET1K_V2"
    assert name("resnet50", None) == "IMAGENET1K_V1"
    assert find_weights("torchvision:resnet50", "none") is find_weights("timm:resnet10t", None) is None
    for weights in ("ResNet50_Weights.IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V9", "x" * 5000, "a\0b", "\x1b[2J"):
        with pytest.raises(TenreoError, match=r"weights: .* is neither a file, nor none, nor one of IMAGENET1K_V1"):
            find_weights("torchvision:resnet18", weights)
    os.mkfifo(tmp_path / "pipe")
    for weights, why in ((tmp_path, "a folder"), (tmp_path / "pipe", "a pipe")):
        with pytest.raises(TenreoError, match=f"cannot be opened: it is {why}"):
            find_weights("torchvision:resnet18", str(weights))


def test_the_info_of_a_dense_file_is_used(dense_file, small):
    model, info = with_weights("torchvision:shufflenet_v2_x0_5", str(dense_file))
    assert (info.arch, info.classes, info.preprocess) == ("shufflenet_v2_x0_5", 10, small)
    assert type(model).__name__ == "ShuffleNetV2"


@pytest.mark.slow
def test_errors_about_tensors_that_do_not_fit_are_short(tmp_path):
    def error_of(state, arch="resnet18"):
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(TenreoError) as caught:
            with_weights(f"torchvision:{arch}", str(tmp_path / "w.pth"))
        assert len(str(caught.value)) < 700
        return str(caught.value)

    message = error_of(build_model("torchvision:mobilenet_v2", {"num_classes": 5}).state_dict())
    assert re.search(r"missing: conv1\.weight, bn1\.weight, bn1\.bias and \d+ more; not expected: classifier", message)
    assert message.endswith("; these are names of mobilenet_v2")
    wide = build_model("torchvision:shufflenet_v2_x1_0").state_dict()
    assert error_of(wide, "shufflenet_v2_x0_5").endswith("; these are names of shufflenet_v2_x1_0")
    timm = {f"blocks.{i}.0.conv_dw.weight": torch.zeros(3) for i in range(3000)}
    assert "timm's models" in error_of({"conv_stem.weight": torch.zeros(1), **timm})
    assert "these are names" not in error_of({f"mine.{i}": torch.zeros(1) for i in range(30)})
    with pytest.raises(TenreoError, match=r"shape: fc.weight .*; these weights have 5 classes, the model has 7$"):
        save_file(resnet18(5).state_dict(), tmp_path / "w.safetensors")
        tenreo.load(tmp_path / "w.safetensors", resnet18(7))


def test_classes_and_auxiliary_outputs_follow_from_weights(tmp_path):
    for builder, kwargs in (
        ("timm:resnet10t", {"num_classes": 7}),
        ("torchvision:deeplabv3_mobilenet_v3_large", {"aux_loss": True, "num_classes": 5}),
    ):  # fmt: skip
        dense = build_model(builder, kwargs)
        torch.save(dense.state_dict(), tmp_path / "w.pth")
        loaded, info = with_weights(builder, str(tmp_path / "w.pth"))
        assert info.kwargs == kwargs and info.weights == str(tmp_path / "w.pth")
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), dense.parameters(), strict=True))


@pytest.mark.parametrize("arch", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_auxiliary_heads_of_classifiers_are_dropped(arch, tmp_path):
    state = build_model(
        f"torchvision:{arch}", {"aux_logits": True, "num_classes": 5, "init_weights": False}
    ).state_dict()
    torch.save(state, tmp_path / "w.pth")
    model, info = with_weights(f"torchvision:{arch}", str(tmp_path / "w.pth"))
    assert (info.arch, info.classes, info.transform_input) == (arch, 5, False)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert any(name not in model.state_dict() for name in state)


def test_torchvisions_own_files_are_recognized_by_their_names(tmp_path):
    """A file does not contain that GoogLeNet's first weights need a transformed input."""
    state = build_info(ModelInfo("googlenet")).state_dict()
    for name, transform in (("googlenet-1378be20.pth", True), ("mine.pth", False)):
        torch.save(state, tmp_path / name)
        model, info = with_weights("torchvision:googlenet", str(tmp_path / name))
        assert (model.transform_input, info.transform_input) == (transform, transform)
        assert info.weights == str(tmp_path / name)


def test_common_differences_of_checkpoints_are_noted(tmp_path):
    """Counters that were cast with the model, prefixes of training programs, and tensors of other parts."""
    model, notes = build_model("torchvision:shufflenet_v2_x0_5", {"num_classes": 5}), []
    model.conv1[1].num_batches_tracked.fill_(1000)
    halves = {name: value.half() for name, value in model.state_dict().items()}
    halves["conv5.1.num_batches_tracked"] = torch.tensor(torch.inf, dtype=torch.float16)
    prefixed = {f"model.{name}": value for name, value in halves.items()}
    for state, extra in ((halves, {}), (prefixed, {"model.ema.decay": torch.ones(3)})):
        save_file({**state, **extra}, tmp_path / "w.safetensors")
        torch.save({**state, **extra}, tmp_path / "w.pth")
        for name in ("w.safetensors", "w.pth"):
            notes.clear()
            options = {"ignore_extra": bool(extra), "note": notes.append}
            loaded, info = with_weights("torchvision:shufflenet_v2_x0_5", str(tmp_path / name), **options)
            assert info.classes == 5 and torch.equal(loaded.fc.weight, model.fc.weight.half().float())
            assert loaded.conv1[1].num_batches_tracked == 1000 and loaded.conv5[1].num_batches_tracked == 0
            text = "; ".join(notes)
            assert "counters of batches (num_batches_tracked) are floating-point" in text
            assert ("without the prefix model." in text) == (state is prefixed and name == "w.safetensors")
            assert ("ignored: 1 tensor that the model does not have: ema.decay" in text) == bool(extra)
    torch.save({name: value.numpy() for name, value in halves.items()}, tmp_path / "arrays.pth")
    notes.clear()
    loaded, _ = with_weights("torchvision:shufflenet_v2_x0_5", str(tmp_path / "arrays.pth"), note=notes.append)
    assert torch.equal(loaded.fc.weight, model.fc.weight.half().float())
    assert f"{len(halves)} of its values, such as conv1.0.weight, are NumPy arrays" in notes[0]
    with pytest.raises(TenreoError, match=r"not expected: ema\.decay"):
        with_weights("torchvision:shufflenet_v2_x0_5", str(tmp_path / "w.pth"))

"""Headers and the files behind them: what is damaged or hostile is refused by name."""

import json

import numpy as np
import pytest
import torch
from oracle import cosine_matrix
from processes import DATA
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.header import read_header


def metadata_of(path):
    with safe_open(path, framework="np") as file:
        return dict(file.metadata())


def test_files_of_version_1_load():
    path = DATA / "version1.safetensors"
    tensors, header = load_file(path), read_header(path)
    skeleton = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 128))
    weight = tenreo.load(path, skeleton)[4].weight
    coefficients, positions = tensors["4.weight.coefficients"], tensors["4.weight.positions"]
    assert metadata_of(path)["tenreo.version"] == "1" and positions.dtype == torch.int32
    curve = coefficients.double().numpy() @ cosine_matrix(1024)[: coefficients.shape[1]]
    np.testing.assert_allclose(weight.detach(), curve[:, positions.numpy()].reshape(128, 32), atol=1e-5)
    counts = header.counts()
    assert (counts.positions, counts.coefficients, header.recipe["refine"]) == (1024, coefficients.numel(), 2)
    assert counts.bytes == sum(t.numel() * t.element_size() for t in tensors.values())
    assert header.dense_counts().bytes == counts.bytes - 4 * (1024 + coefficients.numel()) + 4 * 4096


def set_version(tensors, metadata):
    metadata["tenreo.version"] = "3"


def leave_range(tensors, metadata):
    tensors["fc.weight.positions"][:] = 255  # all positions are 511


def old_and_negative(tensors, metadata):
    layers = json.loads(metadata["tenreo.layers"])
    layers["fc"]["position_bits"] = 32
    metadata["tenreo.layers"] = json.dumps(layers)
    tensors["fc.weight.positions"] = torch.full((448,), -1, dtype=torch.int32)


def wrong_bits(tensors, metadata):
    layers = json.loads(metadata["tenreo.layers"])
    layers["fc"]["position_bits"] = 10
    metadata["tenreo.layers"] = json.dumps(layers)


def unknown_precision(tensors, metadata):
    layers = json.loads(metadata["tenreo.layers"])
    layers["fc"]["precision"] = "int5"
    metadata["tenreo.layers"] = json.dumps(layers)


def wide_positions(tensors, metadata):
    tensors["fc.weight.positions"] = tensors["fc.weight.positions"].long()


def not_finite(tensors, metadata):
    tensors["layer1.0.bn1.running_var"][0] = torch.inf


def lose_positions(tensors, metadata):
    del tensors["fc.weight.positions"]


def lose_dense(tensors, metadata):
    del tensors["fc.bias"]


def extra(tensors, metadata):
    tensors["fc.extra"] = torch.zeros(1)


def cut_coefficients(tensors, metadata):
    tensors["fc.weight.coefficients"] = tensors["fc.weight.coefficients"][:, :-1].clone()


def wrong_layer(tensors, metadata):
    layers = json.loads(metadata["tenreo.layers"])
    layers["fc"]["shape"] = [512, 7]
    metadata["tenreo.layers"] = json.dumps(layers)


def broken_json(tensors, metadata):
    metadata["tenreo.layers"] = "{"


def huge_curve(tensors, metadata):
    layers = json.loads(metadata["tenreo.layers"])
    layers["fc"]["length"] = 10**12
    metadata["tenreo.layers"] = json.dumps(layers)


def strange_classes(tensors, metadata):
    metadata["tenreo.model"] = json.dumps({"arch": "resnet18", "classes": "many"})


def model_info(**values):
    def attack(tensors, metadata):
        metadata["tenreo.model"] = json.dumps({"arch": "resnet18", "classes": 7, **values})

    return attack


def a_layer(**values):
    def attack(tensors, metadata):
        layers = json.loads(metadata["tenreo.layers"])
        layers["fc"] |= values
        metadata["tenreo.layers"] = json.dumps(layers)

    return attack


def deep_json(tensors, metadata):
    metadata["tenreo.recipe"] = "[" * 100_000


def long_version(tensors, metadata):
    metadata["tenreo.version"] = "1" * 5000


def unnamed_layer(tensors, metadata):
    layers = json.loads(metadata["tenreo.layers"])
    del layers["fc"]
    metadata["tenreo.layers"] = json.dumps(layers)


@pytest.mark.parametrize(
    ("attack", "match"),
    [
        (set_version, "format version '3', this tenreo reads up to 2"),
        (leave_range, r"fc.weight.positions leaves \[0, 448\)"),
        (wrong_bits, "fc: impossible layer"),
        (unknown_precision, "metadata can not be understood: fc: precision 'int5'"),
        (old_and_negative, r"fc.weight.positions leaves \[0, 448\)"),
        (wide_positions, "fc.weight.positions is I64"),
        (not_finite, "layer1.0.bn1.running_var holds NaN or infinity"),
        (lose_positions, "fc.weight.positions is missing"),
        (lose_dense, "missing: fc.bias"),
        (extra, "not expected: fc.extra"),
        (cut_coefficients, r"fc.weight.coefficients is F32 .* needs"),
        (wrong_layer, r"no layer fc of shape \[512, 7\]"),
        (huge_curve, "fc: impossible layer"),
        (strange_classes, "metadata can not be understood: classes 'many'"),
        (model_info(classes=10**7), "metadata can not be understood: classes 10000000"),
        (model_info(classes=True), "metadata can not be understood: classes True"),
        (model_info(preprocess={"std": [0, 0, 0]}), "metadata can not be understood: std 0, needs a number"),
        (model_info(preprocess={"interpolation": "foo"}), "metadata can not be understood: interpolation 'foo'"),
        (a_layer(groups=float("inf")), "metadata can not be understood"),
        (a_layer(snr=-1e5), "metadata can not be understood: fc: snr -100000.0, needs"),
        (a_layer(signal=float("nan")), "metadata can not be understood: NaN is no number"),
        (deep_json, "metadata can not be understood"),
        (long_version, "format version '1111"),
        (broken_json, "metadata can not be understood"),
        (unnamed_layer, "tenreo.layers does not name it"),
    ],
)
def test_refuses_damaged_files(saved_file, tmp_path, attack, match):
    tensors, metadata = load_file(saved_file[2]), metadata_of(saved_file[2])
    attack(tensors, metadata)
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(TenreoError, match=match):
        tenreo.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("content", [b"", b"x", b"\x00" * 100, b"{}", b"PK\x03\x04"])
def test_refuses_what_is_no_file_of_ours(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(TenreoError, match=r"x\.safetensors: can not be read"):
        tenreo.load(path)


def test_truncated_file(saved_file, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved_file[2].read_bytes()[:-100])
    with pytest.raises(TenreoError, match="can not be read as safetensors"):
        tenreo.load(path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickle_is_never_executed(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(TenreoError, match="can not be read as a torch file of plain tensors"):
        tenreo.load(tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_pickles_are_refused(tmp_path, legacy):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 5):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        with pytest.raises(TenreoError, match=r"x\.pth"):
            tenreo.load(path)

"""Headers of safetensors files: damaged and hostile files are refused, and the message names the fault."""

import json
import os
import shutil
import threading
import zlib
from pathlib import Path

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
from tenreo.files.records import ModelInfo
from tenreo.models.pretrained import with_weights
from tenreo.models.reference import read_any


def metadata_of(path):
    with safe_open(path, framework="np") as file:
        return dict(file.metadata())


def test_files_of_version_1_are_loaded():
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
    assert counts.bytes == path.stat().st_size
    stored = sum(t.numel() * t.element_size() for t in tensors.values())
    assert header.dense_counts().bytes == stored - 4 * (1024 + coefficients.numel()) + 4 * 4096


def set_version(tensors, metadata):
    metadata["tenreo.version"] = "6"


def store_uncoded_positions(metadata, bits):
    """Describe the positions of fc as packed or int32, as in earlier versions."""
    layers = json.loads(metadata["tenreo.layers"])
    del layers["fc"]["positions"]
    layers["fc"]["position_bits"] = bits
    metadata["tenreo.layers"] = json.dumps(layers)


def positions_out_of_range(tensors, metadata):
    store_uncoded_positions(metadata, 9)
    tensors["fc.weight.positions"] = torch.full((448 * 9 // 8,), 255, dtype=torch.uint8)  # all positions are 511


def flip_a_byte(tensors, metadata):
    tensors["fc.weight.positions"][40] ^= 16


def cut_positions(tensors, metadata):
    tensors["fc.weight.positions"] = tensors["fc.weight.positions"][:-3].clone()


def flip_the_checksum(tensors, metadata):
    tensors["fc.weight.positions"][2] ^= 1


def long_positions(tensors, metadata):
    tensors["fc.weight.positions"] = torch.zeros(600, dtype=torch.uint8)


def negative_int32_positions(tensors, metadata):
    store_uncoded_positions(metadata, 32)
    tensors["fc.weight.positions"] = torch.full((448,), -1, dtype=torch.int32)


def wide_positions(tensors, metadata):
    tensors["fc.weight.positions"] = tensors["fc.weight.positions"].long()


def not_finite(tensors, metadata):
    tensors["layer1.0.bn1.running_var"][0] = torch.inf


def remove_positions(tensors, metadata):
    del tensors["fc.weight.positions"]


def remove_dense_tensor(tensors, metadata):
    del tensors["fc.bias"]


def add_tensor(tensors, metadata):
    tensors["fc.extra"] = torch.zeros(1)


def cut_coefficients(tensors, metadata):
    tensors["fc.weight.coefficients"] = tensors["fc.weight.coefficients"][:, :-1].clone()


def model_info(**values):
    def attack(tensors, metadata):
        metadata["tenreo.model"] = json.dumps({"arch": "resnet18", "classes": 7, **values})

    return attack


def layer_record(**values):
    def attack(tensors, metadata):
        layers = json.loads(metadata["tenreo.layers"])
        layers["fc"] |= values
        metadata["tenreo.layers"] = json.dumps(layers)

    return attack


def long_version(tensors, metadata):
    metadata["tenreo.version"] = "1" * 5000


def json_text(key, text):
    def attack(tensors, metadata):
        metadata[f"tenreo.{key}"] = text

    return attack


def preprocess(**values):
    return model_info(preprocess=values)


def corrected(**values):
    correction = {"source": "noise", "images": 512, "batchnorms": 3, "biases": 0, **values}
    return model_info(corrections=[correction])


def nested(depth, inside="1"):
    return "[" * depth + inside + "]" * depth


def name_with_control_characters(tensors, metadata):
    tensors["fc.\x1b[2Jbias"] = tensors.pop("fc.bias")


def long_name(tensors, metadata):
    tensors["x" * 100_000] = torch.zeros(1)


def negative_variance(tensors, metadata):
    tensors["layer1.0.bn1.running_var"][0] = -1e-3


def float8(tensors, metadata):
    tensors["fc.bias"] = tensors["fc.bias"].to(torch.float8_e4m3fn)


def integer_weight(tensors, metadata):
    tensors["conv1.weight"] = tensors["conv1.weight"].to(torch.int8)


def undescribed_layer(tensors, metadata):
    layers = json.loads(metadata["tenreo.layers"])
    del layers["fc"]
    metadata["tenreo.layers"] = json.dumps(layers)


@pytest.mark.parametrize(
    ("attack", "match"),
    [
        (set_version, "has format version '6', but this tenreo reads versions up to 5"),
        (positions_out_of_range, r"fc.weight.positions has values outside \[0, 448\)"),
        (flip_a_byte, r"fc\.weight: positions: .*damaged"),
        (cut_positions, r"fc\.weight: positions: .*damaged"),
        (flip_the_checksum, r"fc\.weight: positions: .*damaged"),
        (long_positions, r"fc\.weight\.positions is U8 \[600\], needs U8 at most \[509\]"),
        (layer_record(memory=1), "fc: memory 1, needs a whole number of 2 to 8"),
        (layer_record(memory=3), "fc: impossible layer"),
        (layer_record(basis="ramp"), "fc: impossible layer"),
        (layer_record(basis="ramp", groups=1, kept=3, length=2**24 + 1, position_bits=25), "fc: impossible layer"),
        (layer_record(basis="ramp", groups=1, kept=3, length=2, position_bits=1), "fc: impossible layer"),
        (layer_record(basis="spline"), "fc: basis 'spline', needs one of ramp"),
        (layer_record(positions="squeezed"), "fc: positions 'squeezed', needs one of coded"),
        (layer_record(position_bits=10), "fc: impossible layer"),
        (layer_record(precision="int5"), "metadata cannot be understood: fc: precision 'int5'"),
        (negative_int32_positions, r"fc.weight.positions has values outside \[0, 448\)"),
        (wide_positions, "fc.weight.positions is I64"),
        (not_finite, "layer1.0.bn1.running_var contains NaN or infinity"),
        (remove_positions, "fc.weight.positions is missing"),
        (remove_dense_tensor, "missing: fc.bias"),
        (add_tensor, "not expected: fc.extra"),
        (cut_coefficients, r"fc.weight.coefficients is F32 .* needs"),
        (layer_record(shape=[512, 7]), r"no layer fc of shape \[512, 7\]"),
        (layer_record(length=10**12), "fc: impossible layer"),
        (model_info(classes="many"), "metadata cannot be understood: classes 'many'"),
        (model_info(classes=10**7), "metadata cannot be understood: classes 10000000"),
        (model_info(classes=True), "metadata cannot be understood: classes True"),
        (model_info(preprocess={"std": [0, 0, 0]}), "metadata cannot be understood: std 0, needs a number"),
        (model_info(preprocess={"interpolation": "foo"}), "metadata cannot be understood: interpolation 'foo'"),
        (layer_record(groups=float("inf")), "metadata cannot be understood"),
        (layer_record(snr=-1e5), "metadata cannot be understood: fc: snr -100000.0, needs"),
        (layer_record(signal=float("nan")), "metadata cannot be understood: NaN is not a finite number"),
        (json_text("recipe", "[" * 100_000), "metadata cannot be understood"),
        (long_version, "format version '1111"),
        (json_text("layers", "{"), "metadata cannot be understood"),
        (undescribed_layer, "fc has coefficients and positions, but is not in tenreo.layers"),
        (name_with_control_characters, r"the name .* is not printable"),
        (long_name, r"the name 'xxx.*xxx' is not printable, or has more than 1,000 characters"),
        (negative_variance, "layer1.0.bn1.running_var contains a negative variance"),
        (float8, "fc.bias: dtype 'F8_E4M3', needs one of"),
        (integer_weight, "conv1.weight is torch.int8, the model's is torch.float32"),
        (model_info(arch="resnet18\nwrote x"), r"given 'torchvision:resnet18\\+nwrote x'"),
        (model_info(arch="\x1b[2J" * 10), r"given 'torchvision:\\+x1b\[2J"),
        (model_info(arch="\ud800"), r"given 'torchvision:\\+ud800'"),
        (model_info(arch="x" * 10**6), "arch 'xxx.*needs a string of at most 255 characters"),
        (model_info(arch=["resnet18"]), r"arch \['resnet18'\], needs a string"),
        (model_info(weights=3), "weights 3, needs a string"),
        (model_info(classes=0), "classes 0, needs a whole number of 1 to 100,000"),
        (model_info(classes=7.0), "classes 7.0, needs a whole number"),
        (preprocess(crop=9999), "crop 9999, needs a whole number of 1 to 1,024"),
        (preprocess(resize=True), "resize True, needs a whole number"),
        (preprocess(resize=1e3), "resize 1000.0, needs a whole number"),
        (preprocess(mean=[]), "mean has 0 and std has 3 numbers, needs 3 or 1"),
        (preprocess(mean=[], std=[]), "mean has 0 and std has 0 numbers"),
        (preprocess(std=[1] * 5), "std has 5 numbers, needs 3 or 1"),
        (preprocess(std=[1e-320] * 3), "std 1e-320, needs a number of 1e-06 to 1000"),
        (preprocess(mean=[True] * 3), "mean True, needs a number"),
        (preprocess(mean=["0.5"] * 3), "mean '0.5', needs a number"),
        (preprocess(mean="0.5"), "mean '0.5', needs a list"),
        (model_info(class_names=["a"]), "class_names .'a'., needs 7 different names"),
        (model_info(class_names=["a"] * 7), "needs 7 different names"),
        (model_info(class_names=[*"abcdef", 7]), "needs 7 different names"),
        (model_info(class_names=[*"abcdef", ""]), "needs 7 different names"),
        (model_info(class_names=["a"], classes=None), "class_names .'a'., needs a list of at most 0"),
        (model_info(preprocess=[1]), r"\[1\] is not an object"),
        (model_info(corrections={"a": 1}), "needs a list of at most 100"),
        (model_info(corrections=[{}] * 1000), "needs a list of at most 100"),
        (corrected(source=json.loads(nested(5))), r"source \[.*needs a string"),
        (corrected(images=True), "images True, needs a whole number"),
        (corrected(images=-1), "images -1, needs a whole number"),
        (corrected(note="x" * 9000), "note 'xxx.*needs a string of at most 5,000"),
        (json_text("model", '{"corrections": [{"source": ' + nested(970) + "}]}"), "is nested "),
        (json_text("model", '{"classes": ' + "9" * 4200 + "}"), "a number has 4,200 digits, needs at most 20"),
        (json_text("model", '{"classes": -' + "9" * 5000 + "}"), "a number has 5,001 digits"),
        (json_text("model", '{"classes": 1e999}'), "classes inf, needs a whole number"),
        (json_text("model", "[]"), r"\[\] is not an object"),
        (json_text("model", '{"arch": "resnet18", "\\u001b[2J": 1}'), "is not printable"),
        (json_text("recipe", nested(970)), "is nested "),
        (json_text("recipe", nested(20)), "nested deeper than 8 levels"),
        (json_text("recipe", '{"groups": ' + "9" * 4200 + "}"), "a number has 4,200 digits, needs at most 20"),
        (json_text("recipe", "3"), "are not a JSON object"),
        (json_text("recipe", '{"groups": "\\u001b[2J", "uniform": 2.0}'), "groups: given"),
        (json_text("layers", "[]"), "are not a JSON object"),
        (json_text("layers", '{"fc": []}'), r"fc: \[\] is not an object"),
        (layer_record(signal=1e300, snr=-999), "fc: snr -999, needs a number of -400 to 400"),
        (layer_record(signal=1e300), r"fc: signal 1e\+300, needs a number of 0 to 1e\+200"),
        (layer_record(signal=-1), "fc: signal -1, needs"),
        (layer_record(snr=True), "fc: snr True, needs"),
        (layer_record(snr="3"), "fc: snr '3', needs"),
        (layer_record(shape=[int("9" * 4200)]), "a number has 4,200 digits, needs at most 20"),
        (layer_record(shape=[2**39] * 8), "fc: impossible layer"),
        (layer_record(shape=[512.0, 7]), "fc: shape 512.0, needs a whole number"),
        (layer_record(shape=[True, 7]), "fc: shape True, needs"),
        (layer_record(shape=[1] * 1000), "needs a list of at most 8"),
        (layer_record(shape="77"), "fc: shape '77', needs a list"),
        (layer_record(groups=0), "fc: groups 0, needs a whole number"),
        (layer_record(groups="8"), "fc: groups '8', needs"),
        (layer_record(kept=0), "fc: kept 0, needs"),
        (layer_record(kept=10**6), "fc: impossible layer"),
        (layer_record(position_bits=9.0), "fc: position_bits 9.0, needs"),
        (layer_record(precision=["int8"]), "fc: precision .'int8'., needs one of"),
    ],
)
def test_damaged_files_are_refused(saved_file, tmp_path, attack, match):
    tensors, metadata = load_file(saved_file[2]), metadata_of(saved_file[2])
    del metadata["tenreo.checksums"]  # which would reveal any damage first
    attack(tensors, metadata)
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(TenreoError, match=match) as caught:
        tenreo.load(tmp_path / "bad.safetensors")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2500


@pytest.mark.parametrize("name", ["fc.bias", "fc.weight.positions", "layer1.0.bn1.running_mean"])
def test_a_wrong_checksum_is_refused_by_name(saved_file, tmp_path, name):
    data = bytearray(saved_file[2].read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    digits, names = header["__metadata__"]["tenreo.checksums"], [each for each in header if each != "__metadata__"]
    begin, end = header[name]["data_offsets"]
    position = 8 * names.index(name)
    assert int(digits[position : position + 8], 16) == zlib.crc32(data[start + begin : start + end])
    data[start + end - 1] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(TenreoError, match=f"bad.safetensors: the checksum of {name} is wrong; the file is damaged"):
        tenreo.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("digits", ["", "0", "0" * 8, "x" * 8000])
def test_checksums_of_another_form_are_refused(saved_file, tmp_path, digits):
    tensors, metadata = load_file(saved_file[2]), metadata_of(saved_file[2])
    save_file(tensors, tmp_path / "bad.safetensors", metadata | {"tenreo.checksums": digits})
    with pytest.raises(TenreoError, match=r"tenreo\.checksums has .* needs eight hexadecimal digits per tensor"):
        read_header(tmp_path / "bad.safetensors")


def test_class_names_are_read_back_unchanged():
    names = ("a\u3000b", "c\u200cd", "e\udcff")
    info = ModelInfo(classes=3, class_names=names)
    assert ModelInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


def test_strings_of_a_header_are_made_printable(saved_file, tmp_path):
    tensors, metadata = load_file(saved_file[2]), metadata_of(saved_file[2])
    corrected(source="/a\x1b[2J\nb", note="\x9b1m")(tensors, metadata)
    metadata["tenreo.recipe"] = json.dumps({"groups": 4, "uniform": 2.0, "include": ["\x1b]0;x\x07"]})
    save_file(tensors, tmp_path / "m.safetensors", metadata)
    header = read_header(tmp_path / "m.safetensors")
    assert str(header.info.corrections[0]) == r"3 BatchNorms, on 512 images of /a\x1b[2J\nb (\x9b1m)"
    assert header.recipe["include"] == [r"\x1b]0;x\x07"]


def test_long_headers_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    text = b"{" + b" " * 12_000_000 + b"}"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(TenreoError, match=r"has a header of [0-9,]{10} bytes, needs at most 10,000,000"):
        read_header(path)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        for read in (read_header, tenreo.load, lambda p: with_weights("torchvision:resnet18", str(p))):
            with pytest.raises(TenreoError, match=f"cannot be opened: it is {why}; give the path of a file"):
                read(path)


@pytest.mark.parametrize("content", [b"", b"x", b"\x00" * 100, b"{}", b"PK\x03\x04"])
def test_files_of_other_formats_are_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(TenreoError, match=r"x\.safetensors: cannot be read"):
        tenreo.load(path)


def test_truncated_files_are_refused(saved_file, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved_file[2].read_bytes()[:-100])
    with pytest.raises(TenreoError, match="cannot be read as safetensors"):
        tenreo.load(path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickle_is_never_executed(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(TenreoError, match="cannot be read as a torch file of plain tensors"):
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


def with_entries(tmp_path, entries, data=bytes(24)):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return tmp_path / "m.safetensors"


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"a": A, "b": {**A, "data_offsets": [4, 12]}}, "b is stored at bytes 4 to 12, needs 8 from 8"),
        ({"a": A, "b": {**A, "data_offsets": [16, 24]}}, "b is stored at bytes 16 to 24, needs 8 from 8"),
        ({"a": {**A, "data_offsets": [0, 24]}}, "a is stored at bytes 0 to 24, needs 8 from 0"),
        ({"a": {**A, "data_offsets": [8, 0]}}, "a is stored at bytes 8 to 0"),
        ({"a": {**A, "shape": [2**62, 2**62]}}, "a is stored at bytes 0 to 8, needs"),
        ({"a": {**A, "shape": [-2]}}, "a: shape -2, needs a whole number"),
        ({"a": {**A, "shape": [2.0]}}, r"a: shape 2\.0, needs a whole number"),
        ({"a": {**A, "dtype": "F4"}}, "a: dtype 'F4', needs one of BOOL"),
        ({"a": {**A, "data_offsets": [0]}}, "a: not enough values"),
        ({"a": A}, "it has [0-9]+ bytes, but its header describes [0-9]+"),
        ({"a": 3}, "a: 3 is not an object"),
        ({"__metadata__": {"x": 3}}, "its metadata are not strings"),
        ([], "its header is not a JSON object"),
        (b'{"a": {}, "a": {}}', "the key 'a' occurs twice"),
        (b'{"a": \xff}', "'utf-8' codec can't decode"),
    ],
)
def test_headers_that_contradict_the_file_are_refused(tmp_path, entries, why):
    with pytest.raises(TenreoError, match=f"cannot be read as safetensors: {why}"):
        tenreo.load(with_entries(tmp_path, entries))


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path):
    """Header and tensors come from one file, whenever another process replaces it."""
    first, second = (nn.Sequential(nn.Linear(64, 64), nn.Linear(64, n)).eval() for n in (8, 16))
    for model, name in ((first, "a"), (second, "b")):
        tenreo.save(model, tmp_path / name)
    shapes = {8: first.state_dict(), 16: second.state_dict()}
    path, done = tmp_path / "m.safetensors", threading.Event()

    def replace_often():
        while not done.is_set():
            for name in "ab":
                os.link(tmp_path / name, tmp_path / "copy")
                os.replace(tmp_path / "copy", path)

    shutil.copyfile(tmp_path / "a", path)
    thread = threading.Thread(target=replace_often)
    thread.start()
    try:
        for _ in range(300):
            header, tensors = read_any(path, named=True)
            assert {n: tuple(t.shape) for n, t in tensors.items()} == header.dense_shapes()
            state = shapes[len(tensors["1.bias"])]
            assert all(torch.equal(state[name], value) for name, value in tensors.items())
    finally:
        done.set()
        thread.join()

"""Coded dense tensors in a file: what a reader refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.header import read_header


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model, path = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)).eval(), tmp_path_factory.mktemp("coded") / "m"
    tenreo.compress_(model, tenreo.Recipe(None, tenreo.TargetSize(4000)))
    tenreo.save(model, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


@pytest.fixture
def file(saved, tmp_path):
    """A file with coded tensors, which the test may change."""
    return Path(shutil.copy(saved, tmp_path))


def edit(path, change):
    """Change the header of a file, a dictionary, in place."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def described(change):
    def edit_header(header):
        dense = json.loads(header["__metadata__"]["tenreo.dense"])
        changed = change(dense)
        header["__metadata__"]["tenreo.dense"] = json.dumps(dense if changed is None else changed)

    return edit_header


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda dense: [], "tenreo.dense [] is not an object"),
        (lambda dense: dense.update({"0.bias": []}), "tenreo.dense: 0.bias: dtype None"),
        (lambda dense: dense.update({"0.bias": ["F99", 64]}), "tenreo.dense: 0.bias: dtype 'F99', needs one of"),
        (lambda dense: dense.update({"0.bias": ["F32", -1]}), "tenreo.dense: 0.bias: shape -1"),
        (lambda dense: dense.update({"0.bias": "F32"}), "tenreo.dense: 0.bias: dtype None"),
        (lambda dense: dense.update({"0.weight.positions": ["F32", 4]}), "is a tensor of the file, and coded in"),
    ],
)
def test_a_header_that_describes_no_coded_tensors_is_refused(file, change, reason):
    edit(file, described(change))
    with pytest.raises(TenreoError, match=re.escape(reason)):
        read_header(file)


def test_a_missing_stream_is_refused(file):
    edit(file, lambda header: header.update({"other": header.pop("tenreo.dense")}))
    with pytest.raises(TenreoError, match=r"tenreo\.dense is missing, or not a row of bytes"):
        read_header(file)


@pytest.mark.parametrize("size", [63, 65, 2**50])
def test_a_stream_of_other_tensors_is_refused(file, size):
    edit(file, described(lambda dense: dense.update({"0.bias": ["F32", size]})))
    with pytest.raises(TenreoError, match=r"dense tensors: the stream has .* the file is damaged"):
        tenreo.load(file, nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)))


def test_a_damaged_stream_is_refused(file):
    data = bytearray(file.read_bytes())
    begin, _ = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["tenreo.dense"]["data_offsets"]
    data[8 + int.from_bytes(data[:8], "little") + begin + 20] ^= 1
    file.write_bytes(data)
    with pytest.raises(TenreoError, match=r"m\.safetensors: the checksum of tenreo\.dense is wrong"):
        tenreo.load(file, nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)))

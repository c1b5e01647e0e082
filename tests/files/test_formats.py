"""Files that are not models: the message names the format and what to do."""

import gzip
import io
import zipfile

import numpy as np
import pytest
import torch

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.pickles import read_pickle


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def torch_file():
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, file)
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "x")
    return file.getvalue()


@pytest.mark.parametrize(("content", "named"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "it is a Git LFS pointer.*git lfs pull"),
    (b"\n<!DOCTYPE html><html>" + b"x" * 1000, "it is a web page.*download the file itself"),
    (gzip.compress(torch_file()), "it is compressed with gzip; unpack it"),
    (npz(), r"it is a NumPy archive \(\.npz\)"), (torch_file()[:-200], "its end is missing or damaged.*download"),
    ("Gewichte f\u00fcr resnet18\n".encode() * 100, "it is a text file, not a model"), (b"", "it is empty"),
    (zipped(), "a zip archive that torch.save did not write"),
    (b"\x80\x04K\x01.", "a pickle that torch.save did not write"),
    (b"\x93NUMPY\x01\x00", "it is a NumPy array"),
    (b"Rar!\x1a\x07\x00" + bytes(99), "it is a RAR archive; unpack it"),
    (b"\x89PNG\r\n\x1a\n" + bytes(99), "it is a picture; give a file of weights"),
    ("Gewichte".encode("utf-16") * 9, "it is a text file, not a model"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["m.pth", "m.safetensors"])
def test_files_of_other_formats_are_named(tmp_path, content, named, name):
    (tmp_path / name).write_bytes(content)
    for read in (tenreo.load, read_pickle):
        with pytest.raises(TenreoError, match=rf"{name}: cannot be read as .*{named}") as caught:
            read(tmp_path / name)
        assert "header too large" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:" + bytes(99), bytes(5000), b"\xe2"])
def test_other_files_do_not_begin_like_safetensors(tmp_path, content):
    """The first bytes were taken for the length of a header: one of 8,031,177,557,570,357,256 bytes."""
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(TenreoError, match="it does not begin like a safetensors file; copy or download it again"):
        tenreo.load(tmp_path / "m.safetensors")


def test_torch_files_are_never_read_as_safetensors(tmp_path):
    (tmp_path / "m.pth").write_bytes(bytes(range(256)) * 10)
    with pytest.raises(TenreoError, match=r"m\.pth: cannot be read as a torch file: it does not begin"):
        tenreo.load(tmp_path / "m.pth")

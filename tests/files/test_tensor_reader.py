"""Files that are read tensor by tensor."""

import os

import pytest
import torch
from processes import here
from safetensors.torch import save_file

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.tensor_reader import read_numpy


def shards(folder, value):
    """Write two tensors of equal values, without checksums, as other programs do."""
    folder.mkdir(exist_ok=True)
    save_file({name: torch.full((64, 64), value) for name in ("a.weight", "b.weight")}, folder / "new")
    os.replace(folder / "new", folder / "model.safetensors")


@pytest.mark.parametrize("in_place", [False, True])
def test_tensors_of_two_versions_of_a_file_are_never_mixed(tmp_path, in_place):
    shards(tmp_path / "own", 1.0)
    path = tmp_path / "own" / "model.safetensors"
    tensors = read_numpy(path)
    assert (tensors["a.weight"] == 1).all()
    shards(tmp_path / "other", 2.0)
    if in_place:
        path.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
        os.utime(path, ns=(0, 0))  # the clock of some file systems is slow
    else:
        shards(tmp_path / "own", 2.0)
    with pytest.raises(TenreoError, match=r"model\.safetensors: changed while it was read; read it again"):
        tensors["b.weight"]
    assert (read_numpy(path)["b.weight"] == 2).all()


def test_tensors_without_elements_are_read_and_compressed(tmp_path):
    tensors = {"a.weight": torch.randn(64, 64), "b.weight": torch.zeros(0, 3), "b.bias": torch.zeros(0).bfloat16()}
    save_file(tensors, tmp_path / "dense.safetensors")
    read = tenreo.read(tmp_path / "dense.safetensors")
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items())
    here("compress", tmp_path / "dense.safetensors", "-g", 4, "-r", 2, "--refine", 0, "-o", tmp_path / "c.safetensors")
    read = tenreo.read(tmp_path / "c.safetensors")
    assert [read[name].shape for name in tensors] == [value.shape for value in tensors.values()]

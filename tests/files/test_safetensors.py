"""Tensors in and out of files, whole or not at all."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write
from tenreo.files.pickles import read_pickle
from tenreo.files.safetensors import DTYPES, read_tensors, record, write_tensors


def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path):
    code = (
        "import resource, tenreo, torch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: tenreo.save(torch.nn.Linear(100, 100), 'm.safetensors')\n"
        "except tenreo.TenreoError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "m.safetensors: can not be written" in done.stdout and not done.stderr
    assert not list(tmp_path.iterdir())


def test_every_dtype_comes_back_and_the_same_content_is_the_same_bytes(tmp_path):
    tensors = {name: torch.ones(3, 2, dtype=dtype) for dtype, name in DTYPES.items()}
    said = {f"key{i}": str(i) for i in range(20)}
    for path in ("a", "b"):
        write_tensors(tmp_path / path, tensors, dict(reversed(said.items())) if path == "b" else said)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_tensors(tmp_path / "a")
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
    with safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata() == said
        for name in tensors:
            part = file.get_slice(name)
            assert (part.get_dtype(), tuple(part.get_shape())) == (name, (3, 2))
            assert record(tensors[name]).dtype == name


def test_tensors_that_share_memory_are_written(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "m", {"a": whole, "b": whole[0], "c": whole.T}, {})
    assert torch.equal(read_tensors(tmp_path / "m")["c"], whole.T)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    umask = os.umask(0o027)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text("after")
    finally:
        os.umask(umask)
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o640
    with (
        pytest.raises(TenreoError, match=r"can not be written: there is no folder .*nowhere; create it first"),
        atomic_write(tmp_path / "nowhere" / "x"),
    ):
        pass


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_state_dicts_of_pickles(tmp_path, wrap):
    torch.save(wrap({"module.a.weight": torch.ones(2)}), tmp_path / "m.pth")
    assert list(read_pickle(tmp_path / "m.pth")) == ["a.weight"]


@pytest.mark.parametrize("values", [{}, {"a": 3}, [torch.ones(2)], {"state_dict": {"a": "b"}}])
def test_pickles_without_a_state_dict_are_refused(tmp_path, values):
    torch.save(values, tmp_path / "m.pth")
    with pytest.raises(TenreoError, match=r"m\.pth: holds no state dict"):
        read_pickle(tmp_path / "m.pth")

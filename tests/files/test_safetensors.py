"""Writing and reading tensors: equal content gives equal bytes, and errors leave existing files unchanged."""

import copy
import os

import pytest
import torch
from safetensors import safe_open
from torch import nn

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write
from tenreo.files.safetensors import DTYPES, read_tensors, record, write_tensors


def test_a_full_disk_gives_one_line_and_leaves_no_file(tmp_path, disk_full_after):
    with disk_full_after(20_000), pytest.raises(TenreoError, match=r"m\.safetensors: cannot be written") as caught:
        tenreo.save(nn.Linear(100, 100), tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_every_dtype_is_read_back_and_equal_content_gives_equal_bytes(tmp_path):
    tensors = {name: torch.ones(3, 2, dtype=dtype) for dtype, name in DTYPES.items()}
    metadata = {f"key{i}": str(i) for i in range(20)}
    for path in ("a", "b"):
        write_tensors(tmp_path / path, tensors, dict(reversed(metadata.items())) if path == "b" else metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    tensors_read = read_tensors(tmp_path / "a")
    for name, tensor in tensors.items():
        assert torch.equal(tensors_read[name], tensor) and tensors_read[name].dtype == tensor.dtype
    with safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata() == metadata
        for name in tensors:
            view = file.get_slice(name)
            assert (view.get_dtype(), tuple(view.get_shape())) == (name, (3, 2))
            assert record(tensors[name]).dtype == name


def test_tensors_with_shared_memory_are_written(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "m", {"a": base, "b": base[0], "c": base.T}, {})
    assert torch.equal(read_tensors(tmp_path / "m")["c"], base.T)


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path):
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
        pytest.raises(TenreoError, match=r"cannot be written: there is no folder .*nowhere; create it first"),
        atomic_write(tmp_path / "nowhere" / "x"),
    ):
        pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [
    lambda: torch.zeros(2, dtype=torch.complex64), lambda: torch.zeros(2).to_sparse(),
    lambda: torch.zeros(2, device="meta"), lambda: torch.zeros(2).to(torch.float8_e4m3fn),
    lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
])  # fmt: skip
def test_unsupported_tensors_are_refused_and_leave_the_file_unchanged(tmp_path, make):
    write_tensors(tmp_path / "m", {"a": torch.zeros(2)}, {})
    before = (tmp_path / "m").read_bytes()
    with pytest.raises(TenreoError, match=r"m: cannot be written: mask is .*, needs a dense tensor"):
        write_tensors(tmp_path / "m", {"mask": make()}, {})
    with pytest.raises(TenreoError, match="is not printable"):
        write_tensors(tmp_path / "m", {"a\x1b[2J": torch.zeros(2)}, {})
    assert (tmp_path / "m").read_bytes() == before


def test_buffers_may_contain_any_values_and_parameters_must_be_finite(tmp_path):
    def make():
        model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
        model.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
        model.register_buffer("unset", torch.full((2,), torch.nan))
        return model

    model = make()
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0))
    for dtype in ("float32", "float16", "bfloat16"):
        recipe = tenreo.Recipe(4, tenreo.Uniform(2.0), dense_dtype=dtype)
        tenreo.save(model, tmp_path / "m.safetensors", recipe=recipe)
        again = tenreo.load(tmp_path / "m.safetensors", make())
        assert torch.equal(again.mask, model.mask) and again.unset.isnan().all()
    before = (tmp_path / "m.safetensors").read_bytes()
    for name, value, why in (
        ("1.weight", torch.inf, "NaN or infinity"), ("1.running_mean", torch.nan, "NaN or infinity"),
        ("1.running_var", -1.0, "a negative variance"), ("0.weight.coefficients", torch.nan, "NaN or infinity"),
    ):  # fmt: skip
        wrong = copy.deepcopy(model)
        state = wrong.state_dict()
        state[name.replace("weight.coefficients", "parametrizations.weight.original")].view(-1)[0] = value
        with pytest.raises(TenreoError, match=f"{name} contains {why}"):
            tenreo.save(wrong, tmp_path / "m.safetensors")
        tensors = read_tensors(tmp_path / "m.safetensors")
        tensors[name].view(-1)[0] = value
        with safe_open(tmp_path / "m.safetensors", "pt") as file:
            write_tensors(tmp_path / "bad.safetensors", tensors, file.metadata())
        with pytest.raises(TenreoError, match=rf"bad\.safetensors: {name} contains {why}"):
            tenreo.load(tmp_path / "bad.safetensors", make())
    assert (tmp_path / "m.safetensors").read_bytes() == before

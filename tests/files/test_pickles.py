"""State dicts in torch's own files: common checkpoints are read, and hostile files are refused quickly."""

import argparse
import collections
import os
import time
import zipfile

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tenreo.errors import TenreoError
from tenreo.files.pickles import read_pickle

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


def prefixed(prefix):
    return {prefix + key: value for key, value in STATE.items()}


class Options(argparse.Namespace):
    """A subclass of the class that is allowed, with code of its own."""


@pytest.mark.parametrize("values", [
    STATE,
    *({key: STATE, "epoch": 3} for key in (
        "state_dict", "model", "model_state_dict", "net", "state_dict_ema", "model_ema", "ema",
    )),
    *(prefixed(prefix) for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.")),
    {"a._orig_mod.weight": STATE["a.weight"], "a.bias": STATE["a.bias"]},
    {"checkpoint": 1, "model": {"state_dict": prefixed("module.module.")}},
    {"model_ema": {"n_averaged": torch.tensor(1), **dict.fromkeys(prefixed("module."), torch.ones(1))}, "model": STATE},
    {"model_ema": {"n_averaged": torch.tensor(1), **prefixed("module.")}},
    AveragedModel(nn.Sequential(collections.OrderedDict(a=nn.Linear(3, 2)))).state_dict(),
    {
        "model": collections.OrderedDict(STATE), "args": argparse.Namespace(lr=0.1, device="cuda", milestones=[3]),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]},
        "lr_scheduler": {"milestones": collections.Counter([30, 60])}, "epoch": 3,
    },
])  # fmt: skip
@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_of_training_programs_are_read(tmp_path, values, legacy):
    torch.save(values, tmp_path / "m.pth", _use_new_zipfile_serialization=not legacy)
    state = read_pickle(tmp_path / "m.pth")
    assert list(state) == list(STATE)
    if "n_averaged" not in values:
        assert all(torch.equal(state[key], value) for key, value in STATE.items())


@pytest.mark.parametrize(
    "values", [{}, {"a": 3}, [torch.ones(2)], {"state_dict": {"a": "b"}}, {1: torch.ones(2)}, {"model": None}]
)
def test_pickles_without_a_state_dict_are_refused(tmp_path, values):
    torch.save(values, tmp_path / "m.pth")
    with pytest.raises(TenreoError, match=r"m\.pth: contains no state dict"):
        read_pickle(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (nn.Linear(3, 2), r"torch\.nn\.modules\.linear\.Linear"),
        ({"model": nn.Linear(3, 2)}, r"torch\.nn\.modules\.linear\.Linear"),
        ({"model": STATE, "args": Options(lr=0.1)}, r"Options"),
    ],
)
def test_objects_that_require_code_are_refused_with_their_name(tmp_path, values, named):
    torch.save(values, tmp_path / "m.pth")
    with pytest.raises(TenreoError, match=rf"an object of .*{named}, .* save model\.state_dict\(\)") as caught:
        read_pickle(tmp_path / "m.pth")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_torchscript_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"m/{name}", "x" * 100)
    with pytest.raises(TenreoError, match=r"is a TorchScript archive; save the model's state_dict\(\)"):
        read_pickle(tmp_path / "m.pth")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [
    lambda: torch.zeros(2, 3).to_sparse(), lambda: torch.zeros(2, 3).to_sparse_csr(),
    lambda: torch.zeros(2, 3).to(torch.float8_e4m3fn), lambda: torch.zeros(2, 3, device="meta"),
    lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    lambda: torch.zeros(2, 3, dtype=torch.complex64),
    lambda: torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8),
    lambda: torch.zeros(1).expand(4_000_000_000), lambda: torch.zeros(3).expand(10**6, 10**4, 3),
    lambda: torch.zeros(6).as_strided((10**5, 10**5), (0, 0)),
])  # fmt: skip
def test_unsupported_tensors_are_refused(tmp_path, make):
    torch.save({**STATE, "a.weight": make()}, tmp_path / "m.pth")
    with pytest.raises(TenreoError, match=r"m\.pth: a\.weight (\[.*an expanded view|is .*, needs a dense tensor)"):
        read_pickle(tmp_path / "m.pth")


NESTED = b"K\x01\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60  # a tuple of 2^60 elements, by repeated references
STEP = 2**61 - 1  # integers that differ by a multiple of it have the same hash in Python
SAME_HASH = b"".join(b"\x8a\x0c" + (STEP * k).to_bytes(12, "little") + b"K\x01" for k in range(10**6, 10**6 + 50_000))


@pytest.mark.parametrize("body", [
    b"}" + NESTED + b"K\x01s", b"}(" + NESTED + b"K\x01u", b"cbuiltins\nset\n]" + NESTED + b"a\x85R",
    b"ccollections\nOrderedDict\n]" + NESTED + b"K\x01\x86a\x85R", b"}K\x01" + b"\x85" * 1_000_000 + b"K\x01s",
    b"]" * 1_000_000, b"}(" + SAME_HASH + b"u", b"}q\x00X\x05\x00\x00\x00modelh\x00s", b"t", b"h\x05", b"",
    b"cbuiltins\nbytearray\n\x8a\x08" + (2**62).to_bytes(8, "little") + b"\x85R", b"cos\nsystem\n)R",
    b"cbuiltins\neval\n\x1b[2J\n",
])  # fmt: skip
def test_hostile_pickles_are_refused_quickly(tmp_path, body):
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("m/version", "3\n")
        archive.writestr("m/byteorder", "little")
    start = time.process_time()
    with pytest.raises(TenreoError, match=r"m\.pth: (cannot be read|contains no state dict)") as caught:
        read_pickle(tmp_path / "m.pth")
    assert time.process_time() - start < 10
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_compressed_archives_are_refused(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "m.pth")
    with (
        zipfile.ZipFile(tmp_path / "m.pth") as whole,
        zipfile.ZipFile(tmp_path / "n.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    with pytest.raises(TenreoError, match="the archive is compressed"):
        read_pickle(tmp_path / "n.pth")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path, why in (
        (tmp_path, "it is a folder"), (tmp_path / "pipe", "it is a pipe"), (tmp_path / "link", "it is a pipe"),
        (tmp_path / "no", "no such file"), (tmp_path / ("x" * 300), "too long"), (tmp_path / "a\0", "null"),
    ):  # fmt: skip
        with pytest.raises(TenreoError, match=f"cannot be opened: .*{why}.*; give the path of a file"):
            read_pickle(path)

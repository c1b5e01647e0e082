"""State dicts in torch's own files: common checkpoints are read, and hostile files are refused quickly."""

import argparse
import collections
import io
import os
import pickle
import time
import zipfile

import numpy as np
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

KEYS = SAME_HASH.replace(b"K\x01\x8a", b"\x8a")[:-2]
PAIRS = b"".join(b"\x8a\x0c" + (STEP * k).to_bytes(12, "little") + b"K\x01\x86" for k in range(10**6, 10**6 + 50_000))
COMPLEX = b"c__builtin__\ncomplex\nG" + bytes(8) + b"G" + bytes(8) + b"\x86R"


@pytest.mark.parametrize("body", [
    b"}" + NESTED + b"K\x01s", b"}(" + NESTED + b"K\x01u", b"cbuiltins\nset\n]" + NESTED + b"a\x85R",
    b"ccollections\nOrderedDict\n]" + NESTED + b"K\x01\x86a\x85R", b"}K\x01" + b"\x85" * 200_000 + b"K\x01s",
    b"]" * 200_000, b"}(" + SAME_HASH + b"u", b"}q\x00X\x05\x00\x00\x00modelh\x00s", b"t", b"h\x05", b"",
    b"cbuiltins\nbytearray\n\x8a\x08" + (2**62).to_bytes(8, "little") + b"\x85R", b"cos\nsystem\n)R",
    b"cbuiltins\neval\n\x1b[2J\n", b"cbuiltins\nbytearray\n\x8a\x05" + (5 * 10**9).to_bytes(5, "little") + b"\x85R",
    b"cbuiltins\nset\n](" + KEYS + b"e\x85R", b"ccollections\nCounter\n](" + KEYS + b"e\x85R",
    b"ccollections\nOrderedDict\n](" + PAIRS + b"e\x85R", b"ccollections\nOrderedDict\n)R(" + SAME_HASH + b"u",
    b"c__builtin__\nset\n](" + COMPLEX + b"e\x85R",
    b"c_codecs\nencode\nq\x00X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"X\x06\x00\x00\x00latin1\x86q\x010"
    + b"](" + b"h\x00h\x01R" * 50_000 + b"e", b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00idna\x86R",
    b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nbytearray\nctorch\nTensor\n\x8a\x05"
    + (5 * 10**9).to_bytes(5, "little") + b"\x85}tR",
])  # fmt: skip
def test_hostile_pickles_are_refused_quickly(tmp_path, body):
    archive_of(tmp_path / "m.pth", b"\x80\x02" + body + b".")
    start = time.process_time()
    with pytest.raises(TenreoError, match=r"m\.pth: (cannot be read|contains no state dict)") as caught:
        read_pickle(tmp_path / "m.pth")
    assert time.process_time() - start < 10
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def archive_of(path, pickled, data=None):
    """Write an archive as torch.save does, with the given pickle and values of storages by key."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/version", "3\n")
        archive.writestr("m/byteorder", "little")
        for key, values in (data or {}).items():
            archive.writestr(f"m/data/{key}", values)


def tensor_of(key=b"0", stored=100, size=100, kind=b"Float", build=b""):
    """Pickle a dictionary of one tensor with `size` numbers, whose storage has `stored` ones."""
    text = b"X" + len(key).to_bytes(4, "little") + key
    return (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n" + kind
        + b"Storage\n" + text + b"X\x03\x00\x00\x00cpuM" + stored.to_bytes(2, "little") + b"tQK\x00M"
        + size.to_bytes(2, "little") + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR" + build + b"s."
    )  # fmt: skip


UNINITIALIZED = (
    b"\x80\x02}X\x01\x00\x00\x00actorch\nFloatTensor\nM\x10\x27\x85Rs.",
    b"\x80\x02}X\x01\x00\x00\x00actorch\nTensor\nM\x10\x27\x85\x81s.",
    b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor\n(ctorch.storage\nUntypedStorage\nM\x10\x27\x85R"
    b"K\x00M\x10\x27\x85K\x01\x85tRs.",
    tensor_of(size=101), tensor_of(stored=99),
)  # fmt: skip


def legacy_of(path, pickled, keys, data):
    """Write a file of torch's format before version 1.6."""
    pickled = pickled.replace(b"tQ", b"NtQ")  # a storage there has a sixth field: None, or a view
    head = io.BytesIO()
    torch.save({}, head, _use_new_zipfile_serialization=False)
    start = head.getvalue()
    listed = b"\x80\x02](" + b"".join(b"X" + len(k).to_bytes(4, "little") + k for k in keys) + b"e."
    empty = pickle.dumps({}, 2)
    assert start.endswith(empty + b"\x80\x02]q\x00.")
    path.write_bytes(start[: -len(empty + b"\x80\x02]q\x00.")] + pickled + listed + data)


VALUES = np.arange(100, dtype=np.float32).tobytes()
COUNT = (100).to_bytes(8, "little")


@pytest.mark.parametrize("keys", [[b"0"], [], [b"0", b"1"]])
@pytest.mark.parametrize("size", [100, 50, 0])
def test_legacy_files_are_refused_unless_they_contain_the_values_of_all_tensors(tmp_path, keys, size):
    data = (COUNT + VALUES)[: 8 + 4 * size]
    legacy_of(tmp_path / "m.pth", tensor_of(), keys, data)
    if keys == [b"0"] and size == 100:
        assert torch.equal(read_pickle(tmp_path / "m.pth")["a"], torch.arange(100.0))
        return
    with pytest.raises(TenreoError, match=r"m\.pth: cannot be read as a torch file.*(values|bytes)"):
        read_pickle(tmp_path / "m.pth")


@pytest.mark.parametrize("data", [{}, {"0": VALUES[:-4]}, {"0": b""}, {"1": VALUES}])
def test_archives_are_refused_unless_they_contain_the_values_of_all_tensors(tmp_path, data):
    archive_of(tmp_path / "m.pth", tensor_of(), {"0": VALUES})
    assert torch.equal(read_pickle(tmp_path / "m.pth")["a"], torch.arange(100.0))
    archive_of(tmp_path / "m.pth", tensor_of(), data)
    with pytest.raises(TenreoError, match=r"m\.pth: .*the values of the tensor storage '0' are not in the file"):
        read_pickle(tmp_path / "m.pth")


@pytest.mark.parametrize("pickled", [
    *UNINITIALIZED, tensor_of(build=b"(ctorch\nFloatTensor\n)RK\x00M\x10\x27\x85K\x01\x85tb"),
])  # fmt: skip
def test_tensors_of_uninitialized_memory_are_refused(tmp_path, pickled):
    legacy_of(tmp_path / "m.pth", pickled, [b"0"], COUNT + VALUES)
    archive_of(tmp_path / "n.pth", pickled, {"0": VALUES})
    for name in ("m.pth", "n.pth") if pickled != UNINITIALIZED[-1] else ("m.pth",):
        with pytest.raises(TenreoError, match=rf"{name}: cannot be read as a torch file"):
            read_pickle(tmp_path / name)


def test_state_dicts_of_python_2_are_read(tmp_path):
    """Python 2 passed a list of pairs to OrderedDict."""
    pair = tensor_of()[3:-2].replace(b"X\x01\x00\x00\x00a", b"](X\x01\x00\x00\x00a", 1) + b"e"
    legacy_of(tmp_path / "m.pth", b"\x80\x02ccollections\nOrderedDict\n](" + pair + b"e\x85R.", [b"0"], COUNT + VALUES)
    assert torch.equal(read_pickle(tmp_path / "m.pth")["a"], torch.arange(100.0))


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


def test_numpy_scalars_and_arrays_are_read(tmp_path):
    extras = {"accuracy": np.float64(0.5), "epoch": np.int64(3), "best": np.bool_(True), "name": np.str_("x"),
              "mean": np.zeros((2, 3), np.float32), "empty": np.zeros(0), "rng": np.random.get_state()}  # fmt: skip
    arrays = {name: value.numpy() for name, value in STATE.items()}
    for old in (False, True):
        for state in (STATE, arrays, {**STATE, "big": np.arange(3, dtype=">f4")}):
            torch.save({"state_dict": state, **extras}, tmp_path / "m.pth", _use_new_zipfile_serialization=not old)
            read = read_pickle(tmp_path / "m.pth")
            assert all(torch.equal(read[name], torch.as_tensor(value)) for name, value in STATE.items())
            assert list(read) == list(state) and read.get("big", torch.arange(3.0)).tolist() == [0, 1, 2]


def rebuilt(shape, code=b"f8", state=b"N"):
    """Pickle code of a NumPy array of a shape, whose dtype has a code and a state."""
    dtype = b"cnumpy\ndtype\nX\x02\0\0\0" + code + b"\x89\x88\x87R"
    return b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + shape + b"X\x01\0\0\0b\x87R" + dtype + state


LARGE = b"J\xff\xff\xff\x7f" * 2 + b"K\x00tb"


@pytest.mark.parametrize("body", [
    rebuilt(b"J\x00\xca\x9a\x3b\x85"), rebuilt(b"K\x00\x85", b"O8"), rebuilt(b"K\x00\x85", b"V9"),
    rebuilt(b"K\x00\x85", b"f8", b"(K\x03X\x01\0\0\0<K\x01NN" + LARGE),
    rebuilt(b"K\x00\x85", b"U1", b"(K\x03X\x01\0\0\0<NNN" + LARGE),
])  # fmt: skip
def test_numpy_arrays_that_take_memory_or_contain_objects_are_refused(tmp_path, body):
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("m/version", "3")
    with pytest.raises(TenreoError, match=r"calls numpy|a NumPy array of objects or records"):
        read_pickle(tmp_path / "m.pth")

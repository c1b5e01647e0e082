"""Tests of state files: round trip, full disk, damage, and states of other runs."""

import os
import random
import time
import zipfile
from dataclasses import asdict, replace

import pytest
import torch
from networks import compressed
from torch import nn

from tenreo.errors import TenreoError
from tenreo.training.log import RunLog
from tenreo.training.observer import Epoch, Step
from tenreo.training.settings import Settings
from tenreo.training.state import Progress, check_history, load_state, save_state

PLAIN = {k: str(v) if isinstance(v, str) else v for k, v in asdict(Settings()).items()}  # no enumerations
CONFIGURATION = {**PLAIN, "processes": 1, "images": 12}
EPOCH = Epoch(
    epoch=1, steps=4, lr=0.1, train_loss=1.0, train_top1=50.0, top1=60.0, top5=None, loss=0.9, seconds=2.0, waiting=0.25
)  # fmt: skip
DONE = Progress(3, 1.5, 7, 12, 2.0, 0.5, [EPOCH])


def parts(seed, width=100):
    torch.manual_seed(seed)
    model = nn.Linear(width, width)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    model(torch.randn(4, width)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


def same(a, b):
    momentum = [p["optimizer"].state_dict()["state"][0]["momentum_buffer"] for p in (a, b)]
    return torch.equal(a["model"].weight, b["model"].weight) and torch.equal(*momentum)


@pytest.fixture
def saved(tmp_path):
    path, kept = tmp_path / "run.state", parts(0)
    save_state(path, kept, CONFIGURATION, DONE)
    return path, kept


def test_a_state_is_restored(saved):
    path, kept = saved
    found = parts(1)
    assert not same(kept, found)
    assert load_state(path, found, CONFIGURATION) == DONE
    assert same(kept, found)


@pytest.mark.parametrize("size", [0, 1000, 30_000])
def test_a_full_disk_is_an_error_and_keeps_the_old_state(saved, disk_full_after, size):
    path, _ = saved
    before = path.read_bytes()
    with (
        disk_full_after(size),
        pytest.raises(TenreoError, match=r"run\.state: cannot be written: File too large; choose"),
    ):
        save_state(path, parts(1), CONFIGURATION, DONE)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def step(number):
    return Step(
        epoch=1, step=number, steps=3, images=16, lr=0.1, loss=2.0, top1=50.0, epoch_loss=1.0,
        epoch_top1=50.0, seconds=0.5, waiting=0.25, memory=10**6
    )  # fmt: skip


def test_a_log_on_a_full_disk_is_an_error(tmp_path, disk_full_after):
    log = RunLog(tmp_path / "x.csv", False)
    log.step(step(1))
    with (
        disk_full_after((tmp_path / "x.csv").stat().st_size + 5),
        pytest.raises(TenreoError, match=r"x\.csv: can ?not be written: File too large"),
    ):
        log.step(step(2))


def test_damage_is_an_error_or_has_no_effect(saved):
    path, kept = saved
    whole, dice = path.read_bytes(), random.Random(0)
    refused = 0
    for k in range(60):
        at = dice.randrange(len(whole))
        path.write_bytes(whole[:at] if k % 2 else whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        found = parts(1)
        try:
            assert load_state(path, found, CONFIGURATION) == DONE
        except TenreoError as error:
            refused += 1
            assert "is damaged" in str(error) and "start again without resuming" in str(error)
        else:
            assert same(kept, found)  # the damaged byte has no meaning
    assert refused > 40


@pytest.mark.parametrize("what", [b"", b"no state\n", "a tensor"])
def test_other_files_are_refused(tmp_path, what):
    path = tmp_path / "run.state"
    if isinstance(what, bytes):
        path.write_bytes(what)
    else:
        torch.save(torch.zeros(3), path)
    with pytest.raises(TenreoError, match="does not belong to this model, or is damaged"):
        load_state(path, parts(0), CONFIGURATION)


@pytest.mark.parametrize(("name", "now"), [("images", 13), ("processes", 2), ("lr", 1.0), ("ema", 0.5)])
def test_a_state_of_another_run_is_refused(saved, name, now):
    with pytest.raises(TenreoError, match=f"was made with {name} .*, now {now}; give the same"):
        load_state(saved[0], parts(0), {**CONFIGURATION, name: now})


def test_a_run_may_be_extended_unless_its_schedule_depends_on_the_end(saved):
    load_state(saved[0], parts(0), {**CONFIGURATION, "epochs": 9, "save_every": 5})
    cosine = {**CONFIGURATION, "schedule": "cosine"}
    save_state(saved[0], parts(0), cosine, DONE)
    with pytest.raises(TenreoError, match="was made with epochs 1, now 9"):
        load_state(saved[0], parts(0), {**cosine, "epochs": 9})


def test_a_state_of_another_model_is_refused(saved):
    with pytest.raises(TenreoError, match="does not belong to this model"):
        load_state(saved[0], parts(0, width=7), CONFIGURATION)


def test_steps_add_up():
    progress = Progress()
    progress.add_step(images=4, loss=0.5, correct=3, seconds=2.0, waited=0.5)
    progress.add_step(images=2, loss=2.0, correct=1, seconds=1.0, waited=0.25)
    assert progress == Progress(2, 6.0, 4, 6, 3.0, 0.75)


def test_a_missing_state_is_an_error(tmp_path):
    with pytest.raises(TenreoError, match=r"run\.state: .*there is nothing to resume; start without"):
        load_state(tmp_path / "run.state", parts(0), CONFIGURATION)


def changed(path, change):
    values = torch.load(path, weights_only=True)
    change(values)
    torch.save(values, path)


def put(*keys):
    """put(key, ..., value): return a function that sets the nested entry of a state to a value."""
    *way, last, value = keys

    def change(values):
        for key in way:
            values = values[key]
        values[last] = value

    return change


def drop(*keys):
    *way, last = keys

    def change(values):
        for key in way:
            values = values[key]
        del values[last]

    return change


MOMENTUM = ("parts", "optimizer", "state", 0)
GROUP = ("parts", "optimizer", "param_groups", 0)


@pytest.mark.parametrize(
    "change",
    [
        put("progress", "step", "3"), put("progress", "step", torch.tensor(3)), put("progress", "step", -1),
        put("progress", "step", 2**60), put("progress", "loss", float("nan")), put("progress", "loss", None),
        put("progress", "correct", 13), put("progress", "seen", 0), put("progress", "history", None),
        put("progress", "history", 0, "top1", "high"), put("progress", "history", 0, "epoch", 1.0),
        put("progress", "history", 0, torch.zeros(2)), put("progress", "more", 1), put("progress", []),
        drop("progress", "waiting"), drop("progress", "history", 0, "loss"), drop("progress"), drop("parts", "model"),
        drop("configuration"), put("configuration", torch.zeros(3)),
        put("parts", "model", "weight", torch.zeros(1)), put("parts", "model", "weight", torch.zeros(100, 100).int()),
        put("parts", "model", "weight", torch.zeros(100, 100).to_sparse()), put("parts", "model", "weight", 1.0),
        put("parts", "model", "other", torch.zeros(1)), drop("parts", "model", "bias"),
        put(*MOMENTUM, "momentum_buffer", torch.zeros(3)), put(*MOMENTUM, "momentum_buffer", "fast"),
        put(*MOMENTUM, "exp_avg", torch.zeros(100, 100)), put("parts", "optimizer", "state", 7, {}),
        put("parts", "optimizer", "state", "weight", {}), put("parts", "optimizer", "state", 0, torch.zeros(1)),
        put(*GROUP, "lr", "0.1"), put(*GROUP, "momentum", 0.5), put(*GROUP, "params", [1, 0]), drop(*GROUP, "lr"),
        put("parts", "optimizer", "param_groups", []), put("parts", "optimizer", None),
    ],
)  # fmt: skip
def test_an_invalid_state_is_refused_and_changes_nothing(saved, change):
    path, _ = saved
    changed(path, change)
    found, before = parts(1), parts(1)
    with pytest.raises(TenreoError, match="does not belong to this model, or is damaged") as told:
        load_state(path, found, CONFIGURATION)
    assert same(found, before) and len(str(told.value)) < 500


def test_positions_that_moved_are_refused(tmp_path):
    net = compressed()
    path = tmp_path / "run.state"
    save_state(path, {"model": net}, CONFIGURATION, Progress())
    name = next(name for name in net.state_dict() if name.endswith("positions"))
    for value in (torch.tensor(10**6), torch.tensor(-1), net.state_dict()[name].max() - net.state_dict()[name]):
        changed(path, put("parts", "model", name, value.expand_as(net.state_dict()[name]).to(net.state_dict()[name])))
        with pytest.raises(TenreoError, match="positions differs, although training does not change it"):
            load_state(path, {"model": compressed()}, CONFIGURATION)


def test_an_invalid_adam_state_is_refused(tmp_path):
    model = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path, whole = tmp_path / "run.state", {"optimizer": optimizer}
    save_state(path, whole, CONFIGURATION, Progress())
    assert load_state(path, {"optimizer": torch.optim.AdamW(model.parameters())}, CONFIGURATION) == Progress()
    for step in (torch.tensor(-1.0), torch.tensor(float("nan")), torch.zeros(2), 3):
        save_state(path, whole, CONFIGURATION, Progress())
        changed(path, put(*MOMENTUM, "step", step))
        with pytest.raises(TenreoError, match="is damaged"):
            load_state(path, {"optimizer": torch.optim.AdamW(model.parameters())}, CONFIGURATION)


@pytest.mark.parametrize("name", ["start", "training_images", "evaluation_images"])
def test_another_origin_has_a_clear_error(saved, name):
    save_state(saved[0], saved[1], {**CONFIGURATION, name: "a"}, DONE)
    assert load_state(saved[0], parts(0), {**CONFIGURATION, name: "a"}) == DONE
    with pytest.raises(TenreoError, match=r"run\.state: was made (from another|with \w+ images of other)"):
        load_state(saved[0], parts(0), {**CONFIGURATION, name: "b"})
    with pytest.raises(TenreoError, match=f"does not contain {name}.* of earlier versions"):
        save_state(saved[0], saved[1], CONFIGURATION, DONE)
        load_state(saved[0], parts(0), {**CONFIGURATION, name: "b"})


def test_a_state_that_unpacks_to_more_or_is_a_pipe_is_refused(saved, tmp_path):
    with zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed, zipfile.ZipFile(saved[0]) as plain:
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    with pytest.raises(TenreoError, match="the archive is compressed"):
        load_state(tmp_path / "packed", parts(0), CONFIGURATION)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TenreoError, match="nothing to resume"):
        load_state(tmp_path / "pipe", parts(0), CONFIGURATION)
    with pytest.raises(TenreoError, match="is not a log of a run: it is not a regular file"):
        RunLog(tmp_path / "pipe", True)


def test_states_of_earlier_versions_are_refused(saved):
    with pytest.raises(TenreoError, match=r"does not contain the results of epoch 0 .*earlier versions"):
        check_history(saved[0], DONE)
    check_history(saved[0], Progress(history=[replace(EPOCH, epoch=0), EPOCH]))


INTEGERS = b"".join(b"\x8a\x0c" + ((2**61 - 1) * k).to_bytes(12, "little") for k in range(10**6, 10**6 + 50_000))


@pytest.mark.parametrize("body", [
    b"cbuiltins\nbytearray\n\x8a\x05" + (5 * 10**9).to_bytes(5, "little") + b"\x85R",
    b"cbuiltins\nset\n](" + INTEGERS + b"e\x85R", b"}(" + INTEGERS + b"u", b"ctorch\nFloatTensor\nM\x10\x27\x85R",
])  # fmt: skip
def test_hostile_states_are_refused_quickly(tmp_path, body):
    with zipfile.ZipFile(tmp_path / "run.state", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("m/byteorder", "little")
    start = time.process_time()
    with pytest.raises(TenreoError, match=r"is damaged \(ValueError"):
        load_state(tmp_path / "run.state", parts(0), CONFIGURATION)
    assert time.process_time() - start < 10

"""States on a real disk: full, damaged, and of another run."""

import random
from dataclasses import asdict

import pytest
import torch
from torch import nn

from tenreo.errors import TenreoError
from tenreo.training.log import RunLog
from tenreo.training.observer import Epoch, Step
from tenreo.training.settings import Settings
from tenreo.training.state import Progress, load_state, save_state

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


def test_all_comes_back(saved):
    path, kept = saved
    found = parts(1)
    assert not same(kept, found)
    assert load_state(path, found, CONFIGURATION) == DONE
    assert same(kept, found)


@pytest.mark.parametrize("size", [0, 1000, 30_000])
def test_a_full_disk_is_told_and_the_old_state_stays(saved, disk_full_after, size):
    path, _ = saved
    before = path.read_bytes()
    with (
        disk_full_after(size),
        pytest.raises(TenreoError, match=r"run\.state: can not be written: .*too large"),
    ):
        save_state(path, parts(1), CONFIGURATION, DONE)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def step(number):
    return Step(
        epoch=1, step=number, steps=3, images=16, lr=0.1, loss=2.0, top1=50.0, seconds=0.5, waiting=0.25, memory=10**6
    )  # fmt: skip


def test_a_log_on_a_full_disk_is_an_error(tmp_path, disk_full_after):
    log = RunLog(tmp_path / "x.csv", False)
    log.step(step(1))
    with (
        disk_full_after((tmp_path / "x.csv").stat().st_size + 5),
        pytest.raises(TenreoError, match=r"x\.csv: can not be written: File too large"),
    ):
        log.step(step(2))


def test_damage_anywhere_is_an_error_or_does_no_harm(saved):
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
            assert same(kept, found)  # a byte that says nothing
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


def test_a_run_may_grow_unless_its_schedule_looks_at_the_end(saved):
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


def test_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(TenreoError, match=r"run\.state: nothing to resume; start without resuming"):
        load_state(tmp_path / "run.state", parts(0), CONFIGURATION)

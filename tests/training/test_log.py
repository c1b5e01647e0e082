"""Tests of the log of a run."""

import pytest

from tenreo.errors import TenreoError
from tenreo.training.log import RunLog, read_log
from tenreo.training.observer import Epoch, Step


def write(path, resume, steps, evaluated=()):
    log = RunLog(path, resume)
    for epoch, step in steps:
        log.step(
            Step(
                epoch=epoch, step=step, steps=3, images=16, lr=0.1, loss=2.0 / (3 * epoch + step), top1=50.0,
                epoch_loss=1.0, epoch_top1=50.0, seconds=0.5, waiting=0.25, memory=10**6,
            )
        )  # fmt: skip
        if (epoch, step) in evaluated:
            log.epoch(
                Epoch(
                    epoch=epoch, steps=3, lr=0.1, train_loss=1.0, train_top1=50.0, top1=60.0, top5=None, loss=0.9,
                    seconds=2.0, waiting=0.25,
                )
            )  # fmt: skip
    log.close()


def test_a_resumed_log_contains_every_step_once(tmp_path):
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    steps = [(e, s) for e in (1, 2) for s in (1, 2, 3)]
    write(whole, False, steps, {(1, 3), (2, 3)})
    write(part, False, steps[:5], {(1, 3)})
    part.write_text(part.read_text()[:-7])  # truncated within the last row
    write(part, True, steps[3:], {(2, 3)})  # the state was saved in the second epoch, before step 5
    assert part.read_text() == whole.read_text()
    assert [r["split"] for r in read_log(part)].count("val") == 2
    assert read_log(part)[0]["images_per_second"] == "32"


def test_without_resume_an_older_log_is_replaced(tmp_path):
    write(tmp_path / "x.csv", False, [(1, 1), (1, 2)])
    write(tmp_path / "x.csv", False, [(1, 1)])
    assert len(read_log(tmp_path / "x.csv")) == 1


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "epoch,step\n1,x\n"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "y.csv").write_text(text)
    with pytest.raises(TenreoError, match=r"y\.csv: is not a log of a run"):
        read_log(tmp_path / "y.csv")
    with pytest.raises(TenreoError, match=r"none\.csv: is not a log of a run"):
        read_log(tmp_path / "none.csv")

"""Plots of logs and sweeps."""

import pytest

from tenreo.cli.terminal.pictures import plot_logs, plot_sweep
from tenreo.errors import TenreoError
from tenreo.training.log import RunLog
from tenreo.training.observer import Epoch, Step


def test_logs_are_plotted_and_other_files_refused(tmp_path):
    log = RunLog(tmp_path / "x.csv", resume=False)
    for step in (1, 2, 3):
        log.step(Step(epoch=1, step=step, steps=3, images=16, lr=0.1, loss=2 / step, top1=50.0, epoch_loss=1.0,
        epoch_top1=50.0, seconds=0.5,
                      waiting=0.25, memory=10**6))  # fmt: skip
    log.epoch(Epoch(epoch=1, steps=3, lr=0.1, train_loss=1.0, train_top1=50.0, top1=60.0, top5=None, loss=0.9,
                    seconds=2.0, waiting=0.25))  # fmt: skip
    log.close()
    plot_logs({"x": tmp_path / "x.csv"}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "y.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TenreoError, match=r"y\.csv: is not a log of a run"):
        plot_logs({"y": tmp_path / "y.csv"}, tmp_path / "y.png")
    assert not (tmp_path / "y.png").exists()


def test_sweeps_are_plotted(tmp_path):
    rows = [{"groups": None, "rate": None, "bytes": 10**7, "snr": None}]
    rows += [{"groups": g, "rate": r, "bytes": 10**6 // r, "snr": 20.0 / r} for g in (4, 8) for r in (1, 2)]
    plot_sweep(rows, "x", "rate", tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")

"""Tests that kill and stop real training processes: only the work since the last save is lost."""

import signal
import time

import pytest
import torch
from processes import seeded, start_tiny_run, tiny_run
from safetensors.torch import load_file

from tenreo.training.log import read_log


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def log(folder):
    return [(r["epoch"], r["step"], r["split"], r["loss"], r["top1"]) for r in read_log(folder / "run.csv")]


def check_equal(folder, uninterrupted, out):
    expected, whole = uninterrupted
    assert out == expected
    a, b = load_file(whole / "done.safetensors"), load_file(folder / "done.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert log(folder) == log(whole)


def killed(data, folder, moment, resume):
    """Kill a run `moment` seconds after it has written its first state."""
    process = start_tiny_run(data, folder, "--slow", *(["--resume"] if resume else []))
    rows = len(read_log(folder / "run.csv")) if resume else 0
    wait_for(folder / "run.state", process)
    while resume and len(read_log(folder / "run.csv")) == rows and process.poll() is None:
        time.sleep(0.05)
    time.sleep(moment)
    print(f"killed {moment:.3f} s after its first state, resumed: {resume}")
    process.kill()
    process.communicate()
    torch.load(folder / "run.state", weights_only=True)  # the file is complete, whatever the process was doing
    if (folder / "last.safetensors").exists():
        load_file(folder / "last.safetensors")


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_resumes_to_identical_files(digits_folder, tmp_path, uninterrupted, kills):
    moments = seeded()
    for k in range(kills):
        killed(digits_folder, tmp_path, moments.uniform(0, 0.5), resume=k > 0)
    check_equal(tmp_path, uninterrupted, tiny_run(digits_folder, tmp_path, "--resume"))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_run_saves_its_state(digits_folder, tmp_path, uninterrupted, number):
    process = start_tiny_run(digits_folder, tmp_path, "--pause", 5)
    wait_for(tmp_path / "run.csv", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    # exit_codes gives 130 for both signals; the command itself gives 143 for SIGTERM
    assert process.returncode == 130, err
    assert "Traceback" not in err and "stopping after this step" in err
    last = log(tmp_path)[-1]
    state = torch.load(tmp_path / "run.state", weights_only=True)
    assert state["progress"]["step"] == int(last[1]) <= 5  # which need not be a multiple of save_every
    check_equal(tmp_path, uninterrupted, tiny_run(digits_folder, tmp_path, "--resume"))

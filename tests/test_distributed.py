"""Distributed training with two processes of torchrun over gloo."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from processes import TINY_RUN, Forked, here, start_tenreo, start_tiny_run, two_processes
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from tenreo.distributed import check_own_gpus, local_gradients, process_group
from tenreo.errors import TenreoError
from tenreo.training.log import read_log

ONE_IMAGE = 100 / 7 + 0.01  # percent of the smallest batch, in case rounding decides between two nearly equal outputs


EXCHANGE = """
import torch
from tenreo.distributed import check_own_gpus, process_group
with process_group(torch.device("cpu")) as group:
    total, ranks = group.sum(torch.tensor([group.rank + 1.0])).item(), group.union({group.rank})
    print(f"{group.rank} {group.size} {group.is_main} {total} {ranks}\\n", end="", flush=True)
"""


def start_torchrun(*arguments):
    words = ("--standalone", "--nproc-per-node", 2, *arguments)
    return Forked("torch.distributed.run", *words, env={"OMP_NUM_THREADS": "1"})


def torchrun(*arguments):
    return ended(start_torchrun(*arguments))


def ended(process):
    """Return a process's code, stdout and stderr, without the lines that torch 2.8 prints about its connections."""
    out, err = process.communicate(timeout=120)
    return process.returncode, re.sub(r"^\[Gloo\].*\n", "", out, flags=re.MULTILINE), err


def two_runs(*arguments, start=start_tiny_run):
    """Run tests/tiny_run.py in two processes, with the environment of torchrun; return code, stdout, stderr of each."""
    return [ended(process) for process in two_processes(start, *arguments)]


def numbers(text):
    return [[float(x) for x in line.split()] for line in text.splitlines()]


def check_agreement(folder, uninterrupted, out):
    expected, one = uninterrupted
    assert len(numbers(out)) == 2  # only the main process prints
    for actual, wanted in zip(numbers(out), numbers(expected), strict=True):
        assert actual[:2] == pytest.approx(wanted[:2], abs=5e-4) and actual[2] == pytest.approx(
            wanted[2], abs=ONE_IMAGE
        )
    for actual, wanted in zip(read_log(folder / "run.csv"), read_log(one / "run.csv"), strict=True):
        assert float(actual["loss"]) == pytest.approx(float(wanted["loss"]), abs=5e-4)
        assert actual["step"] == wanted["step"]
        assert float(actual["top1"]) == pytest.approx(float(wanted["top1"]), abs=ONE_IMAGE)
    assert_close(load_file(folder / "done.safetensors"), load_file(one / "done.safetensors"), atol=5e-4, rtol=0)


@pytest.mark.slow
def test_processes_of_torchrun_exchange_values(tmp_path):
    """The slow tests below train in processes of torchrun."""
    (tmp_path / "exchange.py").write_text(EXCHANGE)
    code, out, err = torchrun(tmp_path / "exchange.py")
    assert (code, sorted(out.splitlines())) == (0, ["0 2 True 3.0 {0, 1}", "1 2 False 3.0 {0, 1}"]), err


@pytest.mark.parametrize(("batch", "accumulate"), [(4, 2), pytest.param(8, 1, marks=pytest.mark.slow)])
def test_two_processes_equal_one_with_the_whole_batch(digits_folder, tmp_path, uninterrupted, batch, accumulate):
    main, other = two_runs(digits_folder, tmp_path, "--batch", batch, "--accumulate", accumulate)
    assert (main[0], other[:2]) == (0, (0, "")), (main, other)
    check_agreement(tmp_path, uninterrupted, main[1])


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step_and_resume(digits_folder, tmp_path, uninterrupted):
    process = start_torchrun(TINY_RUN, digits_folder, tmp_path, "--batch", 8, "--pause", 5)
    while not (tmp_path / "run.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    done = torch.load(tmp_path / "run.state", weights_only=True)["progress"]["step"]
    assert done == int(read_log(tmp_path / "run.csv")[-1]["step"]) < 14
    code, out, err = torchrun(TINY_RUN, digits_folder, tmp_path, "--batch", 8, "--resume")
    assert code == 0, err
    check_agreement(tmp_path, uninterrupted, out)
    assert "processes 2, now 1" in _error_of_one(digits_folder, tmp_path)


def _error_of_one(data, folder):
    command = [sys.executable, str(TINY_RUN), str(data), str(folder), "--batch", "8", "--resume"]
    return subprocess.run(command, capture_output=True, text=True).stderr


def test_a_failing_process_ends_the_run_with_its_message(digits_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(digits_folder, data)
    next((data / "train" / "class3").iterdir()).write_bytes(b"not an image")
    runs = two_runs(data, tmp_path, "--batch", 8)
    errors = [err for _, _, err in runs]
    assert [code for code, *_ in runs] == [1, 1] and any("cannot be read as an image" in err for err in errors)
    for rank, err in enumerate(errors):
        own = [line for line in err.splitlines() if line.startswith("process ")]
        assert len(own) == 1 and own[0].startswith(f"process {rank} of 2: error: ") and "Traceback" not in err
    assert not (tmp_path / "done.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("batch", [4, 200])  # in a step, and in the evaluation after the only step
def test_divergence_has_the_same_message_in_all_processes(digits_folder, tmp_path, batch):
    code, _, err = torchrun(TINY_RUN, digits_folder, tmp_path, "--batch", batch, "--lr", 1e30)
    own = [line for line in err.splitlines() if line.startswith("process ")]
    assert code == 1 and 1 <= len(own) <= 2  # torchrun may end the second process before it has printed
    assert all("error: the loss became " in line and "in epoch 1" in line for line in own)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "last.safetensors").values())


@pytest.mark.slow
def test_the_command_runs_under_torchrun_and_counts_what_any_process_skips(compressed_file, digits_folder, tmp_path):
    data, out = tmp_path / "data", tmp_path / "f.safetensors"
    shutil.copytree(digits_folder, data)
    bad = sorted(sorted((data / "val" / f"class{c}").iterdir())[0] for c in (0, 9))
    for path in bad:  # in the first and second batch, so one image for each process
        path.write_bytes(b"not an image")
    code, out_text, err = torchrun("-m", "tenreo", "finetune", compressed_file, "--data", data, "--workers", 0,
                               "-b", 20, "-o", out, "--skip-broken", "--json")  # fmt: skip
    assert code == 0, err
    result = json.loads(out_text)
    assert result["skipped"] == list(map(str, bad)) and result["processes"] == 2
    assert err.count("skipped 2 broken images") == 1 and "Traceback" not in err and out.exists()


@pytest.mark.slow
def test_two_processes_evaluate_like_one(compressed_file, dense_file, digits_folder, tmp_path):
    data, table = tmp_path / "data", tmp_path / "two.csv"
    shutil.copytree(digits_folder, data)
    bad = sorted((data / "val" / "class3").iterdir())[0]
    job = ("evaluate", compressed_file, "--data", data, "--against", dense_file, "-b", 10, "--workers", 0, "--json")
    bad.write_bytes(b"not an image")
    runs = two_runs(*job, start=start_tenreo)
    assert [run[0] for run in runs] == [1, 1] and any("cannot be read as an image" in run[2] for run in runs)
    assert all(len(own_lines(error)) == 1 and not out for _, out, error in runs)
    (code, out, error), other = two_runs(*job, "--skip-broken", "--predictions", table, start=start_tenreo)
    assert (code, *other) == (0, 0, "", ""), (error, other)
    assert error.count("skipped 1 broken image") == 1
    result = json.loads(out)
    alone = json.loads(here(*job, "--skip-broken", "--predictions", tmp_path / "one.csv").stdout)
    assert table.read_bytes() == (tmp_path / "one.csv").read_bytes()
    for key in ("images", "top1", "top5", "loss", "classes", "against", "skipped", "data"):
        assert result[key] == alone[key], key
    assert result["images"] == 36


def own_lines(error):
    return [line for line in error.splitlines() if line.startswith("process ")]


def test_accumulated_gradients_are_exchanged_once(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        net = torch.nn.Linear(3, 2)
        engine, sent, x = DistributedDataParallel(net), [], torch.randn(2, 5, 3)
        engine.register_comm_hook(sent, lambda _, bucket: (sent.append(1), done(bucket.buffer()))[1])
        with local_gradients(engine):
            engine(x[0]).sum().backward()
        assert not sent
        engine(x[1]).sum().backward()
        assert sent == [1]
        assert_close(net.weight.grad, x.sum((0, 1)).expand(2, 3))
    finally:
        torch.distributed.destroy_process_group()


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


WAITING = """
import sys, time
import torch
from tenreo.distributed import process_group, watched
with process_group(torch.device("cpu")) as group, watched(group, 1.0):
    print("ready", flush=True)
    time.sleep(float(sys.argv[1]))  # as a process waits for its GPU, which waits for that of the other
"""


def two_waiting(tmp_path, seconds):
    (tmp_path / "waiting.py").write_text(WAITING)

    def start(seconds, env):
        command, env = [sys.executable, tmp_path / "waiting.py", str(seconds)], {**os.environ, **env}
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    runs = two_processes(start, seconds)
    for run in runs:
        while run.stdout.readline() != "ready\n":  # torch 2.8 prints about its connections
            assert run.poll() is None
    return runs


@pytest.mark.slow
def test_a_lost_process_ends_the_other_with_a_message(tmp_path):
    lost, other = two_waiting(tmp_path, 60)
    lost.kill()
    lost.communicate()
    code, out, error = ended(other)
    assert (code, out, "Traceback" in error) == (1, "", False)
    assert own_lines(error) == ["process 1 of 2: error: process 0 of the run has ended; see its error message"]


@pytest.mark.slow
def test_processes_that_watch_each_other_end_together(tmp_path):
    for code, _, error in map(ended, two_waiting(tmp_path, 3)):
        assert (code, own_lines(error)) == (0, [])


def test_processes_that_share_a_gpu_are_named():
    check_own_gpus(["0 of a", "1 of a", "0 of b"])
    with pytest.raises(TenreoError, match="processes 1 and 2 both use GPU 1 of a, needs a GPU for each"):
        check_own_gpus(["0 of a", "1 of a", "1 of a"])


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE: given many in the environment, needs a number"),
        ({"WORLD_SIZE": "2"}, "RANK: given nothing in the environment, needs a number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "the 2 processes cannot connect to each other"),
    ],
)
def test_invalid_torchrun_environments_are_errors(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TenreoError, match=f"{message}.* torchrun"), process_group(torch.device("cpu")):
        pass

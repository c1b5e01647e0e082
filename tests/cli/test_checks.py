"""Wrong usage is reported before torch is imported and before any work."""

import json
import os
import re
import stat
import subprocess
import sys

import pytest
from processes import DATA, here, refused

FILE = DATA / "int8.safetensors"
# Runs several commands in one process; the last item of each result is whether torch had been imported.
RUN = """
import json, os, sys
from typer.testing import CliRunner
from tenreo.cli.app import app
for line in json.load(sys.stdin):
    done = CliRunner().invoke(app, line)
    print(json.dumps([done.exit_code, done.stdout, done.stderr, repr(done.exception), "torch" in sys.modules]))
"""
PAPER = ["-a", "mobilenet_v2", "-g", "4", "-r", "2"]
NONE = [*PAPER, "--weights", "none"]
EVALUATE, FINETUNE = ["evaluate", str(FILE), "--data", "digits"], ["finetune", str(FILE), "--data", "digits"]
LONG = "x" * 300
WRONG = {
    "compress": [
        ([], "rate: not given; use -r 2"),
        (["-g", "4", "-r", "2"], "arch: not given"),
        ([*NONE, "--calibrate", "nowhere"], "nowhere: no such folder; the expected layout is"),
        ([*NONE, "--calibrate", "empty"], "empty: contains no image"),
        ([*NONE, "--calibrate", LONG], "no such folder"),
        ([*NONE, "--include", ""], "include: given"),
        ([*NONE, "--importance", "fc"], "importance: given 'fc', needs a pattern and a number"),
        ([*NONE, "-o", "no/such.safetensors"], "there is no folder no; create it first"),
        ([*NONE, "-o", "there"], "there: exists already; use --force"),
        ([*NONE, "-o", "x.pth"], "x.pth: the name does not suit the safetensors format; use x.safetensors"),
        ([*NONE, "-o", "x.PT", "--force"], "the name does not suit the safetensors format; use x.safetensors"),
        ([*NONE, "-o", "pipe", "--force"], "it is a pipe"),
        ([*NONE, "-o", "/dev/null", "--force"], "/dev/null: cannot be written: it is a device"),
        ([*NONE, "-o", LONG], "cannot be written: File name too long"),
        ([*NONE, "-o", "/proc/x.safetensors"], "/proc/x.safetensors: cannot be written"),
        ([*NONE, "-o", "there/x.safetensors"], "there/x.safetensors: cannot be written: Not a directory"),
        ([*NONE, "-o", ""], "contains files already; use --force to replace them"),
        ([*NONE, "--seed", "9" * 30], "seed: given 999999999999999999999999999999, needs a whole number of at most"),
        ([*NONE, "--seed", "-1"], "seed: given -1"),
        ([*NONE, "--calibrate-batches", "9" * 30], "of at most 1,000,000 (--calibrate-batches)"),
        ([*NONE, "--jobs", "9999999999"], "jobs: given 9999999999, needs a whole number of at most 1024 (-j/--jobs)"),
        ([*NONE, "-g", "9" * 30], "needs a whole number of at most 65,536 (-g/--groups)"),
        ([*NONE, "-r", "1e300"], "rate: given 1e+300, needs a number of at most 2,147,483,648 (-r/--rate)"),
        ([*NONE, "-r", "9" * 400], "rate: given inf, needs a number of at most"),
        ([*NONE, "--refine", "9" * 30], "of at most 1000 (--refine)"),
        ([*NONE, "--position-bits", "9" * 30], "of 1 to 31 (--position-bits)"),
        ([*NONE, "--importance", "a=1e300"], "of at most 1,000,000,000 (--importance)"),
        ([*NONE, "-g", "9" * 5000], "Invalid value for '--groups'"),
        (["-a", "resnet18", "--target-size", "9" * 30], "target_size: given"),
        (["-a", "resnet18", "--target-size", "9" * 100_000 + "x"], "target_size: given"),
    ],
    "evaluate": [
        ([], "Missing argument 'FILE'"),
        (["nowhere.safetensors", "--data", "digits"], "no such file; give the path of a file"),
        ([*EVALUATE[1:], "nowhere.safetensors"], "no such file; give the path of a file"),
        ([*EVALUATE[1:], "--predictions", "x.png"], "x.png: the name does not suit the CSV format; use x.csv"),
        ([*EVALUATE[1:], "--confusion", "x"], "does not suit the PNG or CSV format; use x.png or x.csv"),
        ([*EVALUATE[1:], "--confusion", "run.csv"], "run.csv: exists already"),
        ([*EVALUATE[1:], "--confusion", "x.csv", "--predictions", "./x.csv"], "given the same output file twice"),
        (["pipe", "--data", "digits"], "pipe: cannot be opened: it is a pipe"),
        ([LONG, "--data", "digits"], "cannot be opened: File name too long"),
        ([*EVALUATE[1:], "--data", "nowhere"], "nowhere: no such folder"),
        ([*EVALUATE[1:], "--data", "empty"], "empty/val: no such folder"),
        ([*EVALUATE[1:], "--against", "nowhere"], "nowhere: cannot be opened"),
        ([*EVALUATE[1:], "--workers", "9999999999"], "needs a whole number of 0 to 1024 (--workers)"),
        ([*EVALUATE[1:], "-b", "9" * 30], "batch_size: given 999999999999999999999999999999"),
        ([*EVALUATE[1:], "--limit", "9" * 30], "limit: given 999999999999999999999999999999"),
    ],
    "finetune": [
        ([], "Missing argument 'FILE|FOLDER'"),
        (["nowhere.safetensors", "--data", "digits"], "no such file"),
        ([*FINETUNE[1:], "--data", "empty"], "empty/train: no such folder"),
        ([*FINETUNE[1:], "--distill", "--teacher", "pipe"], "pipe: cannot be opened: it is a pipe"),
        ([*FINETUNE[1:], "--resume"], "finetuned-int8.state: cannot be opened"),
        ([*FINETUNE[1:], "-o", "x.pth"], "the name does not suit the safetensors format; use x.safetensors"),
        ([*FINETUNE[1:], "-o", "run.safetensors"], "run.csv: exists already"),
        ([*FINETUNE[1:], "-o", "other.safetensors", "--force"], "other.state: cannot be written: it is a folder"),
        ([*FINETUNE[1:], "-o", "/proc/x.safetensors"], "/proc/x.safetensors: cannot be written"),
        ([*FINETUNE[1:], "--data", "empty", "--distill"], "empty: contains no image"),
        ([*FINETUNE[1:], "--labels", "there"], "labels: given there, but the digits contain their labels"),
        ([*FINETUNE[1:], "--data", "empty", "--split", "."], "empty/train: no such folder"),
        ([*FINETUNE[1:], "--accumulate", "0"], "accumulate: given 0, needs a whole number of at least 1"),
        ([*FINETUNE[1:], "--calibrate", "9" * 30], "calibrate: given"),
    ],
    "inspect": [([], "Missing argument"), (["pipe"], "it is a pipe"), ([LONG], "File name too long"),
                (["/dev/zero"], "it is a device"), (["empty"], "has no file of weights")],
    "sweep": [
        ([], "rate: not given"),
        ([*NONE, "--data", "nowhere"], "nowhere: no such folder"),
        ([*NONE, "--plot", "x.pdf"], "x.pdf: the name does not suit the PNG format; use x.png"),
        ([*NONE, "--plot", "no/such.png"], "there is no folder no"),
        ([*NONE, "--plot", "/proc/x.png"], "cannot be written"),
    ],
    "demo": [
        (["--out", "there"], "there: exists already"),
        (["--out", "there/below"], "there/below: cannot be written"),
        (["--out", "run.csv", "--force"], "exists already"),
        (["--out", "/proc/x"], "cannot be written"),
        (["--out", LONG], "cannot be written"),
        (["--seed", "9" * 30], "seed: given"),
    ],
}  # fmt: skip


@pytest.fixture
def filled_folder(inside):
    """A working folder that contains a file, two folders, a pipe, and the log of a run."""
    os.mkfifo(inside / "pipe")
    for name in ("empty", "other.state"):
        (inside / name).mkdir()
    for name in ("there", "run.csv"):
        (inside / name).write_text("mine")
    return inside


@pytest.mark.parametrize("command", ["compress", "sweep"])
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["-a", "resnet51"], "architecture 'resnet51'; similar names: "),
        (["--weights", "IMAGENET1K_V3"], "neither a file, nor none, nor one of IMAGENET1K_V1, IMAGENET1K_V2"),
        (["--weights", "nowhere.pth"], "neither a file, nor none, nor one of"),
        (["--weights", "pipe"], "it is a pipe"),
        (["--weights", "."], "it is a folder"),
        (["--weights", LONG], "neither a file, nor none, nor one of"),
    ],
)
def test_wrong_names_and_weights_are_refused_before_any_work(filled_folder, command, typed, message):
    before = sorted(filled_folder.rglob("*"))
    error = refused(command, *PAPER, *typed)
    assert message in error and error.count("\n") == 1
    assert sorted(filled_folder.rglob("*")) == before


def test_wrong_usage_is_reported_before_torch_is_imported(filled_folder):
    before = sorted(filled_folder.rglob("*"))
    lines = [[command, *typed] for command, wrong in WRONG.items() for typed, _ in wrong]
    messages = [message for wrong in WRONG.values() for _, message in wrong]
    done = subprocess.run([sys.executable, "-c", RUN], input=json.dumps(lines), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for typed, message, (code, out, err, exception, torch) in zip(lines, messages, answers, strict=True):
        assert message in err and (code, out) == (2, ""), (typed, code, out, err, exception)
        assert not torch and len(err) < 2400 and err.count("\n") == 1, (typed, err)
    assert sorted(filled_folder.rglob("*")) == before and (filled_folder / "there").read_text() == "mine"


@pytest.mark.parametrize("device", ["gpu", "cuda:300", "cuda:x", "x" * 300])
@pytest.mark.parametrize("job", [["compress", *NONE], ["sweep", *NONE], EVALUATE, FINETUNE], ids=lambda job: job[0])
def test_a_wrong_device_is_reported_by_torch_before_a_model_is_loaded(filled_folder, job, device):
    before = sorted(filled_folder.rglob("*"))
    error = refused(*job, "--device", device)
    assert re.match("error: device: .*(needs auto, cpu, cuda, cuda:N or mps|is not available on this machine)", error)
    assert "(--device)" in error and error.count("\n") == 1 and sorted(filled_folder.rglob("*")) == before


def test_a_damaged_file_is_reported_before_torch_is_imported(inside):
    (inside / "d.safetensors").write_bytes(FILE.read_bytes()[:-100])
    lines = [["evaluate", "d.safetensors", "--data", "digits"], ["finetune", "d.safetensors", "--data", "digits"]]
    done = subprocess.run([sys.executable, "-c", RUN], input=json.dumps(lines), capture_output=True, text=True)
    for line in done.stdout.splitlines():
        code, _, err, _, torch = json.loads(line)
        assert code == 1 and "cannot be read as safetensors" in err and not torch


def test_device_nodes_are_not_replaced(inside):
    """As root, `--force` could replace them."""
    before = os.stat("/dev/null")
    for typed in (["-o", "/dev/null"], ["-o", "/dev/null", "--force"]):
        refused("compress", *NONE, *typed)
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode) and (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)


def test_a_tenreo_file_of_weights_names_the_architecture(dense_file, inside):
    typed = ("compress", "--weights", dense_file, "-g", 8, "-r", 8, "--dry-run", "--json")
    assert json.loads(here(*typed).stdout) == json.loads(here(*typed, "-a", "shufflenet_v2_x0_5").stdout)
    (inside / "x.safetensors").write_bytes(FILE.read_bytes())
    assert "arch: not given" in refused("compress", "--weights", "x.safetensors", "-g", 8, "-r", 8)

"""Whole commands in processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import tenreo

import tenreo as package
from tenreo.cli import common
from tenreo.cli.common import choose_workers
from tenreo.recipe import ROUNDS


def good(*arguments, **options):
    done = tenreo(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done


def bad(*arguments, code=1, **options):
    done = tenreo(*arguments, **options)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and not done.stdout
    return done.stderr


def test_version_and_help():
    assert good("--version").stdout.strip() == f"tenreo {package.__version__}"
    for command in ("compress", "evaluate", "finetune", "inspect", "sweep", "demo"):
        assert command in good("--help").stdout
        assert "--help" in good(command, "--help").stdout


def test_help_and_inspect_do_not_import_torch(compressed_file):
    code = (
        "import sys, tenreo.cli.app as a\n"
        "try: a.app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    for arguments in (["--help"], ["inspect", str(compressed_file)]):
        assert (
            subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL).returncode
            == 0
        )


def test_compress_writes_the_references_name_and_never_overwrites(dense_file, tmp_path):
    job = ("compress", "-a", "mobilenet_v2", "-g", 8, "-r", 8, "--progressive", "--weights", dense_file,
           "--refine", 1)  # fmt: skip
    done = good(*job, cwd=tmp_path)
    path = tmp_path / "compressed-mobilenet_v2-progressive-8-8.0.safetensors"
    assert f"wrote {path.name}" in done.stdout and "SNR of compressed weights" in done.stdout
    before = path.read_bytes()
    assert "exists already; say --force" in bad(*job, cwd=tmp_path)
    assert path.read_bytes() == before
    result = json.loads(good(*job, "--force", "--json", "--jobs", 1, cwd=tmp_path).stdout)
    assert path.read_bytes() == before  # the same command writes the same bytes, whatever the jobs
    assert result["bytes"] == len(before) and result["after"]["positions"] > 0
    assert list(tmp_path.iterdir()) == [path]


def test_refinement_and_statistics_are_on_and_can_be_turned_off(dense_file, tmp_path):
    job = ("compress", "-a", "mobilenet_v2", "-g", 8, "-r", 8, "--progressive", "--weights", dense_file,
           "--json")  # fmt: skip
    full = json.loads(good(*job, "-o", "full.st", "--refine", 2, cwd=tmp_path).stdout)
    assert full["snr"] > full["snr_unrefined"] + 1
    assert full["corrections"][0]["source"] == "noise" and full["corrections"][0]["batchnorms"] == 52
    plain = json.loads(good(*job, "-o", "p.st", "--refine", 0, "--no-match-statistics", cwd=tmp_path).stdout)
    assert plain["snr"] == plain["snr_unrefined"] == full["snr_unrefined"] and plain["corrections"] == []
    told = good("inspect", "full.st", cwd=tmp_path).stdout
    assert "52 BatchNorms, on 256 images of noise" in told and f"{full['snr']:.2f} dB" in told
    digits = json.loads(good(*job, "-o", "c.st", "--refine", 0, "--calibrate", "digits", "--calibrate-batches", 2,
                             cwd=tmp_path).stdout)  # fmt: skip
    assert digits["corrections"][0]["images"] == 128 and digits["corrections"][0]["source"] == "digits"


def test_dry_run_shows_the_papers_row_and_writes_nothing(tmp_path):
    job = ("compress", "-a", "resnet50", "-g", 4, "-r", 1.0, "--progressive", "--dry-run")
    plan = json.loads(good(*job, "--json", cwd=tmp_path).stdout)
    assert plan["after"]["coefficients"] == 1732024 and plan["recipe"]["refine"] == ROUNDS
    assert "not in the ResNet rule" in good(*job, cwd=tmp_path).stdout
    assert not list(tmp_path.iterdir())


def test_configuration_with_options_on_top(tmp_path):
    (tmp_path / "c.yaml").write_text("arch: mobilenet_v2\ngroups: 4\nprogressive: 0.5\nweights: none\n")
    plan = json.loads(
        good("compress", "--config", "c.yaml", "-r", 1.0, "--dry-run", "--json", cwd=tmp_path).stdout
    )
    assert plan["after"]["coefficients"] == 768060


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-g", 0, "-r", 2.0], "groups: given 0"),
        (["-g", 4, "-r", 0.5], "uniform rate: given 0.5"),
        (["-g", 4, "-r", 0, "--progressive"], "progressive growth: given 0"),
        (["-g", 4], "needs exactly one of uniform, progressive"),
        (["-g", 4, "--progressive"], "needs the growth"),
        (["-r", 2.0], "groups: not given"),
        (["-g", 4, "-r", 2.0, "--include", "nothing*"], "pattern 'nothing*' matches no"),
        (["-g", 4, "-r", 2.0, "--weights", "nowhere.pth"], "neither a file"),
        (["-g", 4, "-r", 2.0, "--target-size", "2MB"], "given uniform and target_size"),
        (["--target-size", "small"], "target_size: given 'small', needs an amount such as 2.5MB"),
        (["--target-size", "20kB"], "target_size: given 20,000, but the least is"),
        (["--target-size", "2MB", "--progressive"], "--progressive: goes with -r"),
        (["--target-params", "2M"], "groups: not given"),
        (["-g", 4, "-r", 2.0, "--coefficients", "int7"], "coefficients: given 'int7', needs one of float32"),
        (["-g", 4, "-r", 2.0, "--position-bits", 40], "position_bits: given 40, needs 1 to 31"),
        (["-g", 4, "-r", 2.0, "--out", "no/such/folder.safetensors"], "there is no folder"),
        (["-g", 4, "-r", 2.0, "--config", "none.yaml"], "can not be read as YAML"),
    ],
)  # fmt: skip
def test_compress_refuses_bad_input(tmp_path, options, message):
    weights = [] if "--weights" in options else ["--weights", "none"]
    assert message in bad("compress", "-a", "mobilenet_v2", *weights, *options, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_size_is_met_and_the_same_command_writes_the_same_bytes(dense_file, tmp_path):
    job = ("compress", "-a", "mobilenet_v2", "--weights", dense_file, "--target-size", "1.4MB", "--refine", 1,
           "--no-match-statistics")  # fmt: skip
    done = good(*job, "--json", cwd=tmp_path)
    path = tmp_path / "compressed-mobilenet_v2-target_size-1400000.safetensors"
    result, before = json.loads(done.stdout), path.read_bytes()
    assert 1_330_000 < result["bytes"] == len(before) <= 1_400_000
    good(*job, "--force", "--jobs", 1, cwd=tmp_path)
    assert path.read_bytes() == before
    told = good("inspect", path).stdout
    assert "groups chosen, target size 1,400,000" in told and "bits per compressed weight" in told


def test_a_number_of_parameters_is_met_and_the_rate_is_said(tmp_path):
    job = ("compress", "-a", "mobilenet_v2", "-g", 4, "--target-params", "2.0M", "--dry-run")
    told = good(*job, cwd=tmp_path).stdout
    assert "recipe: 4 groups, progressive 0.7" in told and re.search(
        r"parameters \(paper\) +3.54 M +2.00 M", told
    )


def test_sweep(dense_file, tmp_path):
    counts = json.loads(
        good("sweep", "-a", "resnet50", "-g", 4, 8, "-r", 0.5, 1, "--dry-run", "--json").stdout
    )["rows"]
    assert [(r["groups"], r["rate"]) for r in counts] == [(None, None), (4, 0.5), (4, 1), (8, 0.5), (8, 1)]
    assert counts[2]["trainable"] == 1732024 and counts[3]["parameters"] == 6486920  # the paper's
    job = ("sweep", "-a", "mobilenet_v2", "--weights", dense_file, "-g", 8, "-r", 8, 16, "--refine", 1)
    full = json.loads(
        good(
            *job,
            "--data",
            "digits",
            "--limit",
            40,
            "--no-match-statistics",
            "--plot",
            "s.png",
            "--json",
            cwd=tmp_path,
        ).stdout
    )["rows"]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert full[1]["snr"] > full[2]["snr"] and full[1]["bytes"] > full[2]["bytes"] and "top1" in full[0]
    assert "exists already" in bad(*job, "--plot", "s.png", cwd=tmp_path)
    assert "uniform rate: given 0.5" in bad("sweep", "-a", "resnet50", "-g", 4, "-r", 0.5, "--uniform")
    assert max(map(len, good(*job, "--dry-run", env={"COLUMNS": "80"}).stdout.splitlines())) <= 80


def test_wrong_usage_is_exit_code_2(tmp_path):
    assert "No such option" in bad("compress", "--nonsense", code=2)
    assert "Missing option" in bad("evaluate", "x.safetensors", code=2)


def test_inspect(compressed_file, dense_file):
    text = good("inspect", compressed_file).stdout
    assert (
        "mobilenet_v2, 10 classes" in text and "8 groups, progressive 8.0" in text and "classifier.1" in text
    )
    assert "classifier.1" not in good("inspect", compressed_file, "--no-layers").stdout
    found = json.loads(good("inspect", compressed_file, "--json").stdout)
    assert found["before"]["parameters"] == 2236682 + 34112
    assert found["bytes"] == compressed_file.stat().st_size
    assert "dense, mobilenet_v2" in good("inspect", dense_file).stdout
    assert "can not be opened" in bad("inspect", "nothing.safetensors")


def test_tables_fit_80_columns(compressed_file):
    text = good("inspect", compressed_file, env={"COLUMNS": "80"}).stdout
    assert max(map(len, text.splitlines()[1:])) <= 80  # the first line is prose
    assert "\x1b" not in text


def test_evaluate(compressed_file):
    found = json.loads(good("evaluate", compressed_file, "--data", "digits", "--limit", 50, "--json").stdout)
    assert found["images"] == 50 and 0 <= found["top1"] <= found["top5"] <= 100
    assert "images/s" in good("evaluate", compressed_file, "--data", "digits", "--limit", 8).stdout
    assert "no such folder" in bad("evaluate", compressed_file, "--data", "nowhere")
    assert "not available here" in bad("evaluate", compressed_file, "--data", "digits", "--device", "cuda:77")


def test_finetune_stops_when_told_and_goes_on(compressed_file, dense_file, digits_folder, tmp_path):
    (tmp_path / "c.yaml").write_text("batch_size: 16\nepochs: 2\nlr: 0.01\nsave_every: 5\ndistill: true\n")
    job = ("finetune", compressed_file, "--data", digits_folder, "--config", "c.yaml", "--teacher", dense_file,
           "-b", 30, "--workers", 1, "--out", "f.safetensors")  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "tenreo", *map(str, job)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "f.csv").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "go on with the same command and --resume" in told
    assert "Traceback" not in told and "training loss" in told
    resumed = json.loads(good(*job, "--resume", "--plot", "--json", cwd=tmp_path).stdout)
    assert [(e["epoch"], e["steps"]) for e in resumed["epochs"]] == [(1, 8), (2, 8)]
    good("inspect", "f.last.safetensors", cwd=tmp_path)
    assert "exists already" in bad(*job, cwd=tmp_path)
    whole = json.loads(good(*job[:-1], "g.safetensors", "--json", cwd=tmp_path).stdout)
    assert [e["loss"] for e in whole["epochs"]] == [e["loss"] for e in resumed["epochs"]]
    assert (tmp_path / "f.last.safetensors").read_bytes() == (tmp_path / "g.last.safetensors").read_bytes()
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 1 + 2 * (8 + 1)
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_finetune_refuses_bad_options(compressed_file, dense_file, tmp_path):
    job = ("finetune", compressed_file, "--data", "digits")
    (tmp_path / "c.yaml").write_text("lr: fast\n")
    assert "c.yaml: lr: given 'fast', needs a number" in bad(*job, "--config", "c.yaml", cwd=tmp_path)
    assert "which does nothing" in bad(*job, "--epochs", 0, "--calibrate", 1, "--resume", cwd=tmp_path)
    assert "say --distill as well" in bad(*job, "--teacher", dense_file, cwd=tmp_path)
    assert "neither a file, nor none" in bad(*job, "--distill", cwd=tmp_path)
    (tmp_path / "f.state").write_text("of a run that was cut off before its first epoch was done")
    assert "f.state: exists already" in bad(*job, "-o", "f.safetensors", cwd=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.yaml", "f.state"]


def test_stopped_while_it_calibrates_it_writes_nothing(compressed_file, tmp_path):
    (tmp_path / "f.state").write_text("of an earlier run")
    job = (
        "finetune",
        compressed_file,
        "--data",
        "digits",
        "-b",
        8,
        "--calibrate",
        100,
        "--out",
        "f.safetensors",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tenreo", *map(str, job), "--force"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    while (tmp_path / "f.state").exists():  # it is the first thing that goes
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "there is nothing to resume" in told and "calibrated" not in told
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_progress_is_told_in_lines(monkeypatch, capsys):
    for seconds, lines in ((0, ["finetune 3/100 loss 2", "finetune 50/100 loss 1"]), (60, [])):
        monkeypatch.setattr(common, "LINE_EVERY", seconds)
        with common.progress_bar("finetune", 100) as advance:
            advance(3, "loss 2")
            advance(done=50, text="loss 1")
        told = capsys.readouterr().err.splitlines()
        assert len(told) == len(lines) and all(map(str.startswith, told, lines))
    with common.progress_bar("finetune", 100, shown=False) as advance:
        advance(3)
    assert not capsys.readouterr().err


def test_calibrate_without_training(compressed_file, tmp_path):
    job = ("finetune", compressed_file, "--data", "digits", "--epochs", 0, "--out", "c.safetensors")
    (tmp_path / "c.state").write_text("of a run that is none of its business")
    assert "say --calibrate 4" in bad(*job, cwd=tmp_path)
    done = good(*job, "--calibrate", 2, cwd=tmp_path)
    assert "calibrated" in done.stdout and "52 BatchNorms, on 128 images of digits" in done.stderr
    written = (tmp_path / "c.safetensors").read_bytes()
    found = json.loads(good(*job, "--calibrate", 2, "--force", "--json", cwd=tmp_path).stdout)
    assert found["epochs"] == [] and 0 <= found["calibrated"]["top1"] <= 100
    assert (tmp_path / "c.safetensors").read_bytes() == written  # deterministic
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.safetensors", "c.state"]
    told = good("inspect", "c.safetensors", cwd=tmp_path).stdout
    assert "images of noise" in told and "images of digits" in told


def test_processes_share_the_cores(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    assert choose_workers(None, "somewhere") == cores and choose_workers(None, "digits") == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(8 * cores))
    assert choose_workers(None, "somewhere") == 1 and choose_workers(3, "somewhere") == 3


def test_ctrl_c_ends_with_130_and_no_file(tmp_path):
    job = ["compress", "-a", "resnet152", "-g", "8", "-r", "1.0", "--progressive", "--weights", "none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tenreo", *job],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it in the background
    )
    time.sleep(9)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "stopped" in process.stderr.read()
    process.stderr.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_demo(tmp_path):
    rows = json.loads(good("demo", "--json", cwd=tmp_path).stdout)["rows"]
    assert rows[0]["dense"] > 95 and len(rows) == 5
    assert all(row["refined_noise"] >= row["paper"] - 1 for row in rows[1:])
    assert all(row["finetuned"] > row["paper"] - 2 for row in rows[1:])
    assert len(list((tmp_path / "tenreo-demo").glob("*.safetensors"))) == 9

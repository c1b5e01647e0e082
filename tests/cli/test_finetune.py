"""`tenreo finetune`."""

import json
import signal
import time

from processes import here, refused, start_tenreo


def wait_until(true, process):
    while not true():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_it_stops_when_told_and_goes_on(compressed_file, dense_file, digits_folder, inside):
    (inside / "c.yaml").write_text("batch_size: 16\nepochs: 2\nlr: 0.01\nsave_every: 5\ndistill: true\n")
    job = ("finetune", compressed_file, "--data", digits_folder, "--config", "c.yaml", "--teacher", dense_file,
           "-b", 30, "--workers", 1, "--out", "f.safetensors")  # fmt: skip
    process = start_tenreo(*job)
    wait_until((inside / "f.csv").exists, process)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "go on with the same command and --resume" in told
    assert "Traceback" not in told and "training loss" in told
    resumed = json.loads(here(*job, "--resume", "--plot", "--json").stdout)
    assert [(e["epoch"], e["steps"]) for e in resumed["epochs"]] == [(0, 0), (1, 8), (2, 8)]
    here("inspect", "f.last.safetensors")
    assert "exists already" in refused(*job)
    whole = json.loads(here(*job[:-1], "g.safetensors", "--json").stdout)
    assert [e["loss"] for e in whole["epochs"]] == [e["loss"] for e in resumed["epochs"]]
    assert (inside / "f.last.safetensors").read_bytes() == (inside / "g.last.safetensors").read_bytes()
    assert len((inside / "f.csv").read_text().splitlines()) == 1 + 1 + 2 * (8 + 1)
    assert (inside / "f.png").read_bytes().startswith(b"\x89PNG")
    assert resumed["files"] == {
        "file": "f.safetensors", "last": "f.last.safetensors", "state": "f.state", "log": "f.csv", "plot": "f.png",
    }  # fmt: skip


def test_bad_options_are_refused(compressed_file, dense_file, inside):
    job = ("finetune", compressed_file, "--data", "digits")
    (inside / "c.yaml").write_text("lr: fast\n")
    assert "c.yaml: lr: given 'fast', needs a number" in refused(*job, "--config", "c.yaml")
    assert "which does nothing" in refused(*job, "--epochs", 0, "--calibrate", 1, "--resume")
    assert "say --distill as well" in refused(*job, "--teacher", dense_file)
    assert "neither a file, nor none" in refused(*job, "--distill")
    assert "nowhere.st: can not be opened" in refused(*job, "--distill", "--teacher", "nowhere.st")
    assert "is compressed already" in refused(*job, "--distill", "--teacher", compressed_file, code=1)
    assert "warmup: given 2.0 epochs, needs 0 to 1" in refused(*job, "--warmup", 2)
    (inside / "f.state").write_text("of a run that was cut off before its first epoch was done")
    assert "f.state: exists already" in refused(*job, "-o", "f.safetensors")
    assert sorted(p.name for p in inside.iterdir()) == ["c.yaml", "f.state"]


def test_stopped_while_it_calibrates_it_writes_nothing(compressed_file, inside):
    (inside / "f.state").write_text("of an earlier run")
    process = start_tenreo("finetune", compressed_file, "--data", "digits", "-b", 8, "--calibrate", 100,
                           "--out", "f.safetensors", "--force")  # fmt: skip
    wait_until(lambda: not (inside / "f.state").exists(), process)  # it is the first thing that goes
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "there is nothing to resume" in told and "calibrated" not in told
    assert not list(inside.iterdir())


def test_calibrate_without_training(compressed_file, inside):
    job = ("finetune", compressed_file, "--data", "digits", "--epochs", 0, "--out", "c.safetensors")
    (inside / "c.state").write_text("of a run that is none of its business")
    assert "say --calibrate 4" in refused(*job)
    done = here(*job, "--calibrate", 2)
    assert "calibrated" in done.stdout and "52 BatchNorms, on 128 images of digits" in done.stderr
    written = (inside / "c.safetensors").read_bytes()
    found = json.loads(here(*job, "--calibrate", 2, "--force", "--json").stdout)
    assert found["epochs"] == [] and 0 <= found["calibrated"]["top1"] <= 100
    assert (inside / "c.safetensors").read_bytes() == written  # deterministic
    assert sorted(p.name for p in inside.iterdir()) == ["c.safetensors", "c.state"]
    told = here("inspect", "c.safetensors").stdout
    assert "images of noise" in told and "images of digits" in told

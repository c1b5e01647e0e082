"""Tests of `tenreo finetune`."""

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from processes import here, refused, start_tenreo

from tenreo.models.model_files import open_model, save


def wait_until(condition, process):
    """Wait until a condition is true, and fail if the process ends earlier."""
    while not condition():
        assert process.poll() is None, process.output()
        time.sleep(0.01)


def copy_few(digits, data, count):
    """Copy a number of training images of each class, and one for evaluation."""
    for split, most in (("train", count), ("val", 1)):
        for folder in sorted((digits / split).iterdir()):
            (data / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:most]:
                shutil.copy(path, data / split / folder.name)


@pytest.mark.slow
def test_a_stopped_run_resumes(compressed_file, dense_file, digits_folder, inside):
    copy_few(digits_folder, inside / "data", 6)
    (inside / "c.yaml").write_text("batch_size: 16\nepochs: 2\nlr: 0.01\nsave_every: 5\ndistill: true\n")
    job = ("finetune", compressed_file, "--data", "data", "--config", "c.yaml", "--teacher", dense_file,
           "-b", 8, "--workers", 1, "--out", "f.safetensors")  # fmt: skip
    process = start_tenreo(*job)
    wait_until((inside / "f.csv").exists, process)
    process.send_signal(signal.SIGTERM)
    messages = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "go on with the same command and --resume" in messages
    assert "Traceback" not in messages and "training loss" in messages
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
    assert "give --distill as well" in refused(*job, "--teacher", dense_file)
    model, header = open_model(compressed_file)
    save(model, inside / "moved.safetensors", replace(header.info, weights="nowhere.safetensors"))
    assert "do not exist" in refused("finetune", "moved.safetensors", *job[2:], "--distill")
    assert "nowhere.st: cannot be opened" in refused(*job, "--distill", "--teacher", "nowhere.st")
    assert "is already compressed" in refused(*job, "--distill", "--teacher", compressed_file, code=1)
    assert "warmup: given 2.0 epochs, needs 0 to 1" in refused(*job, "--warmup", 2)
    (inside / "f.state").write_text("state of a run that was interrupted in its first epoch")
    assert "f.state: exists already" in refused(*job, "-o", "f.safetensors")
    assert sorted(p.name for p in inside.iterdir()) == ["c.yaml", "f.state", "moved.safetensors"]


@pytest.mark.slow
def test_a_run_stopped_during_calibration_writes_nothing(compressed_file, inside):
    (inside / "f.state").write_text("state of an earlier run")
    process = start_tenreo("finetune", compressed_file, "--data", "digits", "-b", 8, "--calibrate", 100,
                           "--out", "f.safetensors", "--force")  # fmt: skip
    wait_until(lambda: not (inside / "f.state").exists(), process)  # the run first removes the old state
    process.send_signal(signal.SIGINT)
    messages = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "there is nothing to resume" in messages and "calibrated" not in messages
    assert not list(inside.iterdir())


def test_calibrate_without_training(compressed_file, inside):
    job = ("finetune", compressed_file, "--data", "digits", "--epochs", 0, "--out", "c.safetensors")
    (inside / "c.state").write_text("state of another run")
    assert "give --calibrate 4" in refused(*job)
    done = here(*job, "--calibrate", 2)
    assert "calibrated" in done.stdout and "56 BatchNorms, on 128 images of digits" in done.stderr
    written = (inside / "c.safetensors").read_bytes()
    result = json.loads(here(*job, "--calibrate", 2, "--force", "--json").stdout)
    assert result["epochs"] == [] and 0 <= result["calibrated"]["top1"] <= 100
    assert (inside / "c.safetensors").read_bytes() == written  # deterministic
    assert sorted(p.name for p in inside.iterdir()) == ["c.safetensors", "c.state"]
    output = here("inspect", "c.safetensors").stdout
    assert "images of noise" in output and "images of digits" in output


@pytest.mark.slow
def test_the_best_file_is_the_initial_model_if_no_epoch_is_better(compressed_file, digits_folder, inside):
    """Also: a resumed run needs the same initial model, images and files."""
    data = inside / "data"
    shutil.copytree(digits_folder, data)
    job = ("finetune", compressed_file, "--data", data, "-b", 32, "--workers", 1, "--freeze", "dense", "-o",
           "f.safetensors")  # fmt: skip
    done = here(*job, "--lr", 0, "--json")
    result = json.loads(done.stdout)
    assert result["best"] == 0 and [e["epoch"] for e in result["epochs"]] == [0, 1]
    assert result["epochs"][0]["train_loss"] is None and result["epochs"][0]["top1"] == result["epochs"][1]["top1"]
    assert "no epoch improved the model: f.safetensors is the model before training" in done.stderr
    names = json.loads(here("inspect", "f.safetensors", "--json").stdout)["model"]["class_names"]
    assert names == [f"class{i}" for i in range(10)]
    rows = (inside / "f.csv").read_text().splitlines()
    assert rows[1].startswith("0,0,0,val,,")
    job = (*job, "--lr", 0, "--resume")
    (inside / "f.last.safetensors").unlink()
    here(*job)
    assert (inside / "f.last.safetensors").exists()
    (inside / "f.safetensors").unlink()
    done = here(*job, code=1)
    assert "f.safetensors (file)" not in done.stdout
    assert "f.safetensors: the best model, of epoch 0, no longer exists" in done.stderr
    (data / "train" / "class1").rename(data / "train" / "x")
    (data / "train" / "class2").rename(data / "train" / "class1")
    (data / "train" / "x").rename(data / "train" / "class2")
    assert "was made with training images of other names, sizes or classes" in refused(*job, code=1)
    shutil.rmtree(data)
    shutil.copytree(digits_folder, data)
    shutil.copy("f.last.safetensors", "other.safetensors")
    assert "from another model's file" in refused("finetune", "other.safetensors", *job[2:], code=1)


@pytest.mark.slow
def test_a_missing_best_file_is_restored_if_the_last_epoch_is_the_best(dense_file, digits_folder, inside):
    """A model that always predicts nine is trained on zeros only, so that the last epoch is the best."""
    model, header = open_model(dense_file)
    model.fc.bias.data[9] = 1.0
    save(model, inside / "nines.safetensors", replace(header.info, class_names=tuple(f"class{i}" for i in range(10))))
    for split in ("train", "val"):
        shutil.copytree(digits_folder / split / "class0", inside / "data" / split / "class0")
    job = ("finetune", "nines.safetensors", "--data", "data", "-b", 4, "--workers", 1, "--lr", 0.1, "--freeze",
           "coefficients", "-o", "f.safetensors", "--json")  # fmt: skip
    result = json.loads(here(*job).stdout)
    assert result["best"] == 1 and [e["top1"] for e in result["epochs"]] == [0, 100]
    written = (inside / "f.safetensors").read_bytes()
    (inside / "f.safetensors").unlink()
    here(*job, "--resume")
    assert (inside / "f.safetensors").read_bytes() == written


@pytest.mark.slow
def test_distillation_on_a_folder_of_unlabeled_images(compressed_file, dense_file, digits_folder, inside):
    """Nine tenths are training images; the others are evaluated with the teacher's predictions. Resuming is exact."""
    (inside / "pictures").mkdir()
    for path in sorted((digits_folder / "val").rglob("*.png")):
        shutil.copy(path, inside / "pictures")
    job = ("finetune", compressed_file, "--data", "pictures", "--distill", "--teacher", dense_file, "-b", 16,
           "--workers", 0, "--accumulate", 2, "--freeze-batchnorm", "--json")  # fmt: skip
    done = here(*job, "--epochs", 2, "-o", "whole.safetensors")
    result = json.loads(done.stdout)
    assert [(e["epoch"], e["steps"]) for e in result["epochs"]] == [(0, 0), (1, 1), (2, 1)]  # 33 images
    assert "no labels: top-1 is the agreement with the dense model" in done.stderr
    assert result["epochs"][0]["loss"] > 0 and done.stderr.count("training") == 2
    here(*job, "--epochs", 1, "-o", "part.safetensors")
    resumed = json.loads(here(*job, "--epochs", 2, "-o", "part.safetensors", "--resume").stdout)
    assert [e["loss"] for e in resumed["epochs"]] == [e["loss"] for e in result["epochs"]]
    assert Path("part.last.safetensors").read_bytes() == Path("whole.last.safetensors").read_bytes()


def test_a_new_last_layer_is_trained(compressed_file, digits_folder, inside):
    data = inside / "data"
    shutil.copytree(digits_folder, data)
    for split in ("train", "val"):
        for i in range(3, 10):
            shutil.rmtree(data / split / f"class{i}")
    job = ("finetune", compressed_file, "--data", data, "--classes", 3, "-b", 32, "--workers", 0, "-o", "h.safetensors")
    assert "leave out --distill" in refused(*job, "--distill")
    output = here(*job, "--lr", 0.01).stdout
    assert output.startswith("start: top-1") and "best: top-1" in output and "epoch\n" not in output
    model = open_model(Path("h.safetensors"))[0]
    assert model.fc.weight.shape == (3, 1024) and not hasattr(model.fc, "parametrizations")
    measured = json.loads(here("evaluate", "h.safetensors", "--data", data, "--workers", 0, "--json").stdout)
    assert [c["name"] for c in measured["classes"]] == ["class0", "class1", "class2"]


@pytest.mark.slow
def test_an_interrupted_run_with_many_options_resumes_exactly(digits_folder, inside):
    """tests/training/test_loop.py resumes with each option."""
    here("compress", "-a", "shufflenet_v2_x0_5", "--weights", "none", "--input", "3x16x16", "-g", 8, "-r", 8,
         "--refine", 0, "--no-match-statistics", "-o", "c.safetensors")  # fmt: skip
    copy_few(digits_folder, inside / "data", 3)  # since convolutions in bfloat16 are slow
    job = ("finetune", "c.safetensors", "--data", "data", "--classes", 10, "-b", 3, "--accumulate", 2,
           "--epochs", 2, "--patience", 3, "--mixup", 0.2, "--cutmix", 1, "--augment", "randaugment", "--erase", 0.5,
           "--amp", "--amp-dtype", "bfloat16", "--dense-lr-scale", 2, "--freeze-batchnorm", "--lr", 0.01, "--workers",
           1, "--save-every", 3, "--json", "-o")  # fmt: skip
    process = start_tenreo(*job, "part.safetensors")
    wait_until((inside / "part.csv").exists, process)
    process.send_signal(signal.SIGTERM)
    assert "go on with the same command and --resume" in process.communicate(timeout=60)[1]
    rows = len((inside / "part.csv").read_text().splitlines())
    resumed = json.loads(here(*job, "part.safetensors", "--resume").stdout)
    whole = json.loads(here(*job, "whole.safetensors").stdout)
    assert [e["loss"] for e in resumed["epochs"]] == [e["loss"] for e in whole["epochs"]]
    assert rows < len((inside / "whole.csv").read_text().splitlines())
    assert Path("part.last.safetensors").read_bytes() == Path("whole.last.safetensors").read_bytes()
    assert open_model(Path("part.safetensors"))[0].fc.weight.shape == (10, 1024)

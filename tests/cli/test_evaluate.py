"""Tests of `tenreo evaluate`."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from processes import good, here, refused

from tenreo.cli.terminal.tables import number
from tenreo.models.model_files import open_model, save


def test_evaluate(compressed_file):
    result = json.loads(here("evaluate", compressed_file, "--data", "digits", "--limit", 50, "--json").stdout)
    assert result["images"] == 50 and 0 <= result["top1"] <= result["top5"] <= 100
    assert (result["file"], result["data"], result["device"]) == (str(compressed_file), "digits", "cpu")
    assert "images/s" in good("evaluate", compressed_file, "--data", "digits", "--limit", 8).stdout


def test_bad_input_is_refused(compressed_file, inside):
    assert "no such folder" in refused("evaluate", compressed_file, "--data", "nowhere")
    job = ("evaluate", compressed_file, "--data", "digits")
    assert "device: cuda:77 is not available on this machine; choose cpu" in refused(*job, "--device", "cuda:77")
    assert "workers: given -1, needs a whole number of 0 to 1024 (--workers)" in refused(*job, "--workers", -1)
    assert "batch_size: given 0, needs a whole number of at least 1 (-b/--batch-size)" in refused(*job, "-b", 0)


def test_against_the_dense_model(compressed_file, dense_file):
    job = ("evaluate", compressed_file, "--data", "digits", "--limit", 30, "--json")
    result = json.loads(here(*job, "--against", dense_file).stdout)
    against = result["against"]
    assert against["model"] == str(dense_file) and against["images"] == 30 and against["kl"] > 0
    assert against["top1"] == result["top1"] and 0 <= against["agreement"] <= 100
    itself = json.loads(here(*job, "--against", compressed_file).stdout)["against"]
    assert itself["agreement"] == 100 and itself["kl"] < 1e-6
    assert "cannot be opened" in refused(*job, "--against", "nothing.safetensors")


def test_models_are_compared_on_images_without_labels(compressed_file, dense_file, digits_folder):
    job = ("evaluate", compressed_file, "--data", digits_folder / "train", "--workers", 0)
    result = json.loads(here(*job, "--against", dense_file, "--json").stdout)
    assert result["against"]["top1"] is None and result["against"]["images"] == 215 and "top1" not in result
    assert "agreement" in here(*job, "--against", dense_file).stdout
    assert "no such folder" in refused(*job)


@pytest.mark.slow
def test_broken_images_can_be_skipped_in_every_command_that_reads_images(compressed_file, dense_file, folder, inside):
    bad = folder / "val" / "class3" / "zz.png"
    bad.write_bytes(b"not an image")
    shutil.copytree(folder / "val", folder / "train")
    job = ("evaluate", compressed_file, "--data", folder)
    assert "zz.png: cannot be read as an image" in refused(*job, code=1)
    done = here(*job, "--skip-broken", "--json")
    result = json.loads(done.stdout)
    assert (result["images"], result["skipped"]) == (40, [str(bad)])
    assert f"skipped {bad}: cannot be read" in done.stderr and "skipped 1 broken image" in done.stderr
    dense = ("-a", "shufflenet_v2_x0_5", "--weights", dense_file, "-g", 8, "-r", 8, "--include", "fc")
    messages = here("sweep", *dense, "--data", folder, "--skip-broken", "--refine", 1, "--no-match-statistics").stderr
    assert f"skipped {bad}" in messages and "skipped 1 broken image" in messages
    calibrated = ("compress", *dense, "--calibrate", folder, "-o", "c.safetensors")
    assert "zz.png: cannot be read as an image" in refused(*calibrated, code=1)
    assert "skipped 1 broken image" in here(*calibrated, "--skip-broken").stderr


def test_a_model_whose_outputs_are_not_finite_is_an_error(dense_file, inside):
    model, header = open_model(dense_file)
    model.conv5[1].bias.data.fill_(6.0)  # every feature is about 6 then
    model.fc.weight.data[3] = 3e38
    save(model, inside / "large.safetensors", header.info)
    error = refused("evaluate", "large.safetensors", "--data", "digits", "--limit", 8, "--json", code=1)
    assert "an output of the model is not finite" in error
    assert number(float("nan")) == number(None) == number(-float("inf")) == "-" and number(float("inf")) == "exact"


def test_numbered_class_folders_cause_a_warning_unless_the_file_names_them(dense_file, folder, inside):
    for i in range(10):
        (folder / "val" / f"class{i}").rename(folder / "val" / f"{i + 1}")
    job = ("evaluate", dense_file, "--data", folder, "--workers", 0)
    assert "the class names are numbers, and labels follow their order as text (1, 10, 2" in here(*job).stderr
    model, header = open_model(dense_file)
    save(model, inside / "named.safetensors", replace(header.info, class_names=tuple(map(str, range(1, 11)))))
    assert "numbered" not in here("evaluate", "named.safetensors", "--data", folder, "--workers", 0).stderr


def test_predictions_and_confusion_matrices_are_written(compressed_file, digits_folder, inside):
    job = ("evaluate", compressed_file, "--data", digits_folder, "--workers", 0, "--predictions", "p.csv",
           "--confusion", "c.csv", "--confusion", "c.png")  # fmt: skip
    done = here(*job, "--json")
    result = json.loads(done.stdout)
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    assert sorted(r["path"] for r in rows) == sorted(map(str, (digits_folder / "val").rglob("*.png")))
    assert all(Path(r["path"]).parent.name == r["label"] for r in rows)
    assert 100 * sum(r["correct"] == "1" for r in rows) / 37 == pytest.approx(result["top1"])
    matrix = list(csv.reader(Path("c.csv").read_text().splitlines()))
    assert [row[0] for row in matrix[1:]] == [c["name"] for c in result["classes"]] == [f"class{i}" for i in range(10)]
    assert [sum(map(int, row[1:])) for row in matrix[1:]] == [c["images"] for c in result["classes"]]
    assert Path("c.png").read_bytes().startswith(b"\x89PNG") and "wrote p.csv, c.csv, c.png" in done.stderr
    assert "p.csv: exists already; use --force" in refused(*job)
    output = here(*job, "--force").stdout
    assert "Worst classes" in output and "mean top-1 of the 10 classes" in output and "95 %" in output


def test_several_files_are_rows_of_one_table(compressed_file, dense_file, inside):
    for file in (compressed_file, dense_file):
        shutil.copy(file, inside)
    job = ("evaluate", "compressed.safetensors", "dense.safetensors", "--data", "digits", "--limit", 20,
           "--against", "dense.safetensors")  # fmt: skip
    output = here(*job).stdout
    assert [output.count(f"{name} ") for name in ("dense.safetensors", "compressed.safetensors")] == [3, 2]
    assert "Agreement with dense.safetensors" in output and output.count("peak") == 1
    result = json.loads(here(*job, "--json").stdout)
    (other,) = result["others"]
    assert other["file"] == "dense.safetensors" and other["against"]["agreement"] == 100
    alone = json.loads(here("evaluate", dense_file, "--data", "digits", "--limit", 20, "--json").stdout)
    assert (alone["top1"], alone["loss"], alone["others"]) == (other["top1"], other["loss"], [])
    assert result["file"] == "compressed.safetensors" and result["against"]["reference_top1"] == other["top1"]
    assert "predictions: needs a single file, given 2" in refused(*job, "--predictions", "p.csv")


def test_predictions_need_no_labels(compressed_file, digits_folder, inside):
    job = ("evaluate", compressed_file, "--data", digits_folder / "train", "--workers", 0, "--predictions", "p.csv")
    assert "top1" not in json.loads(here(*job, "--json").stdout)
    assert len(Path("p.csv").read_text().splitlines()) == 1 + 215

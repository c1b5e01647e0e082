"""`tenreo evaluate`."""

import json

from processes import good, here, refused


def test_evaluate(compressed_file):
    found = json.loads(here("evaluate", compressed_file, "--data", "digits", "--limit", 50, "--json").stdout)
    assert found["images"] == 50 and 0 <= found["top1"] <= found["top5"] <= 100
    assert (found["file"], found["data"], found["device"]) == (str(compressed_file), "digits", "cpu")
    assert "images/s" in good("evaluate", compressed_file, "--data", "digits", "--limit", 8).stdout


def test_bad_input_is_refused(compressed_file, inside):
    assert "no such folder" in refused("evaluate", compressed_file, "--data", "nowhere")
    job = ("evaluate", compressed_file, "--data", "digits")
    assert "device: cuda:77 is not available here; choose cpu" in refused(*job, "--device", "cuda:77")
    assert "workers: given -1, needs a whole number of 0 to 1024 (--workers)" in refused(*job, "--workers", -1)
    assert "batch_size: given 0, needs a whole number of at least 1 (-b/--batch-size)" in refused(*job, "-b", 0)


def test_against_the_dense_model(compressed_file, dense_file):
    job = ("evaluate", compressed_file, "--data", "digits", "--limit", 30, "--json")
    found = json.loads(here(*job, "--against", dense_file).stdout)
    against = found["against"]
    assert against["model"] == str(dense_file) and against["images"] == 30 and against["kl"] > 0
    assert against["top1"] == found["top1"] and 0 <= against["agreement"] <= 100
    itself = json.loads(here(*job, "--against", compressed_file).stdout)["against"]
    assert itself["agreement"] == 100 and itself["kl"] < 1e-6
    assert "can not be opened" in refused(*job, "--against", "nothing.safetensors")


def test_loose_photographs_are_enough_to_compare(compressed_file, dense_file, digits_folder):
    job = ("evaluate", compressed_file, "--data", digits_folder / "train")
    found = json.loads(here(*job, "--against", dense_file, "--json").stdout)
    assert found["against"]["top1"] is None and found["against"]["images"] == 215 and "top1" not in found
    assert "agreement" in here(*job, "--against", dense_file).stdout
    assert "no such folder" in refused(*job)

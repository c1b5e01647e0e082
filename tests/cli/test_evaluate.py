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

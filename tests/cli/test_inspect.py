"""Tests of `tenreo inspect`."""

import json

import torch
from processes import good, here


def test_inspect(compressed_file, dense_file):
    text = good("inspect", compressed_file).stdout
    assert "shufflenet_v2_x0_5, 10 classes" in text and "8 groups, progressive 8.0" in text and "conv5.0" in text
    assert "conv5.0" not in here("inspect", compressed_file, "--no-layers").stdout
    result = json.loads(here("inspect", compressed_file, "--json").stdout)
    assert result["before"]["parameters"] == 352_042 + 7_952
    assert result["bytes"] == compressed_file.stat().st_size
    assert result["model"]["arch"] == "shufflenet_v2_x0_5" and result["recipe"]["progressive"] == 8.0
    assert "layers" not in json.loads(here("inspect", compressed_file, "--json", "--no-layers").stdout)
    assert "dense, shufflenet_v2_x0_5" in here("inspect", dense_file).stdout


def test_tables_fit_80_columns(compressed_file):
    text = here("inspect", compressed_file, columns=80).stdout
    tables = text.partition("\nLayers")[2]  # the lines before are not parts of a table
    assert tables and max(map(len, tables.splitlines())) <= 80
    assert "\x1b" not in text


def test_checkpoints_of_the_reference_implementation_are_read(tmp_path, reference_state, saved_file):
    torch.save(reference_state(saved_file[0]), tmp_path / "r.pth")
    result = json.loads(here("inspect", tmp_path / "r.pth", "--json").stdout)
    assert (result["kind"], result["model"]["arch"], result["recipe"]) == ("reference", "resnet18", None)
    ours = json.loads(here("inspect", saved_file[2], "--json").stdout)
    assert [x["name"] for x in result["layers"]] == sorted(x["name"] for x in ours["layers"])
    assert result["after"]["coefficients"] == ours["after"]["coefficients"]

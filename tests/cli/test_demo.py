"""Tests of `tenreo demo`."""

import json

import pytest
from processes import good, refused


@pytest.mark.slow
def test_demo(tmp_path):
    rows = json.loads(good("demo", "--json", cwd=tmp_path).stdout)["rows"]
    by_name = {row["model"]: row for row in rows}
    dense, small, paper, refined, tuned = by_name.values()
    assert dense["top1"] > 95 and dense["agreement"] == 100 and small["agreement"] > 97
    assert refined["top1"] >= paper["top1"] - 1 and tuned["top1"] > paper["top1"] - 2
    files = {path.name: path.stat().st_size for path in (tmp_path / "tenreo-demo").glob("*.safetensors")}
    assert len(files) == 4 and set(files.values()) == {row["bytes"] for row in rows if row is not paper}
    assert 0.09 * dense["bytes"] < small["bytes"] <= 0.1 * dense["bytes"]


def test_a_folder_that_is_not_empty_is_refused(inside):
    (inside / "tenreo-demo").mkdir()
    (inside / "tenreo-demo" / "x").write_text("mine")
    assert "tenreo-demo: exists already and is not empty; use --force" in refused("demo")
    (inside / "file").write_text("mine")
    assert "exists already" in refused("demo", "--out", "file", "--force")

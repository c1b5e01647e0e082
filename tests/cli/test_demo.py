"""Tests of `tenreo demo`."""

import json

import pytest
from processes import good, refused


@pytest.mark.slow
def test_demo(tmp_path):
    rows = json.loads(good("demo", "--json", cwd=tmp_path).stdout)["rows"]
    assert rows[0]["dense"] > 95 and len(rows) == 5
    assert all(row["refined_noise"] >= row["paper"] - 1 for row in rows[1:])
    assert all(row["finetuned"] > row["paper"] - 2 for row in rows[1:])
    assert len(list((tmp_path / "tenreo-demo").glob("*.safetensors"))) == 9


def test_a_folder_that_is_not_empty_is_refused(inside):
    (inside / "tenreo-demo").mkdir()
    (inside / "tenreo-demo" / "x").write_text("mine")
    assert "tenreo-demo: exists already and is not empty; use --force" in refused("demo")
    (inside / "file").write_text("mine")
    assert "exists already" in refused("demo", "--out", "file", "--force")

"""The scripts in benchmarks/ that must work at the first attempt."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FIRST_CONTACT = Path(__file__).parents[1] / "benchmarks" / "first_contact.py"


@pytest.mark.slow
def test_a_failing_part_of_the_first_contact_stops_no_other(tmp_path):
    words = ("--device", "nowhere", "--out", tmp_path, "agreement", "machine")
    run = subprocess.run([sys.executable, FIRST_CONTACT, *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    parts = json.loads((tmp_path / "first_contact.json").read_text())["parts"]
    assert [part["part"] for part in parts] == ["agreement", "machine"]
    assert all("failed: " in part["outcome"] and "'nowhere', needs auto, cpu" in part["outcome"] for part in parts)
    assert (tmp_path / "first_contact.md").read_text().count("| failed: ") == 2
    log = (tmp_path / "first_contact.log").read_text()
    assert "== agreement\nTraceback" in log and "== machine\nTraceback" in log

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tenreo import models
from tenreo.header import ModelCard, Preprocess

DATA = Path(__file__).parent / "data"
SMALL = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="session")
def golden():
    """(cases, tensors) of the reference implementation's own outputs."""
    with safe_open(DATA / "codec.safetensors", framework="pt") as file:
        cases = json.loads(file.metadata()["cases"])
        return cases, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="session")
def paper_rows():
    return json.loads((DATA / "paper_tables.json").read_text())["rows"]


@pytest.fixture(scope="session")
def dense_file(tmp_path_factory):
    """MobileNet-V2 with ten classes and random weights, as `compress --weights` takes it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    card = ModelCard("mobilenet_v2", 10, "none", SMALL)
    models.save(models.build("mobilenet_v2", 10, "none"), path, card)
    return path


@pytest.fixture(scope="session")
def compressed_file(dense_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("compressed") / "compressed.safetensors"
    done = tenreo("compress", "-a", "mobilenet_v2", "-g", 8, "-r", 8, "--progressive",
                  "--weights", dense_file, "--out", path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path


def tenreo(*arguments, cwd=None, env=None):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning:tenreo", "-m", "tenreo", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=280,
        env={**os.environ, "COLUMNS": "120", **(env or {})},
    )  # fmt: skip

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tenreo import models
from tenreo.data import open_images
from tenreo.header import ModelCard, Preprocess

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker per core: threads would only fight for them
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

DATA = Path(__file__).parent / "data"
TINY_RUN = Path(__file__).parent / "tiny_run.py"
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
                  "--refine", 1, "--weights", dense_file, "--out", path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path


def tenreo(*arguments, cwd=None, env=None):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning:tenreo", "-m", "tenreo", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=280,
        env={**os.environ, "COLUMNS": "120", **(env or {})},
    )  # fmt: skip


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """A folder of PNG files: 215 digits to learn from, 37 to evaluate on."""
    folder = tmp_path_factory.mktemp("digits")
    for split, count in (("train", 215), ("val", 37)):
        for i, (array, label) in enumerate(open_images("digits", split, SMALL, 10).limited(count).samples):
            path = folder / split / f"class{label}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return folder


@pytest.fixture(scope="session")
def uninterrupted(digits_folder, tmp_path_factory):
    """(output, folder) of a run of tests/tiny_run.py that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return tiny_run(digits_folder, folder), folder


def start_tiny_run(*arguments):
    """tests/tiny_run.py in a process of its own."""
    command = [sys.executable, str(TINY_RUN), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tiny_run(*arguments):
    """The same, waited for: its output."""
    process = start_tiny_run(*arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out

"""Compiled code where nothing can be kept. Real processes ."""

import os
import shutil
import subprocess
import sys

import pytest
from processes import ROOT

# Root may write anywhere, unless it gives up that right.
LIMITED = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.getuid() == 0 else []
pytestmark = pytest.mark.skipif(bool(LIMITED) and not shutil.which("setpriv"), reason="root without setpriv")
CODE = """
import torch
import tenreo.codec.chain, tenreo.planning.allocation
from tenreo.codec.packing import pack, unpack
print(unpack(pack(torch.arange(100), 7), 7, 100).sum().item())
"""


def run(folder, **environment):
    """Compress in a copy of the package, as somebody who may write nowhere."""
    plain = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(folder),
        "HOME": "/proc/nowhere",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    command = [*LIMITED, sys.executable, "-B", "-c", CODE]
    return subprocess.run(command, cwd="/", env=plain | environment, capture_output=True, text=True)


@pytest.fixture
def package(tmp_path):
    """A copy of tenreo that nobody can write to, with neither compiled code nor byte code in it."""
    shutil.copytree(ROOT / "tenreo", tmp_path / "tenreo", ignore=shutil.ignore_patterns("__pycache__"))
    folders = [tmp_path, *(f for f in tmp_path.rglob("*") if f.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield tmp_path
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.parametrize("places", [{}, {"NUMBA_CACHE_DIR": "/proc/nowhere"}])
def test_without_a_place_to_keep_it_code_is_compiled(package, places):
    done = run(package, **places)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4950\n", "")
    assert not list(package.rglob("*.nbi"))


def test_what_was_kept_and_is_damaged_is_compiled_again(package, tmp_path_factory):
    kept = tmp_path_factory.mktemp("kept")
    assert run(package, NUMBA_CACHE_DIR=str(kept)).returncode == 0
    files = [*kept.rglob("*.nbi"), *kept.rglob("*.nbc")]
    assert files
    for i, file in enumerate(files):
        data = file.read_bytes()
        file.write_bytes([b"", data[: len(data) // 2], b"\x80\x05garbage"][i % 3])
    done = run(package, NUMBA_CACHE_DIR=str(kept))
    assert (done.returncode, done.stdout, done.stderr) == (0, "4950\n", "")

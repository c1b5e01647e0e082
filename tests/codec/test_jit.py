"""The cache of compiled functions, without a writable folder and with damaged files, in separate processes."""

import os
import shutil
import subprocess
import sys

import pytest
from processes import ROOT

# Root can write to any folder unless it drops its capabilities.
LIMITED = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.getuid() == 0 else []
pytestmark = pytest.mark.skipif(bool(LIMITED) and not shutil.which("setpriv"), reason="root without setpriv")
CODE = """
import tenreo.codec.chain
from tenreo.codec.range_coder import encoder, finish
print(finish(encoder(8)))
"""


def run_code(folder, **environment):
    """Run CODE with a copy of the package, as a user who cannot write to any folder."""
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
    """Return the parent folder of a read-only copy of tenreo without cached code."""
    shutil.copytree(ROOT / "tenreo", tmp_path / "tenreo", ignore=shutil.ignore_patterns("__pycache__"))
    folders = [tmp_path, *(f for f in tmp_path.rglob("*") if f.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield tmp_path
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize("places", [{}, {"NUMBA_CACHE_DIR": "/proc/nowhere"}])
def test_code_is_compiled_without_a_writable_folder(package, places):
    done = run_code(package, **places)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert not list(package.rglob("*.nbi"))


@pytest.mark.slow
def test_code_is_compiled_again_if_the_cache_is_damaged(package, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    assert run_code(package, NUMBA_CACHE_DIR=str(cache)).returncode == 0
    files = [*cache.rglob("*.nbi"), *cache.rglob("*.nbc")]
    assert files
    for i, file in enumerate(files):
        data = file.read_bytes()
        file.write_bytes([b"", data[: len(data) // 2], b"\x80\x05garbage"][i % 3])
    done = run_code(package, NUMBA_CACHE_DIR=str(cache))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")

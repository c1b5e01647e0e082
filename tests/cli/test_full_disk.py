"""Commands that write to a disk without space: one line, and no incomplete file."""

import subprocess

import pytest
from processes import Forked

SCRIPT = """
import ctypes, subprocess, sys
from pathlib import Path
import torch
from dense_digits import build
from processes import here, refused
import tenreo
from tenreo.files.header import read_header
from tenreo.files.records import ModelInfo, Preprocess

assert ctypes.CDLL(None).unshare(0x20000) == 0  # gives this process mounts of its own
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
Path("disk").mkdir()
half = (0.5, 0.5, 0.5)
tenreo.save(build(), "digits.safetensors", ModelInfo(classes=10, preprocess=Preprocess(32, 32, half, half)))
model = ("--model", "dense_digits:build")
jobs = {
    "c.safetensors": ("compress", *model, "-g", 4, "-r", 2, "--refine", 0, "--no-match-statistics", "-o"),
    "p.csv": ("evaluate", "digits.safetensors", *model, "--data", "digits", "--workers", 0, "--predictions"),
    "w.pth": ("export", "digits.safetensors", *model, "--to"),
    "f.safetensors": ("finetune", "digits.safetensors", *model, "--data", sys.argv[1], "-b", 100, "--workers", 0, "-o"),
}
tmpfs = ["mount", "-t", "tmpfs", "-o"]
for size, outputs in (("4k", jobs), ("160k", ["f.safetensors"])):
    for output in outputs:
        subprocess.run([*tmpfs, f"size={size}", "tmpfs", "disk"], check=True)
        error = refused(*jobs[output], f"disk/{output}", code=1).splitlines()[-1]
        assert "cannot be written: No space left on device; choose another path" in error, error
        left = {path.suffix: path for path in Path("disk").iterdir()}
        assert size != "4k" or not left, left
        for path in left.values():
            assert path.suffix != ".safetensors" or read_header(path).info.classes == 10
        if ".state" in left:
            assert torch.load(left[".state"], weights_only=True)["progress"]["history"]
        del left
        subprocess.run(["umount", "disk"], check=True)
print("done")
"""
BUILD = """
import networks, tenreo
def build():
    return tenreo.expand_(networks.digits_classifier())
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0, reason="needs permission to mount"
)
def test_a_full_disk_ends_every_command_with_one_line_and_whole_files(tmp_path, digits_folder):
    (tmp_path / "dense_digits.py").write_text(BUILD)
    (tmp_path / "script.py").write_text(SCRIPT)
    process = Forked(str(tmp_path / "script.py"), digits_folder, cwd=tmp_path)
    out, err = process.communicate()
    assert (process.returncode, out) == (0, "done\n"), err

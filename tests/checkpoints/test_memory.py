"""The memory that a large tensor needs, in a process of its own."""

import subprocess
import sys

import pytest

MEASURE = """
import re, torch
from tenreo import Recipe, TargetBits, read, write

def memory(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1])

def peak(function):
    "Return the bytes per element that a call takes at most, in addition to what is used before."
    open("/proc/self/clear_refs", "w").write("5")  # forgets the peak
    before = memory("VmRSS")
    function()
    return (memory("VmHWM") - before) / weight.numel()

recipe = Recipe(None, TargetBits(4))
small = torch.randn(100, 4096).bfloat16()
write("small.safetensors", {"weight": small}, recipe)
read("small.safetensors")["weight"]
weight = torch.randn(3000, 4096).bfloat16()
print(peak(lambda: write("large.safetensors", {"weight": weight}, recipe)))
print(peak(lambda: read("large.safetensors")["weight"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_large_tensor_needs_a_few_bytes_per_element(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=tmp_path, capture_output=True, text=True, check=True)
    encoding, decoding = map(float, done.stdout.split())
    assert encoding < 16  # 10 and some buffers; the tensor itself was there before
    assert decoding < 12  # 8 and some buffers

"""Ratios of time that docs/measurements.md quotes, each pair measured in turn in one run.

.venv/bin/python benchmarks/speed.py [chain decode models evaluate start commands]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from common import compressed, laplace, paired, seconds
from torch.nn.functional import pad

import tenreo
from tenreo.vision.architectures import build

IMPORTS = [sys.executable, "-c", "import torch, torchvision"]


def chain() -> None:
    from scipy.spatial import cKDTree

    from tenreo.codec.chain import chain

    print("chain, one thread, against SciPy's cKDTree build and one query(points, k=2)")
    times = {}
    for g, n in ((4, 147_456), (4, 589_824), (8, 73_728)):
        matrix = laplace(g, n).numpy()
        points = np.ascontiguousarray(matrix.T)
        found = paired(lambda m=matrix: chain(m), lambda p=points: cKDTree(p).query(p, k=2), 3)
        times[g, n] = found.ours
        print(f"  g={g} n={n:>7}: {found.ratio:.2f} of the time")
    print(f"  g=8 n=73,728 costs {times[8, 73_728] / times[4, 147_456]:.2f} times g=4 n=147,456")
    print("growth, g=4")
    growth = []
    for k in range(16, 21):
        matrix = laplace(4, 2**k).numpy()
        growth.append(statistics.median(seconds(partial(chain, matrix)) for _ in range(3)))
    for k, (a, b) in enumerate(pairwise(growth), 16):
        print(f"  2^{k} -> 2^{k + 1}: {b / a:.2f} times the time")


def decode() -> None:
    import torch_dct

    n, per_row = 589_824, 23_592
    index = torch.randperm(n, dtype=torch.int32)
    encoded = tenreo.EncodedWeight(torch.randn(4, per_row), index, n, (4 * n,))

    def reference() -> torch.Tensor:
        curve = torch_dct.idct(pad(encoded.coefficients, (0, n - per_row)), norm="ortho")
        return curve[:, index.long()]

    with torch.inference_mode():
        ratio = paired(lambda: tenreo.decode(encoded), reference, 15).ratio
    print(f"decode (4, {n}), t = {per_row}: {1 / ratio:.2f} times faster than torch_dct.idct and indexing")


_COMPRESS = """
import resource, sys, time
import torch, torchvision, tenreo
arch, groups, growth = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
model = torchvision.models.get_model(arch)
tenreo.encode(torch.randn(8, 8), 4, 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
tenreo.compress_(model, tenreo.Recipe(groups, tenreo.Progressive(growth), refine=0))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(time.perf_counter() - start, (after - before) / 1000)
"""


def models() -> None:
    print("whole models, random weights, not refined, besides imports (seconds depend on the machine)")
    reference = None
    for arch, groups, growth in (("mobilenet_v2", 4, 0.5), ("resnet50", 4, 1.0), ("resnet50", 8, 1.0)):
        out = subprocess.run(
            [sys.executable, "-c", _COMPRESS, arch, str(groups), str(growth)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        reference = reference or float(out[0])
        print(f"  {arch} g={groups} r'={growth}: {float(out[0]):.1f} s, {float(out[0]) / reference:.1f} times "
              f"the first, {float(out[1]):.0f} MB above imports and model")  # fmt: skip


def evaluate() -> None:
    dense = build("mobilenet_v2", weights="none")
    small = tenreo.expand_(compressed(dense, 4, 0.5, refine=0))
    x = torch.randn(16, 3, 224, 224)
    with torch.inference_mode():
        ratio = paired(lambda: dense(x), lambda: small(x), 11).ratio
    print(f"evaluation: a compressed model does {ratio:.2f} times the images/s of the dense one")


def start() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.safetensors"
        tenreo.save(compressed(build("resnet50", weights="none"), 4, 1.0, refine=0), path)
        for arguments in (["--help"], ["inspect", str(path)]):
            found = paired(partial(_run, [sys.executable, "-m", "tenreo", *arguments]), partial(_run, IMPORTS))
            print(f"tenreo {arguments[0]}: {found.ours:.2f} s, {found.ratio:.2f} of importing torch and torchvision")


def commands() -> None:
    """Whole commands with imports, refinement, noise and writing; weights are random."""
    with tempfile.TemporaryDirectory() as folder:
        for arch, growth in (("mobilenet_v2", "0.5"), ("resnet50", "1.0")):
            rest = ["-g", "4", "-r", growth, "--progressive", "--force", "-o", f"{folder}/{arch}.safetensors"]
            command = [sys.executable, "-m", "tenreo", "compress", "-a", arch, "--weights", "none", *rest]
            ratio = paired(partial(_run, command), partial(_run, IMPORTS), 1).ratio
            print(f"tenreo compress -a {arch} -g 4 -r {growth} --progressive: {ratio:.0f} times as long as importing "
                  "torch and torchvision")  # fmt: skip


def _run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


PARTS = {"chain": chain, "decode": decode, "models": models, "evaluate": evaluate, "start": start, "commands": commands}

if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()

"""Ratios of time that the README quotes, each pair measured in turn in one run.

.venv/bin/python benchmarks/speed.py [chain decode models evaluate start]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired(
    ours: Callable[[], object], theirs: Callable[[], object], runs: int = 5
) -> tuple[float, float, float]:
    """Medians of both, and the median of the ratios, measured in turn."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(runs)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def laplace(g: int, n: int) -> np.ndarray:
    return np.random.default_rng(0).laplace(size=(g, n)).astype(np.float32)


def chain() -> None:
    from scipy.spatial import cKDTree

    from tenreo.core.chain import chain

    print("chain, one thread, against SciPy's cKDTree build and one query(points, k=2)")
    times = {}
    for g, n in ((4, 147_456), (4, 589_824), (8, 73_728)):
        matrix = laplace(g, n)
        points = np.ascontiguousarray(matrix.T)
        a, _, ratio = paired(lambda m=matrix: chain(m), lambda p=points: cKDTree(p).query(p, k=2), 3)
        times[g, n] = a
        print(f"  g={g} n={n:>7}: {ratio:.2f} of the time")
    print(f"  g=8 n=73,728 costs {times[8, 73_728] / times[4, 147_456]:.2f} times g=4 n=147,456")
    print("growth, g=4")
    growth = []
    for k in range(16, 21):
        matrix = laplace(4, 2**k)
        growth.append(statistics.median(seconds(partial(chain, matrix)) for _ in range(3)))
    for k, (a, b) in enumerate(pairwise(growth), 16):
        print(f"  2^{k} -> 2^{k + 1}: {b / a:.2f} times the time")


def decode() -> None:
    import torch_dct
    from torch.nn.functional import pad

    import tenreo

    n, kept = 589_824, 23_592
    index = torch.randperm(n, dtype=torch.int32)
    encoded = tenreo.EncodedWeight(torch.randn(4, kept), index, n, (4 * n,))

    def reference() -> torch.Tensor:
        curve = torch_dct.idct(pad(encoded.coefficients, (0, n - kept)), norm="ortho")
        return curve[:, index.long()]

    with torch.inference_mode():
        _, _, ratio = paired(lambda: tenreo.decode(encoded), reference, 15)
    print(f"decode (4, {n}), kept {kept}: {1 / ratio:.2f} times faster than torch_dct.idct and indexing")


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
    import tenreo
    from tenreo.models import build

    dense, small = build("mobilenet_v2", weights="none"), build("mobilenet_v2", weights="none")
    tenreo.compress_(small, tenreo.Recipe(4, tenreo.Progressive(0.5)))
    tenreo.expand_(small)
    x = torch.randn(16, 3, 224, 224)
    with torch.inference_mode():
        _, _, ratio = paired(lambda: dense(x), lambda: small(x), 11)
    print(f"evaluation: a compressed model does {ratio:.2f} times the images/s of the dense one")


def start() -> None:
    import tenreo
    from tenreo.models import build

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.safetensors"
        model = build("resnet50", weights="none")
        tenreo.compress_(model, tenreo.Recipe(4, tenreo.Progressive(1.0)))
        tenreo.save(model, path)
        torch_import = [sys.executable, "-c", "import torch, torchvision"]
        for arguments in (["--help"], ["inspect", str(path)]):
            command = [sys.executable, "-m", "tenreo", *arguments]
            run = lambda c=command: subprocess.run(c, stdout=subprocess.DEVNULL, check=True)  # noqa: E731
            a, _, ratio = paired(run, lambda: subprocess.run(torch_import, check=True), 5)
            print(f"tenreo {arguments[0]}: {a:.2f} s, {ratio:.2f} of importing torch and torchvision")


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in sys.argv[1:] or ["chain", "decode", "models", "evaluate", "start"]:
        globals()[name]()

"""Measure the ratios of time that docs/measurements.md quotes; the two sides of a ratio run alternately.

.venv/bin/python benchmarks/speed.py [chain growth pruned huge decode models evaluate start commands iso]
.venv/bin/python benchmarks/speed.py serve start demo  # what a user waits for first

`iso` needs nncodec, the ISO codec (ISO/IEC 15938-17): pip install nncodec. `huge` takes two minutes and 3 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from common import compressed, laplace, paired, parser
from torch.nn.functional import pad

import tenreo
from tenreo.codec.chain import chain
from tenreo.codec.encode import nearest_neighbor_order, refined
from tenreo.models.builders import build_model

IMPORTS = [sys.executable, "-c", "import torch, torchvision"]


def measure_chain() -> None:
    """Compare the nearest-neighbor chain with building SciPy's k-d tree and one query."""
    from scipy.spatial import cKDTree

    print("nearest-neighbor chain, one thread, compared with SciPy's cKDTree and one query(points, k=2)")
    times = {}
    for g, n in ((4, 147_456), (4, 589_824), (8, 73_728)):
        matrix = laplace(g, n).numpy()
        points = np.ascontiguousarray(matrix.T)
        timing = paired(lambda m=matrix: chain(m), lambda p=points: cKDTree(p).query(p, k=2), 3)
        times[g, n] = timing.ours
        print(f"  g={g} n={n:>7}: {timing.ratio:.2f} of the time")
    print(f"  g=8 n=73,728 takes {times[8, 73_728] / times[4, 147_456]:.2f} times as long as g=4 n=147,456")


def measure_growth() -> None:
    """Print how the times of the chain and of refinement grow when the number of columns doubles."""
    chain_times, refinement_times = [], []
    for k in range(18, 23):
        matrix = laplace(4, 2**k)
        start = time.process_time()
        order = nearest_neighbor_order(matrix, 4)
        chain_times.append(time.process_time() - start)
        encoded = tenreo.encode(matrix, 4, 2**k // 16, order=order)
        start = time.process_time()
        refined(matrix, encoded, 4)
        refinement_times.append(time.process_time() - start)
    print("growth, g=4, rate 16, 4 rounds of refinement")
    for k, ((a, b), (c, d)) in enumerate(zip(pairwise(chain_times), pairwise(refinement_times), strict=True), 18):
        print(f"  2^{k} -> 2^{k + 1}: chain {b / a:.2f}, refinement {d / c:.2f} times the time")


def measure_pruned() -> None:
    """Compare the chain of pruned weights, whose smallest elements are zero, with that of dense weights."""
    weight = np.random.default_rng(0).standard_normal(512 * 512 * 9).astype(np.float32)
    dense = _process_seconds(partial(chain, weight.reshape(8, -1)))
    print("nearest-neighbor chain of pruned weights, g=8, 512 x 512 x 3 x 3, compared with dense weights")
    for fraction in (0.5, 0.7, 0.9, 0.95, 0.99):
        sparse = np.where(np.abs(weight) < np.quantile(np.abs(weight), fraction), np.float32(0), weight)
        ratio = _process_seconds(partial(chain, sparse.reshape(8, -1))) / dense
        print(f"  {fraction:.0%} zeros: {ratio:.2f} times the time")


def _process_seconds(function: Callable[[], object]) -> float:
    """Return the smaller processor time of two calls."""
    times = []
    for _ in range(2):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


# Peak resident memory. resource.getrusage is not used: a child process inherits the peak of its parent.
_PEAK = """
import re
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # kB
"""
_HUGE = (
    _PEAK
    + """
import time, torch, tenreo
model = torch.nn.Sequential(torch.nn.Linear(8192, 8192, bias=False))
tenreo.encode(torch.randn(8, 8), 4, 2, 2)
before = peak()
start = time.perf_counter()
tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(16.0), refine=4, include=("*",)))
after = peak()
print(f"Linear 8192 x 8192, g=4, r=16, 4 rounds: {time.perf_counter() - start:.0f} s (depends on the machine), "
      f"{(after - before) * 1024 / 8192**2:.0f} bytes per weight above the model, {after / 1e6:.1f} GB in all")
"""
)


def measure_huge() -> None:
    """Print time and memory of compressing a layer of 67 million weights."""
    _show([sys.executable, "-c", _HUGE])


def measure_iso() -> None:
    """Compare encoding the weights of ResNet-50 with the ISO codec and with a forward pass of the model."""
    import contextlib
    import io

    from nncodec.nn import encode

    torch.set_num_threads(1)
    model = build_model("torchvision:resnet50")
    plan = tenreo.resolve(tenreo.Recipe(4, tenreo.Progressive(1.0)), model)
    weights = {layer.name: model.get_submodule(layer.name).weight.detach() for layer in plan.compressed}
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        arrays = {f"{name}.weight": weight.numpy() for name, weight in weights.items()}
        theirs = _process_seconds(partial(encode, arrays, {"qp": -20, "verbose": False, "results": folder}))
        start = time.perf_counter()
        encode(arrays, {"qp": -20, "verbose": False, "results": folder})
        wall_time = time.perf_counter() - start
    ours = {}
    for rounds in (0, 12):
        start = time.perf_counter()
        tenreo.compress_(deepcopy(model), tenreo.Recipe(4, tenreo.Progressive(1.0), refine=rounds))
        ours[rounds] = time.perf_counter() - start
    times = {"unrefined": 0.0, "refined": 0.0}
    for layer in plan.compressed:
        start, curve = time.process_time(), layer.encoding
        encoded = tenreo.encode(weights[layer.name], 4, curve.coefficients_per_row)
        middle = time.process_time()
        refined(weights[layer.name], encoded, 12)
        times["unrefined"] += middle - start
        times["refined"] += time.process_time() - start
    x = torch.randn(32, 3, 224, 224)
    with torch.inference_mode():
        forward = _process_seconds(lambda: model(x))
    print("encoding ResNet-50, g=4, r'=1.0, processor time of one thread")
    for name, took in times.items():
        print(f"  {name}: {took / theirs:.2f} times the ISO codec, {took / forward:.1f} forward passes of 32 images")
    print(f"wall time, tenreo.compress_ on all cores and the ISO codec on one: unrefined {ours[0] / wall_time:.2f}, "
          f"refined {ours[12] / wall_time:.2f} times")  # fmt: skip


def measure_decode() -> None:
    """Compare decoding with torch_dct, which the reference implementation uses."""
    import torch_dct

    n, per_row = 589_824, 23_592
    index = torch.randperm(n, dtype=torch.int32)
    encoded = tenreo.EncodedWeight(torch.randn(4, per_row), index, n, (4 * n,))

    def reference() -> torch.Tensor:
        curve = torch_dct.idct(pad(encoded.coefficients, (0, n - per_row)), norm="ortho")
        return curve[:, index.long()]

    with torch.inference_mode():
        ratio = paired(lambda: tenreo.decode(encoded), reference, 15).ratio
    print(f"decoding (4, {n}), t = {per_row}: {1 / ratio:.2f} times faster than torch_dct.idct and indexing")


_COMPRESS = (
    _PEAK
    + """
import sys, time
import torch, torchvision, tenreo
arch, groups, growth = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
model = torchvision.models.get_model(arch)
tenreo.encode(torch.randn(8, 8), 4, 2)
before = peak()
start = time.perf_counter()
tenreo.compress_(model, tenreo.Recipe(groups, tenreo.Progressive(growth), refine=0))
after = peak()
print(time.perf_counter() - start, (after - before) / 1000)
"""
)


def measure_models() -> None:
    """Print time and memory of compressing whole models."""
    print("whole models, random weights, not refined, without imports (seconds depend on the machine)")
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


def measure_evaluate() -> None:
    """Compare the speed of a compressed model with that of the dense one."""
    dense = build_model("torchvision:mobilenet_v2")
    small = tenreo.expand_(compressed(dense, 4, 0.5, refine=0))
    x = torch.randn(16, 3, 224, 224)
    with torch.inference_mode():
        ratio = paired(lambda: dense(x), lambda: small(x), 11).ratio
    print(f"evaluation: a compressed model processes {ratio:.2f} times as many images/s as the dense one")


def measure_serve() -> None:
    """Compare a loaded model with the dense one, batch 1, after the first call; its weights are decoded once."""
    dense = build_model("torchvision:mobilenet_v2")
    with tempfile.TemporaryDirectory() as folder:
        tenreo.save(compressed(dense, 4, 0.5, refine=0), path := Path(folder) / "small.safetensors")
        loaded = tenreo.load(path).eval()
    for side in (96, 224):
        x = torch.randn(1, 3, side, side)
        with torch.inference_mode():
            ratio = paired(lambda x=x: loaded(x), lambda x=x: dense(x), 41).ratio
        print(f"serving: a loaded MobileNet-V2 takes {ratio:.2f} of the dense time, batch 1, {side} x {side} pixels")


def measure_demo() -> None:
    """Print the time of `tenreo demo`, and the results that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tenreo", "demo", "--json", "-o", f"{folder}/demo"]
        start, before = time.perf_counter(), os.times()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        seconds, after = time.perf_counter() - start, os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        before = os.times()
        _run(IMPORTS)
        after = os.times()
        imports = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"tenreo demo: {seconds:.0f} s, {used:.0f} s of processor time, {used / imports:.0f} times that of importing "
          "torch and torchvision")  # fmt: skip
    for row in json.loads(done)["rows"]:
        print(
            f"  {row['model']}: {row['bytes']:,} bytes, top-1 {row['top1']:.1f} %, agreement {row['agreement']:.1f} %"
        )


def measure_start() -> None:
    """Compare the time that commands without torch take with that of importing torch and torchvision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.safetensors"
        tenreo.save(compressed(build_model("torchvision:resnet50"), 4, 1.0, refine=0), path)
        for arguments in (["--help"], ["inspect", str(path)]):
            timing = paired(partial(_run, [sys.executable, "-m", "tenreo", *arguments]), partial(_run, IMPORTS))
            print(f"tenreo {arguments[0]}: {timing.ours:.2f} s, {timing.ratio:.2f} of importing torch and torchvision")


def measure_commands() -> None:
    """Time whole commands, from the imports to the written file; the weights are random."""
    with tempfile.TemporaryDirectory() as folder:
        for arch, growth in (("mobilenet_v2", "0.5"), ("resnet50", "1.0")):
            rest = ["-g", "4", "-r", growth, "--progressive", "--force", "-o", f"{folder}/{arch}.safetensors"]
            command = [sys.executable, "-m", "tenreo", "compress", "-a", arch, "--weights", "none", *rest]
            ratio = paired(partial(_run, command), partial(_run, IMPORTS), 1).ratio
            print(f"tenreo compress -a {arch} -g 4 -r {growth} --progressive: {ratio:.0f} times as long as importing "
                  "torch and torchvision")  # fmt: skip


def _show(command: list[str]) -> None:
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip())


def _run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


PARTS = {
    "chain": measure_chain, "growth": measure_growth, "pruned": measure_pruned, "huge": measure_huge,
    "decode": measure_decode, "models": measure_models, "evaluate": measure_evaluate, "start": measure_start,
    "commands": measure_commands, "iso": measure_iso, "serve": measure_serve, "demo": measure_demo,
}  # fmt: skip

if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help="parts to measure; default: all")
    parts = options.parse_args().parts or PARTS
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    for name in parts:
        PARTS[name]()

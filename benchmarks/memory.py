"""Compare the memory of a compressed model with that of the dense one: loading, inference and training.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/memory.py [ARCH] [BATCH]

Each figure is the median of five processes: the peak resident memory while a process loads a file and runs its model,
minus the resident memory before. Each process first loads, runs and trains a tiny compressed model, so that the memory
of the libraries, which is larger than either model, is not counted. The model has random weights and is compressed
with g = 4, r' = 1.0. The script needs Linux.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from common import parser, row, table
from torch import Tensor, nn

import tenreo
from tenreo.models.builders import build_model

KINDS = ("load", "inference", "training")
ACCEPTED = {"inference": 1.1, "training": 1.3}  # largest acceptable ratios
PROCESSES = 5
RECIPE = tenreo.Recipe(4, tenreo.Progressive(1.0), refine=0)


def tiny() -> nn.Module:
    """Return a small model with the kinds of layers that the measured model has."""
    features = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3))
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64))


def exercise(model: nn.Module, kind: str, x: Tensor) -> None:
    """Run inference or two training steps; the optimizer allocates its state in the first step."""
    if kind == "inference":
        with torch.no_grad():
            model(x)
    if kind == "training":
        optimizer = torch.optim.SGD(model.train().parameters(), 0.01, momentum=0.9)
        for _ in range(2):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


def resident(field: str) -> int:
    """Return the resident memory of this process in bytes: field VmRSS is the present one, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def measure(kind: str, path: str, batch: int) -> int:
    """Return the peak resident bytes while this process loads a file and runs its model, minus those before."""
    small = tiny()
    tenreo.compress_(small, RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.safetensors"
        tenreo.save(small, file)
        for each in ("inference", "training"):
            exercise(tenreo.load(file, tiny()), each, torch.zeros(2, 3, 32, 32))
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present value
    before = resident("VmRSS")
    exercise(tenreo.load(path), kind, torch.randn(batch, 3, 224, 224))
    return resident("VmHWM") - before


def in_processes(kind: str, path: Path, batch: int) -> float:
    """Return the median of `measure` over new processes."""
    command = [sys.executable, __file__, "--one", kind, str(path), str(batch)]
    return median(
        int(subprocess.run(command, capture_output=True, check=True, text=True).stdout) for _ in range(PROCESSES)
    )


def compare(arch: str, batch: int) -> None:
    """Print the memory of the dense and the compressed model and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = build_model(f"torchvision:{arch}")
        dense, small = Path(folder) / "dense.safetensors", Path(folder) / "small.safetensors"
        tenreo.save(model, dense)
        tenreo.compress_(model, RECIPE)
        tenreo.save(model, small)
        table(f"{arch}, batch {batch}", "dense MB", "compressed MB", "ratio", "largest acceptable ratio")
        for kind in KINDS:
            sizes = [in_processes(kind, path, batch) for path in (dense, small)]
            ratio = f"{sizes[1] / sizes[0]:.2f}"
            row(f"resident, {kind}", *(f"{size / 1e6:.0f}" for size in sizes), ratio, ACCEPTED.get(kind, ""))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(measure(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        options = parser(__doc__)
        options.add_argument("arch", nargs="?", default="resnet18", help="name of a torchvision architecture")
        options.add_argument("batch", nargs="?", type=int, default=2, help="images per batch")
        compare(**vars(options.parse_args()))

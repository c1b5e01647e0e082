"""Memory of a compressed model in ratios to the dense one: its tensors, and what a forward and a training step take.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/memory.py [ARCH] [BATCH]

Each figure is the median of five processes: the resident memory at its highest while a file is loaded and its model
runs, less what the process had before. Before, it has loaded, run and trained a tiny compressed model, so that
libraries, which are larger than either model, count in neither. The model has random weights and is compressed at
g = 4, r' = 1.0. Needs Linux.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from common import row, table
from torch import Tensor, nn

import tenreo
from tenreo.models.builders import build_model

KINDS = ("load", "inference", "training")
LARGEST = {"inference": 1.1, "training": 1.3}
PROCESSES = 5
RECIPE = tenreo.Recipe(4, tenreo.Progressive(1.0), refine=0)


def tiny() -> nn.Module:
    """A model with the layers of the large ones."""
    features = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3))
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64))


def run(model: nn.Module, kind: str, x: Tensor) -> None:
    """Do what is measured; two steps, since an optimizer's state comes with the first."""
    if kind == "inference":
        with torch.no_grad():
            model(x)
    if kind == "training":
        optimizer = torch.optim.SGD(model.train().parameters(), 0.01, momentum=0.9)
        for _ in range(2):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


def resident(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


def measure(kind: str, path: str, batch: int) -> int:
    """The highest resident bytes while a file is loaded and its model runs, less those before."""
    small = tiny()
    tenreo.compress_(small, RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.safetensors"
        tenreo.save(small, file)
        for each in ("inference", "training"):
            run(tenreo.load(file, tiny()), each, torch.zeros(2, 3, 32, 32))
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is that of now
    before = resident("VmRSS")
    run(tenreo.load(path), kind, torch.randn(batch, 3, 224, 224))
    return resident("VmHWM") - before


def in_processes(kind: str, path: Path, batch: int) -> float:
    """The same, of new processes: their median."""
    command = [sys.executable, __file__, "--one", kind, str(path), str(batch)]
    return median(
        int(subprocess.run(command, capture_output=True, check=True, text=True).stdout) for _ in range(PROCESSES)
    )


def compare(arch: str, batch: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = build_model(f"torchvision:{arch}")
        dense, small = Path(folder) / "dense.safetensors", Path(folder) / "small.safetensors"
        tenreo.save(model, dense)
        tenreo.compress_(model, RECIPE)
        tenreo.save(model, small)
        table(f"{arch}, batch {batch}", "dense MB", "compressed MB", "ratio", "at most")
        for kind in KINDS:
            found = [in_processes(kind, path, batch) for path in (dense, small)]
            ratio = f"{found[1] / found[0]:.2f}"
            row(f"resident, {kind}", *(f"{n / 1e6:.0f}" for n in found), ratio, LARGEST.get(kind, ""))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(measure(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        compare(*(sys.argv[1:2] or ["resnet18"]), int((sys.argv[2:3] or ["2"])[0]))

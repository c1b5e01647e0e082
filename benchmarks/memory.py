"""Memory of a compressed model in ratios to the dense one: its tensors, and what a forward and a training step take.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/memory.py [ARCH] [BATCH]

Each figure comes from a process of its own: the resident memory at its highest, less that of a process that has
imported all of it and built no model. The model has random weights and is compressed at g = 4, r' = 1.0.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import row, table

import tenreo
from tenreo.vision.architectures import build

KINDS = ("nothing", "load", "inference", "training")
LARGEST = {"inference": 1.1, "training": 1.3}


def measure(kind: str, path: str, batch: int) -> int:
    """The highest resident bytes of this process after loading a file and running its model."""
    torch.nn.Conv2d(3, 8, 3)(torch.zeros(1, 3, 8, 8)).sum().backward()  # what libraries take at first use
    if kind != "nothing":
        model = tenreo.load(path)
        x = torch.randn(batch, 3, 224, 224)
        if kind == "inference":
            with torch.no_grad():
                model(x)
        if kind == "training":
            optimizer = torch.optim.SGD(model.train().parameters(), 0.01, momentum=0.9)
            for _ in range(2):
                model(x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
    # Of Linux; ru_maxrss would hold that of the process which started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def in_a_process(kind: str, path: Path, batch: int) -> int:
    """The same, of a new process."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", kind, str(path), str(batch)], capture_output=True, check=True, text=True
    )
    return int(done.stdout)


def compare(arch: str, batch: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = build(arch, weights="none")
        dense, small = Path(folder) / "dense.safetensors", Path(folder) / "small.safetensors"
        tenreo.save(model, dense)
        held = [sum(t.nbytes for t in model.state_dict().values())]
        tenreo.compress_(model, tenreo.Recipe(4, tenreo.Progressive(1.0), refine=0))
        tenreo.save(model, small)
        held.append(sum(t.nbytes for t in model.state_dict().values()))
        table(f"{arch}, batch {batch}", "dense MB", "compressed MB", "ratio", "at most")
        row("tensors of the state dict", *(f"{n / 1e6:.1f}" for n in held), f"{held[1] / held[0]:.2f}", "")
        base = in_a_process("nothing", dense, batch)
        for kind in KINDS[1:]:
            found = [in_a_process(kind, path, batch) - base for path in (dense, small)]
            ratio = f"{found[1] / found[0]:.2f}"
            row(f"resident, {kind}", *(f"{n / 1e6:.1f}" for n in found), ratio, LARGEST.get(kind, ""))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(measure(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        compare(*(sys.argv[1:2] or ["resnet18"]), int((sys.argv[2:3] or ["2"])[0]))

"""Fine-tune files of a given size on the digits, and print size and accuracy of the stored models before and after.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/tuned_size.py FOLDER

FOLDER is the folder of benchmarks/accuracy.py, which contains a dense MobileNet-V2.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path

from common import row, table, trained
from torch import nn

import tenreo
from tenreo.training.digits import digits, top1
from tenreo.training.loop import finetune_
from tenreo.training.settings import Settings


def main() -> None:
    dense = trained("mobilenet_v2", Path(sys.argv[1]))
    train, val = digits()
    table("target size", "bytes before", "top-1 % before", "bytes after an epoch", "top-1 % after", text=1)
    for size in (1_200_000, 1_000_000, 800_000, 700_000, 600_000):
        recipe = tenreo.Recipe(None, tenreo.TargetSize(size), dense_dtype="bfloat16")
        model = copy.deepcopy(dense)
        tenreo.compress_(model, recipe)
        tenreo.match_statistics_(model, dense, size=32)
        before = stored(model, recipe)
        finetune_(before[1], train, val, Settings(epochs=1, batch_size=64, lr=0.005, seed=0))
        after = stored(before[1], recipe)
        row(f"{size:,}", f"{before[0]:,}", f"{before[2]:.1f}", f"{after[0]:,}", f"{after[2]:.1f}")


def stored(model: nn.Module, recipe: tenreo.Recipe) -> tuple[int, nn.Module, float]:
    """Save a model and load it; return the size of the file in bytes, the loaded model and its top-1 accuracy."""
    _, val = digits()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tenreo.save(model, path, recipe=recipe)
        loaded = tenreo.load(path, model=copy.deepcopy(tenreo.expand_(copy.deepcopy(model))))
        return path.stat().st_size, loaded, top1(loaded, val)


if __name__ == "__main__":
    main()

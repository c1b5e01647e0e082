"""Images per second by the number of processes that decode them, with and without a network that uses the images.

.venv/bin/python benchmarks/reading.py [--workers 0 1 2 4] [--runs 3]

Needs pip install -e '.[real]'. All numbers of workers in turn, medians of the runs, as multiples of none.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import tempfile
from pathlib import Path

import torch
from common import row, seconds, table
from torch import nn
from torchvision.models import mobilenet_v2

from tenreo.data.batches import Batches, Loading
from tenreo.data.images import open_unlabeled
from tenreo.files.records import Preprocess

IMAGES = 160


def copies(folder: Path) -> None:
    """Foolbox's photographs, again and again."""
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None and spec.submodule_search_locations
    files = sorted((Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*.jpg"))
    for i in range(IMAGES):
        shutil.copy(files[i % len(files)], folder / f"{i:04d}.jpg")


def go_through(folder: Path, workers: int, network: nn.Module | None) -> float:
    images = open_unlabeled(str(folder), ".", Preprocess())

    def work() -> None:
        for batch, _ in Batches(images, Loading(32, workers), torch.device("cpu")):
            if network is not None:
                with torch.inference_mode():
                    network(batch)

    return seconds(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    network = mobilenet_v2().eval()
    table("images per second, of none", *map(str, arguments.workers))
    with tempfile.TemporaryDirectory() as folder:
        copies(Path(folder))
        for name, used in (("read", None), ("read, and MobileNet-V2 on the CPU", network)):
            times = [[go_through(Path(folder), w, used) for w in arguments.workers] for _ in range(arguments.runs)]
            row(name, *(f"{statistics.median(run[0] / run[i] for run in times):.2f}" for i in range(len(times[0]))))


if __name__ == "__main__":
    main()

"""Progressive rates against the same number of coefficients allocated by spectrum: SNR and top-1.

.venv/bin/python benchmarks/allocation.py DENSE.safetensors [--rounds 12]
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path

import torch

import tenreo
from tenreo.compression import Orders
from tenreo.data import Batches, open_images
from tenreo.evaluation import evaluate
from tenreo.models import open_model

SETTINGS = ((4, 1.0), (4, 32.0), (8, 4.0), (8, 8.0), (8, 32.0), (16, 4.0))

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    dense, header = open_model(arguments.file)
    val = open_images("digits", "val", header.card.preprocess, header.card.classes)
    orders: Orders = {}

    def top1(model: torch.nn.Module) -> float:
        return evaluate(model, Batches(val, 256, torch.device("cpu"))).top1

    print(f"dense: {top1(dense):.1f}")
    print("| g, r' | coefficients | | SNR dB | sum of relative errors | top-1 | matched on noise |")
    print("|:--|--:|:--|--:|--:|--:|--:|")
    for groups, growth in SETTINGS:
        for allocate in (False, True):
            recipe = tenreo.Recipe(
                groups, tenreo.Progressive(growth), refine=arguments.rounds, allocate=allocate
            )
            small = deepcopy(dense)
            report = tenreo.compress_(small, recipe, orders=orders)
            errors = sum(layer.noise / layer.signal for layer in report.layers)
            plain = top1(small)
            tenreo.match_statistics_(small, dense, size=header.card.preprocess.crop)
            name = "allocated" if allocate else "progressive"
            print(f"| {groups}, {growth:g} | {report.after.coefficients:,} | {name} | {report.snr:.2f} | "
                  f"{errors:.3f} | {plain:.1f} | {top1(small):.1f} |", flush=True)  # fmt: skip

"""Progressive rates against as many coefficients allocated by spectrum: SNR and top-1.

.venv/bin/python benchmarks/allocation.py FOLDER [--rounds 12]

FOLDER is that of benchmarks/accuracy.py; its dense MobileNet-V2 is trained first where it is not there.
"""

from __future__ import annotations

import argparse
import sys
from copy import deepcopy
from pathlib import Path

from common import row, table, trained

import tenreo
from tenreo.compression.compress_model import Orders
from tenreo.training.digits import PREPROCESS, digits, top1

SETTINGS = ((4, 1.0), (4, 32.0), (8, 4.0), (8, 8.0), (8, 32.0), (16, 4.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    dense = trained("mobilenet_v2", arguments.folder)
    _, val = digits()
    orders: Orders = {}
    print(f"dense: {top1(dense, val):.1f}", file=sys.stderr)
    table("g, r'", "coefficients", "", "SNR dB", "sum of relative errors", "top-1", "matched on noise")
    for groups, growth in SETTINGS:
        for allocate in (False, True):
            rate = tenreo.Progressive(growth)
            small = deepcopy(dense)
            recipe = tenreo.Recipe(groups, rate, refine=arguments.rounds, allocate=allocate)
            report = tenreo.compress_(small, recipe, orders=orders)
            errors = sum(layer.squared_error / layer.squared_norm for layer in report.layers)
            plain = top1(small, val)
            tenreo.match_statistics_(small, dense, size=PREPROCESS.crop)
            how = "allocated" if allocate else "progressive"
            row(f"{groups}, {growth:g}", f"{report.after.coefficients:,}", how, f"{report.snr:.2f}", f"{errors:.3f}",
                f"{plain:.1f}", f"{top1(small, val):.1f}")  # fmt: skip


if __name__ == "__main__":
    main()

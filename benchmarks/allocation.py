"""Compare progressive rates with an equal number of coefficients allocated by spectrum: SNR and top-1.

.venv/bin/python benchmarks/allocation.py FOLDER [--rounds 12]
"""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

from common import parser, row, table, trained

import tenreo
from tenreo.compression.compress_model import Orders
from tenreo.training.digits import PREPROCESS, digits, top1

SETTINGS = ((4, 1.0), (4, 32.0), (8, 4.0), (8, 8.0), (8, 32.0), (16, 4.0))


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "folder", type=Path, help="folder of the dense MobileNet-V2, which is trained if it is missing"
    )
    options.add_argument("--rounds", type=int, default=12, help="rounds of refinement")
    arguments = options.parse_args()
    dense = trained("mobilenet_v2", arguments.folder)
    _, val = digits()
    orders: Orders = {}
    print(f"dense: {top1(dense, val):.1f}", file=sys.stderr)
    table("g, r'", "coefficients", "rates", "SNR dB", "sum of relative errors", "top-1 %", "corrected on noise %")
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

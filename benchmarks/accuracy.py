"""Print the top-1 accuracy of compressed models of the digits without fine-tuning.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/accuracy.py FOLDER [mobilenet_v2] [resnet18]
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import parser, percents, row, table, trained

import tenreo
from tenreo.training.digits import METHODS, calibration_images, compare_methods, digits, top1

SETTINGS = {"mobilenet_v2": ((4, 32.0), (8, 4.0), (8, 8.0), (16, 4.0)), "resnet18": ((8, 1.0), (8, 4.0))}


def main(folder: Path, archs: list[str]) -> None:
    train, val = digits()
    images = calibration_images(train)
    table("model", "g, r'", *(way.replace("_", " + ") for way in METHODS), "SNR paper", "SNR refined", text=2)
    for arch in archs or SETTINGS:
        dense = trained(arch, folder)
        print(f"{arch}, dense {top1(dense, val):.1f}", file=sys.stderr)
        for groups, growth in SETTINGS[arch]:
            found = compare_methods(dense, tenreo.Recipe(groups, tenreo.Progressive(growth)), images, val)
            ratios = (f"{found.report.snr_unrefined:.2f}", f"{found.report.snr:.2f}")
            row(arch, f"{groups}, {growth:g}", *percents([found.top1[way] for way in METHODS]), *ratios)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="folder of the dense models; missing ones are trained")
    options.add_argument("archs", nargs="*", metavar="ARCH", help="mobilenet_v2, resnet18, or both by default")
    main(**vars(options.parse_args()))

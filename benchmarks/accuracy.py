"""Print the top-1 accuracy of compressed models of the digits without fine-tuning.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/accuracy.py FOLDER [mobilenet_v2] [resnet18]
"""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from common import parser, percents, row, table, trained
from torch import Tensor, nn

import tenreo
from tenreo.compression.layer_encoding import Orders
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images
from tenreo.training.digits import digits, top1

METHODS = ("paper", "paper_noise", "refined", "refined_noise", "refined_calibrated")
SETTINGS = {"mobilenet_v2": ((4, 32.0), (8, 4.0), (8, 8.0), (16, 4.0)), "resnet18": ((8, 1.0), (8, 4.0))}


def main(folder: Path, archs: list[str]) -> None:
    train, val = digits()
    images = calibration_images(train)
    table("model", "g, r'", *(way.replace("_", " + ") for way in METHODS), "SNR paper", "SNR refined", text=2)
    for arch in archs or SETTINGS:
        dense = trained(arch, folder)
        print(f"{arch}, dense {top1(dense, val):.1f}", file=sys.stderr)
        for groups, growth in SETTINGS[arch]:
            found, report = compare_methods(dense, tenreo.Recipe(groups, tenreo.Progressive(growth)), images, val)
            ratios = (f"{report.snr_unrefined:.2f}", f"{report.snr:.2f}")
            row(arch, f"{groups}, {growth:g}", *percents([found[way] for way in METHODS]), *ratios)


def calibration_images(train: Images, count: int = 256) -> Tensor:
    """Return the first images of a data set, (count, 3, 32, 32), for calibration."""
    first = Images(train.samples[:count], train.classes, train.prepare)
    images, _ = next(iter(Batches(first, Loading(count), torch.device("cpu"))))
    return images


def compare_methods(
    model: nn.Module, recipe: tenreo.Recipe, images: Tensor, val: Images
) -> tuple[dict[str, float], tenreo.Report]:
    """Compress a model with every method that needs no labels.

    Args:
        model: dense model, which does not change.
        recipe: compression recipe; its refinement rounds apply to the methods with refinement.
        images: (batch, 3, size, size) images for calibration.
        val: validation images.

    Returns:
        Top-1 accuracy in percent by method, and the report of the refined model.
    """
    size = images.shape[-1]
    orders: Orders = {}
    paper, refined = deepcopy(model), deepcopy(model)
    tenreo.compress_(paper, replace(recipe, refine=0), orders=orders)
    accuracies = {"paper": top1(paper, val)}
    tenreo.match_statistics_(paper, model, size=size)
    accuracies["paper_noise"] = top1(paper, val)
    report = tenreo.compress_(refined, recipe, orders=orders)
    accuracies["refined"] = top1(refined, val)
    calibrated = deepcopy(refined)
    tenreo.match_statistics_(calibrated, model, images)
    tenreo.match_statistics_(refined, model, size=size)
    return accuracies | {"refined_noise": top1(refined, val), "refined_calibrated": top1(calibrated, val)}, report


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="folder of the dense models; missing ones are trained")
    options.add_argument("archs", nargs="*", metavar="ARCH", help="mobilenet_v2, resnet18, or both by default")
    main(**vars(options.parse_args()))

"""A dense model of the handwritten digits, and what each way of compressing it without training leaves of it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tenreo.compression.compress_model import compress_
from tenreo.compression.layer_encoding import Orders
from tenreo.compression.report import Report
from tenreo.correction.statistics import match_statistics_
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images, open_images
from tenreo.data.layouts import DIGITS
from tenreo.evaluation.accuracy import evaluate
from tenreo.evaluation.agreement import Agreement, compare
from tenreo.files.records import Correction, ModelInfo, Preprocess
from tenreo.models.builders import build_model
from tenreo.planning.recipe import Recipe
from tenreo.training.loop import finetune_
from tenreo.training.observer import Observer
from tenreo.training.settings import Schedule, Settings

PREPROCESS = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
EPOCHS = 12
# The ways of `compress_without_training`, and their headings.
WAYS = {
    "paper": "paper", "paper_noise": "paper\n+noise", "refined": "re-\nfined",
    "refined_noise": "re-\nfined\n+noise", "refined_calibrated": "re-\nfined\n+calib",
}  # fmt: skip


def digits_info(arch: str) -> ModelInfo:
    """The info of an architecture that classifies the digits."""
    return ModelInfo(arch, 10, DIGITS, PREPROCESS)


def digits() -> tuple[Images, Images]:
    """The 1,437 digits to learn from and the 360 to evaluate on.

    Raises:
        TenreoError: when scikit-learn is not installed.
    """
    train, val = (open_images(DIGITS, split, PREPROCESS, 10) for split in ("train", "val"))
    return train, val


def train_digits(arch: str, seed: int, observer: Observer | None = None) -> nn.Module:
    """Train a model of the digits that can be compressed.

    With the usual weight decay, a fiftieth of this, models did not survive compression (docs/research/refinement.md):
    few steps from a random start leave what was learned a small part of the weights. A rate that ends at 0 settles
    the BatchNorm statistics.

    Args:
        arch: a classification architecture of torchvision.
        seed: of weights and the order of images.
        observer: is told of every step and epoch.
    """
    torch.manual_seed(seed)
    model = build_model(f"torchvision:{arch}", {"num_classes": 10})
    settings = Settings(
        epochs=EPOCHS, batch_size=32, lr=0.05, weight_decay=0.005, seed=seed, schedule=Schedule.COSINE,
        warmup=0.2 * EPOCHS,
    )  # fmt: skip
    finetune_(model, *digits(), settings, observer=observer)
    return model


def calibration_images(train: Images, count: int = 256) -> Tensor:
    """The first images of a data set, (count, 3, 32, 32), to calibrate on."""
    first = Images(train.samples[:count], train.classes, train.prepare)
    images, _ = next(iter(Batches(first, Loading(count), torch.device("cpu"))))
    return images


def top1(model: nn.Module, val: Images) -> float:
    """Top-1 accuracy in percent, on the CPU."""
    return evaluate(model, Batches(val, Loading(256), torch.device("cpu"))).top1


@dataclass(frozen=True)
class Compressed:
    """What `compress_without_training` found.

    Attributes:
        top1: in percent, by way.
        agreement: of the model with the dense one.
        model: refined and matched on noise, which is what `tenreo compress` makes by default.
        report: of its compression.
        correction: of its statistics.
    """

    top1: dict[str, float]
    agreement: Agreement
    model: nn.Module
    report: Report
    correction: Correction


def compress_without_training(model: nn.Module, recipe: Recipe, images: Tensor, val: Images) -> Compressed:
    """Compress a model in every way that needs no label.

    Args:
        model: dense; stays as it is.
        recipe: with the rounds of the refined ways.
        images: (batch, 3, size, size) to correct the statistics on.
        val: images to evaluate on.
    """
    size = images.shape[-1]
    orders: Orders = {}
    paper, refined = deepcopy(model), deepcopy(model)
    compress_(paper, replace(recipe, refine=0), orders=orders)
    found = {"paper": top1(paper, val)}
    match_statistics_(paper, model, size=size)
    found["paper_noise"] = top1(paper, val)
    report = compress_(refined, recipe, orders=orders)
    found["refined"] = top1(refined, val)
    calibrated = deepcopy(refined)
    match_statistics_(calibrated, model, images)
    correction = match_statistics_(refined, model, size=size)
    found |= {"refined_noise": top1(refined, val), "refined_calibrated": top1(calibrated, val)}
    agreement = compare(refined, model, Batches(val, Loading(256), torch.device("cpu")))
    return Compressed(found, agreement, refined, report, correction)

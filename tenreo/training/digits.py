"""The experiment of `tenreo demo`: train a model of handwritten digits, and compare compression methods on it."""

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
# Methods that `compare_methods` compares, with the column headings of their accuracies.
METHODS = {
    "paper": "paper", "paper_noise": "paper\n+noise", "refined": "re-\nfined",
    "refined_noise": "re-\nfined\n+noise", "refined_calibrated": "re-\nfined\n+calib",
}  # fmt: skip


def digits_info(arch: str) -> ModelInfo:
    """Return the model info of an architecture that classifies the digits."""
    return ModelInfo(arch, 10, DIGITS, PREPROCESS)


def digits() -> tuple[Images, Images]:
    """Return the 1,437 training images and the 360 validation images of the digits.

    Raises:
        TenreoError: if scikit-learn is not installed.
    """
    train, val = (open_images(DIGITS, split, PREPROCESS, 10) for split in ("train", "val"))
    return train, val


def train_digits(arch: str, seed: int, observer: Observer | None = None) -> nn.Module:
    """Train a model of the digits from random weights.

    The weight decay is fifty times the usual one: with less, the random initial weights dominate the few training
    steps, and the model does not survive compression (docs/research/refinement.md). A learning rate that ends at 0
    lets the BatchNorm statistics converge.

    Args:
        arch: classification architecture of torchvision.
        seed: random seed of the weights and of the image order.
        observer: receives the results of steps and epochs.
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
    """Return the first images of a data set, (count, 3, 32, 32), for calibration."""
    first = Images(train.samples[:count], train.classes, train.prepare)
    images, _ = next(iter(Batches(first, Loading(count), torch.device("cpu"))))
    return images


def top1(model: nn.Module, val: Images) -> float:
    """Return the top-1 accuracy in percent, computed on the CPU."""
    return evaluate(model, Batches(val, Loading(256), torch.device("cpu"))).top1


@dataclass(frozen=True)
class MethodComparison:
    """Result of `compare_methods`.

    Attributes:
        top1: top-1 accuracy in percent, by method.
        agreement: agreement of `model` with the dense model.
        model: model with refinement and statistics matched on noise, the default of `tenreo compress`.
        report: compression report of `model`.
        correction: correction of the statistics of `model`.
    """

    top1: dict[str, float]
    agreement: Agreement
    model: nn.Module
    report: Report
    correction: Correction


def compare_methods(model: nn.Module, recipe: Recipe, images: Tensor, val: Images) -> MethodComparison:
    """Compress a model with every method that needs no labels, and evaluate the results.

    Args:
        model: dense model, which does not change.
        recipe: compression recipe; its refinement rounds apply to the methods with refinement.
        images: (batch, 3, size, size) images for calibration.
        val: validation images.
    """
    size = images.shape[-1]
    orders: Orders = {}
    paper, refined = deepcopy(model), deepcopy(model)
    compress_(paper, replace(recipe, refine=0), orders=orders)
    accuracies = {"paper": top1(paper, val)}
    match_statistics_(paper, model, size=size)
    accuracies["paper_noise"] = top1(paper, val)
    report = compress_(refined, recipe, orders=orders)
    accuracies["refined"] = top1(refined, val)
    calibrated = deepcopy(refined)
    match_statistics_(calibrated, model, images)
    correction = match_statistics_(refined, model, size=size)
    accuracies |= {"refined_noise": top1(refined, val), "refined_calibrated": top1(calibrated, val)}
    agreement = compare(refined, model, Batches(val, Loading(256), torch.device("cpu")))
    return MethodComparison(accuracies, agreement, refined, report, correction)

"""The model of `tenreo demo`: data, training and accuracy on handwritten digits."""

import torch
from torch import nn

from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images, open_images
from tenreo.data.layouts import DIGITS
from tenreo.evaluation.accuracy import evaluate
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.models.builders import build_model
from tenreo.training.loop import finetune_
from tenreo.training.observer import Observer
from tenreo.training.settings import Schedule, Settings

PREPROCESS = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
EPOCHS = 10  # of the demo
_THOROUGH = 12  # epochs of the benchmarks
_WIDE = 384  # channels of depthwise convolutions from which their images have at most 2 x 2 pixels in MobileNet-V2


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


def train_digits(arch: str, seed: int, observer: Observer | None = None, *, quick: bool = False) -> nn.Module:
    """Train a model of the digits from random weights.

    The weight decay is fifty times the usual one: with less, the random initial weights dominate the few training
    steps, and the model does not survive compression (docs/research/refinement.md). A learning rate that ends at 0
    lets the BatchNorm statistics converge. On CPUs, such small images take half the time in the format channels_last.

    Args:
        arch: classification architecture of torchvision.
        seed: random seed of the weights and of the image order.
        observer: receives the results of steps and epochs.
        quick: train for 10 epochs instead of 12, with half as many steps each and without the kernels of wide depthwise
            convolutions, which takes less than half of the time and costs a point of accuracy.

    Returns:
        The dense model.

    Raises:
        TenreoError: if scikit-learn is not installed.
    """
    torch.manual_seed(seed)
    model = build_model(f"torchvision:{arch}", {"num_classes": 10})
    epochs, batch_size, lr = (EPOCHS, 64, 0.1) if quick else (_THOROUGH, 32, 0.05)
    settings = Settings(
        epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=0.005, seed=seed, schedule=Schedule.COSINE,
        warmup=0.2 * epochs, channels_last=True,
    )  # fmt: skip
    train, val = digits()
    if quick:
        freeze_wide_depthwise_(model)
        val = val.limited(64)  # the caller measures the trained model
    finetune_(model, train, val, settings, observer=observer)
    return model


def freeze_wide_depthwise_(model: nn.Module) -> None:
    """Exclude the kernels of wide depthwise convolutions from training, in place.

    On images of 1 x 1 or 2 x 2 pixels, the CPU kernels of torch are slow: the gradients of these few weights take half
    the time of a training step.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups >= _WIDE:
            module.weight.requires_grad_(False)


def top1(model: nn.Module, val: Images) -> float:
    """Return the top-1 accuracy in percent, computed on the CPU."""
    return evaluate(model, Batches(val, Loading(256), torch.device("cpu"))).top1

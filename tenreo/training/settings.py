"""The options of training with their defaults, ranges and help sentences. This module does not import torch."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from tenreo.data.augmentation import Augmentation
from tenreo.errors import TenreoError
from tenreo.options import check_options, option

# Upper bounds that catch typing errors: larger values would exhaust time or memory, or overflow float32.
_MAX_EPOCHS = 10**6
_MAX_BATCH_SIZE = 2**16  # images; at 224 by 224 pixels, these are 39 GB
_MAX_STEPS = 10**9
_MAX_LR = 1e30  # the largest float32 is 3.4e38
_MAX_WEIGHT_DECAY = 1e3
_MAX_TEMPERATURE = 1e4  # the loss is multiplied by its square


class Optimizer(StrEnum):
    """Optimization algorithm."""

    SGD = "sgd"
    ADAMW = "adamw"


class Schedule(StrEnum):
    """Learning rate schedule; `tenreo.training.schedule` contains the formulas."""

    CONSTANT = "constant"
    STEP = "step"
    COSINE = "cosine"


class AmpType(StrEnum):
    """16-bit number format of mixed precision; `auto` is bfloat16, or float16 on GPUs without bfloat16."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Freeze(StrEnum):
    """Parameters that training does not change: none, the coefficients, or everything but the coefficients."""

    NOTHING = "nothing"
    COEFFICIENTS = "coefficients"
    DENSE = "dense"


@dataclass(frozen=True)
class Settings:
    """Options of training; the help sentence of each field describes it.

    >>> Settings(epochs=3, schedule="cosine", warmup=0.5).schedule
    <Schedule.COSINE: 'cosine'>

    Raises:
        TenreoError: if a value is out of range.
    """

    panel: ClassVar[str] = "Training"  # heading in the help of the command line

    epochs: int = option(
        1, "Number of passes over the training images; 0 only calibrates.", least=0, ceiling=_MAX_EPOCHS
    )
    batch_size: int = option(64, "Images per batch and process.", least=1, ceiling=_MAX_BATCH_SIZE, short="-b")
    accumulate: int = option(
        1, "Number of batches whose gradients are averaged in one optimizer step.", least=1, ceiling=_MAX_BATCH_SIZE
    )
    patience: int = option(
        0, "Stop after this number of epochs without a better top-1; 0 disables early stopping.", least=0,
        ceiling=_MAX_EPOCHS,
    )  # fmt: skip
    lr: float | None = option(
        None, "Peak learning rate; by default 0.0001 for MobileNet-V2 and 0.00025 otherwise.", least=0, ceiling=_MAX_LR
    )
    dense_lr_scale: float = option(
        1.0, "Learning-rate multiplier for parameters other than the coefficients.", least=0, ceiling=1e6
    )
    optimizer: Optimizer = option(Optimizer.SGD, "Optimization algorithm.")
    momentum: float = option(0.9, "Momentum of SGD.", least=0, ceiling=1)
    weight_decay: float = option(1e-4, "Weight decay.", least=0, ceiling=_MAX_WEIGHT_DECAY)
    schedule: Schedule = option(
        Schedule.STEP, "Learning rate schedule; step divides the rate by ten from the sixteenth epoch on."
    )
    warmup: float = option(
        0.0, "Number of epochs in which the learning rate rises linearly to its peak.", least=0, ceiling=_MAX_EPOCHS
    )
    label_smoothing: float = option(
        0.0, "Label smoothing: fraction of every label that is spread evenly over all classes.", least=0, below=1
    )
    augment: Augmentation = option(
        Augmentation.NONE,
        "Augmentation of the training images; none: resize and center crop, as in the paper; standard: random crop "
        "and flip; randaugment: standard and RandAugment.",
    )
    erase: float = option(
        0.0, "Probability that a random rectangle of a training image is erased (random erasing).", least=0, most=1
    )
    mixup: float = option(
        0.0, "Alpha of mixup, which blends pairs of training images; 0 disables it.", least=0, ceiling=1e3
    )
    cutmix: float = option(
        0.0, "Alpha of CutMix, which pastes a part of one training image into another; 0 disables it.", least=0,
        ceiling=1e3,
    )  # fmt: skip
    distill: bool = option(False, "Train on the outputs of the dense model as well (knowledge distillation).")
    temperature: float = option(4.0, "Softmax temperature of distillation.", above=0, ceiling=_MAX_TEMPERATURE)
    distill_weight: float = option(
        0.9, "Weight of distillation in the loss; the labels have the remaining weight.", least=0, most=1
    )
    ema: float = option(
        0.0, "Decay per step of an exponential moving average of the weights, which is evaluated and saved; 0 disables "
        "it.", least=0, below=1,
    )  # fmt: skip
    clip: float = option(0.0, "Maximum norm of the gradient; 0 disables gradient clipping.", least=0, ceiling=_MAX_LR)
    freeze: Freeze = option(
        Freeze.NOTHING, "Parameters that are not trained: nothing, coefficients, or dense (all other parameters)."
    )
    freeze_batchnorm: bool = option(False, "Do not change the statistics and parameters of BatchNorm layers.")
    amp: bool = option(False, "Use automatic mixed precision.")
    amp_dtype: AmpType = option(
        AmpType.AUTO, "16-bit number format of amp; auto: bfloat16, or float16 on GPUs without bfloat16."
    )
    channels_last: bool = option(
        False, "Use the channels-last memory format, which is faster on GPUs with mixed precision."
    )
    compile: bool = option(False, "Compile the model with torch.compile.")
    sync_batchnorm: bool = option(False, "Compute BatchNorm statistics over all processes (CUDA only).")
    skip_broken: bool = option(False, "Skip and count images that cannot be read.")
    save_every: int = option(
        0, "Number of steps between two saves of the training state; 0 saves it after every epoch only.", least=0,
        ceiling=_MAX_STEPS,
    )  # fmt: skip
    seed: int = option(0, "Random seed of the image order, augmentation and dropout.", least=-(2**63), below=2**63)

    def __post_init__(self) -> None:
        check_options(self)
        if self.warmup > self.epochs:
            raise TenreoError(
                f"warmup: given {self.warmup} epochs, needs 0 to {self.epochs}, the number of epochs of the run"
            )


def default_lr(arch: str | None) -> float:
    """Return the paper's learning rate: 0.0001 for MobileNet-V2, 0.00025 for other architectures."""
    return 0.0001 if arch == "mobilenet_v2" else 0.00025

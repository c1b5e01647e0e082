"""How to train: every choice, with its default, its range and what it means. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tenreo.data.augmentation import Augmentation
from tenreo.errors import TenreoError
from tenreo.options import check_options, option

# Bounds of numbers: more makes no sense, and would take all time or memory, or leave float32.
_MOST_EPOCHS = 10**6
_MOST_AT_ONCE = 2**16  # images of a batch: of 224 by 224 pixels, 39 GB
_MOST_STEPS = 10**9
_MOST_RATE = 1e30  # float32 ends at 3.4e38
_MOST_DECAY = 1e3
_MOST_TEMPERATURE = 1e4  # its square is a factor of the loss


class Optimizer(StrEnum):
    """What turns gradients into steps."""

    SGD = "sgd"
    ADAMW = "adamw"


class Schedule(StrEnum):
    """How the learning rate changes during a run; `tenreo.training.schedule` has the formulas."""

    CONSTANT = "constant"
    STEP = "step"
    COSINE = "cosine"


class AmpType(StrEnum):
    """The 16-bit type of `amp`; auto is bfloat16, or float16 on a GPU that has none."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Freeze(StrEnum):
    """What is not trained."""

    NOTHING = "nothing"
    COEFFICIENTS = "coefficients"
    DENSE = "dense"


@dataclass(frozen=True)
class Settings:
    """How to train.

    >>> Settings(epochs=3, schedule="cosine", warmup=0.5).schedule
    <Schedule.COSINE: 'cosine'>

    Attributes:
        epochs: passes over the images; 0 trains nothing.
        batch_size: images per step and process.
        accumulate: batches per step, whose gradients are averaged; BatchNorm sees each alone.
        patience: epochs without a better top-1 after which the run ends; 0 goes on.
        lr: learning rate at its highest; None takes the paper's, `default_lr`.
        dense_lr_scale: learning rate of all that is not coefficients, by that of the coefficients.
        optimizer: sgd or adamw.
        momentum: of SGD.
        weight_decay: of the optimizer.
        schedule: of the learning rate: constant, step or cosine.
        warmup: epochs in which the learning rate rises from 0.
        label_smoothing: share of every label that is distributed over all classes, in [0, 1).
        augment: of the training images: none, standard or randaugment.
        erase: share of the training images of which a random rectangle is erased (random erasing).
        mixup: alpha of the Beta distribution by which two images are blended; 0 does not.
        cutmix: likewise, by which a part of one image is put into another; with both, one is drawn for every batch.
        distill: learn from a teacher's outputs as well.
        temperature: that softens both models' outputs.
        distill_weight: of the teacher in the loss, in [0, 1]; the labels have the rest.
        ema: decay per step of the averaged weights that are evaluated and written; 0 has none.
        clip: largest norm of all gradients together; 0 does not clip.
        freeze: nothing, coefficients, or dense (all that is not coefficients).
        freeze_batchnorm: keep the statistics and parameters of every BatchNorm.
        amp: autocast to 16 bits; float16 with a scaler.
        amp_dtype: to which type.
        channels_last: the memory format of images and dense weights.
        compile: run the model through `torch.compile`.
        sync_batchnorm: BatchNorm over all processes, on CUDA.
        skip_broken: go on past images that can not be read.
        save_every: steps between two saves of the run's state; 0 saves after epochs alone.
        seed: of the order of images, of augmentation and of dropout.

    Raises:
        TenreoError: when a value is out of range.
    """

    epochs: int = option(1, "Passes over the images; 0 with calibration trains nothing.", least=0, ceiling=_MOST_EPOCHS)
    batch_size: int = option(64, "Images per step and process.", least=1, ceiling=_MOST_AT_ONCE)
    accumulate: int = option(
        1, "Batches per step, whose gradients are averaged; a step then has so many times the images.", least=1,
        ceiling=_MOST_AT_ONCE,
    )  # fmt: skip
    patience: int = option(
        0, "End the run after so many epochs without a better top-1; 0 goes on.", least=0, ceiling=_MOST_EPOCHS
    )
    lr: float | None = option(
        None, "Learning rate. By default 0.0001 for MobileNet-V2, 0.00025 otherwise.", least=0, ceiling=_MOST_RATE
    )
    dense_lr_scale: float = option(
        1.0, "Learning rate of all that is not coefficients, by that of the coefficients.", least=0, ceiling=1e6
    )
    optimizer: Optimizer = option(Optimizer.SGD, "What turns gradients into steps.")
    momentum: float = option(0.9, "Momentum of SGD.", least=0, ceiling=1)
    weight_decay: float = option(1e-4, "Weight decay of the optimizer.", least=0, ceiling=_MOST_DECAY)
    schedule: Schedule = option(Schedule.STEP, "Schedule of the learning rate; step: a tenth from epoch 16 on.")
    warmup: float = option(0.0, "Epochs in which the learning rate rises from 0.", least=0, ceiling=_MOST_EPOCHS)
    label_smoothing: float = option(0.0, "Share of a label distributed over all classes.", least=0, below=1)
    augment: Augmentation = option(
        Augmentation.NONE,
        "none: resize and center crop, as the paper; standard: random crop and flip; randaugment: RandAugment as well.",
    )
    erase: float = option(0.0, "Share of the training images of which a random part is erased.", least=0, most=1)
    mixup: float = option(0.0, "Alpha of mixup, which blends pairs of images; 0 does not.", least=0, ceiling=1e3)
    cutmix: float = option(0.0, "Alpha of CutMix, which pastes parts of images into others.", least=0, ceiling=1e3)
    distill: bool = option(False, "Learn from the outputs of the dense model as well.")
    temperature: float = option(
        4.0, "Temperature of distillation, which softens the outputs.", above=0, ceiling=_MOST_TEMPERATURE
    )
    distill_weight: float = option(0.9, "Weight of distillation in the loss.", least=0, most=1)
    ema: float = option(
        0.0, "Decay of an exponential moving average of the weights, which is evaluated and written.", least=0, below=1
    )
    clip: float = option(0.0, "Largest norm of the gradients; 0 does not clip.", least=0, ceiling=_MOST_RATE)
    freeze: Freeze = option(Freeze.NOTHING, "What is not trained.")
    freeze_batchnorm: bool = option(False, "Keep the statistics and parameters of every BatchNorm.")
    amp: bool = option(False, "Compute in 16 bits where that is safe.")
    amp_dtype: AmpType = option(AmpType.AUTO, "16-bit type of amp; auto: bfloat16, or float16 on GPUs without.")
    channels_last: bool = option(False, "The memory format that GPUs prefer with amp.")
    compile: bool = option(False, "Run the model through torch.compile.")
    sync_batchnorm: bool = option(False, "Synchronize BatchNorm over all processes (CUDA).")
    skip_broken: bool = option(False, "Go on past images that can not be read, and count them.")
    save_every: int = option(
        0, "Steps between two saves of the run's state; 0 saves after epochs alone.", least=0, ceiling=_MOST_STEPS
    )
    seed: int = option(0, "Seed of the order of images, augmentation and dropout.", least=-(2**63), below=2**63)

    def __post_init__(self) -> None:
        check_options(self)
        if self.warmup > self.epochs:
            raise TenreoError(f"warmup: given {self.warmup} epochs, needs 0 to {self.epochs}, the length of the run")


def default_lr(arch: str | None) -> float:
    """The learning rate of the paper's commands: 0.0001 for MobileNet-V2, 0.00025 otherwise."""
    return 0.0001 if arch == "mobilenet_v2" else 0.00025

"""How to train: every choice, with its default, its range and what it means. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tenreo.errors import TenreoError
from tenreo.options import check_options, option
from tenreo.vision.names import Augmentation

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
        lr: learning rate at its highest; None takes the paper's, `default_lr`.
        optimizer: sgd or adamw.
        momentum: of SGD.
        weight_decay: of the optimizer.
        schedule: of the learning rate: constant, step or cosine.
        warmup: epochs in which the learning rate rises from 0.
        label_smoothing: share of every label that is distributed over all classes, in [0, 1).
        augment: of the training images: none or standard.
        distill: learn from a teacher's outputs as well.
        temperature: that softens both models' outputs.
        distill_weight: of the teacher in the loss, in [0, 1]; the labels have the rest.
        ema: decay per step of the averaged weights that are evaluated and written; 0 has none.
        clip: largest norm of all gradients together; 0 does not clip.
        freeze: nothing, coefficients, or dense (all that is not coefficients).
        amp: autocast to bfloat16, or where a GPU has none to float16 with a scaler.
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
    lr: float | None = option(
        None, "Learning rate. By default 0.0001 for MobileNet-V2, 0.00025 otherwise.", least=0, ceiling=_MOST_RATE
    )
    optimizer: Optimizer = option(Optimizer.SGD, "What turns gradients into steps.")
    momentum: float = option(0.9, "Momentum of SGD.", least=0, ceiling=1)
    weight_decay: float = option(1e-4, "Weight decay of the optimizer.", least=0, ceiling=_MOST_DECAY)
    schedule: Schedule = option(Schedule.STEP, "Schedule of the learning rate; step: a tenth from epoch 16 on.")
    warmup: float = option(0.0, "Epochs in which the learning rate rises from 0.", least=0, ceiling=_MOST_EPOCHS)
    label_smoothing: float = option(0.0, "Share of a label distributed over all classes.", least=0, below=1)
    augment: Augmentation = option(
        Augmentation.NONE, "none: resize and center crop, as the paper; standard: random crop and flip."
    )
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
    amp: bool = option(False, "Compute in 16 bits where that is safe.")
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

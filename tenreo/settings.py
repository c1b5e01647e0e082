"""How to train: every choice, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from tenreo.errors import TenreoError
from tenreo.schedule import check_schedule

OPTIMIZERS = ("sgd", "adamw")
AUGMENTATIONS = ("none", "standard")
FROZEN = ("nothing", "coefficients", "others")


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: passes over the images; 0 trains nothing.
        batch_size: images per step and process.
        lr: learning rate at its highest.
        momentum: of SGD.
        weight_decay: of the optimizer.
        seed: of the order of images, of augmentation and of dropout.
        schedule: of the learning rate: constant, step or cosine.
        warmup: epochs in which the learning rate rises from 0.
        optimizer: sgd or adamw.
        label_smoothing: share of every label that is spread over all classes, in [0, 1).
        augment: of the training images: none or standard.
        distill: learn from a teacher's outputs as well.
        temperature: that softens both models' outputs.
        distill_weight: of the teacher in the loss, in [0, 1]; the labels have the rest.
        ema: decay per step of the averaged weights that are evaluated and written; 0 has none.
        clip: largest norm of all gradients together; 0 does not look.
        freeze: nothing, coefficients, or others (all that is not coefficients).
        amp: autocast to bfloat16, or where a GPU has none to float16 with a scaler.
        channels_last: the memory format of images and dense weights.
        compile: run the model through `torch.compile`.
        sync_batchnorm: BatchNorm over all processes, on CUDA.
        skip_broken: go on past images that can not be read.
        save_every: steps between two saves of the run's state; 0 saves after epochs alone.

    Raises:
        TenreoError: when a value is out of range.
    """

    epochs: int = 1
    batch_size: int = 64
    lr: float = 0.00025
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 0
    schedule: str = "step"
    warmup: float = 0.0
    optimizer: str = "sgd"
    label_smoothing: float = 0.0
    augment: str = "none"
    distill: bool = False
    temperature: float = 4.0
    distill_weight: float = 0.9
    ema: float = 0.0
    clip: float = 0.0
    freeze: str = "nothing"
    amp: bool = False
    channels_last: bool = False
    compile: bool = False
    sync_batchnorm: bool = False
    skip_broken: bool = False
    save_every: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 0), ("batch_size", 1), ("lr", 0), ("momentum", 0), ("weight_decay", 0), ("clip", 0),
            ("save_every", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not least <= value < float("inf"):
                raise TenreoError(f"{name}: given {value}, needs at least {least}")
        for name in ("label_smoothing", "ema"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise TenreoError(f"{name}: given {value}, needs 0 or more and less than 1")
        if not -(2**63) <= self.seed < 2**63:
            raise TenreoError(f"seed: given {self.seed}, needs a whole number of 64 bits")
        if not 0 <= self.distill_weight <= 1:
            raise TenreoError(f"distill_weight: given {self.distill_weight}, needs 0 to 1")
        if not 0 < self.temperature < float("inf"):
            raise TenreoError(f"temperature: given {self.temperature}, needs a number above 0, such as 4")
        for name, known in (("optimizer", OPTIMIZERS), ("augment", AUGMENTATIONS), ("freeze", FROZEN)):
            value = getattr(self, name)
            if value not in known:
                raise TenreoError(f"{name}: given {value!r}, needs one of {', '.join(known)}")
        check_schedule(self.schedule, self.warmup, self.epochs)


def default_lr(arch: str | None) -> float:
    """The learning rate of the paper's commands: 0.0001 for MobileNet-V2, 0.00025 otherwise."""
    return 0.0001 if arch == "mobilenet_v2" else 0.00025

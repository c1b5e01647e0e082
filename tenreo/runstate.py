"""All that a run needs to go on where it was, in one file that is replaced whole or not at all.

Nothing random is kept: the order of images, augmentation and dropout are functions of seed, epoch, step,
image and process.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from tenreo.checkpoint import replacing
from tenreo.errors import TenreoError

FREE = ("save_every", "skip_broken")  # settings that a resumed run may change


@dataclass(frozen=True)
class Step:
    """One step, over all processes together.

    Attributes:
        epoch: its number from 1.
        step: its number in the epoch, from 1.
        steps: of an epoch.
        images: of this step.
        lr: learning rate.
        loss: mean over its images, in nats.
        top1: of its images, in percent.
        seconds: from the step before to this one.
        waiting: share of the epoch's time so far that was spent on waiting for data.
        memory: bytes at the highest point, of the GPU or else of the process.
    """

    epoch: int
    step: int
    steps: int
    images: int
    lr: float
    loss: float
    top1: float
    seconds: float
    waiting: float
    memory: int


@dataclass(frozen=True)
class Epoch:
    """One epoch and its evaluation.

    Attributes:
        epoch: its number from 1.
        steps: how many it had.
        lr: the last learning rate.
        train_loss: mean over the training images as they were learned, in nats.
        train_top1: of the same, in percent.
        top1: of the evaluation, in percent.
        top5: likewise; None with five classes or fewer.
        loss: of the evaluation, in nats.
        seconds: for all of it.
        waiting: share of the training's time that was spent on waiting for data.
    """

    epoch: int
    steps: int
    lr: float
    train_loss: float
    train_top1: float
    top1: float
    top5: float | None
    loss: float
    seconds: float
    waiting: float


@dataclass
class Position:
    """How far a run is.

    Attributes:
        step: steps done in the epoch after those of the history.
        loss: sum over the images of that epoch so far, in nats.
        right: how many of them were classified rightly.
        seen: how many they were.
        seconds: spent on them.
        waiting: seconds of these spent on waiting for data.
        history: the epochs that are done.
    """

    step: int = 0
    loss: float = 0.0
    right: int = 0
    seen: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    def count(self, images: int, loss: float, right: int, seconds: float, waited: float) -> None:
        """Take one step of so many images in; the loss is their mean."""
        self.step += 1
        self.seen += images
        self.loss += loss * images
        self.right += right
        self.seconds += seconds
        self.waiting += waited


class Stateful(Protocol):
    """What has a state to save: models, optimizers, scalers, averages."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state: Any) -> Any:
        """Take a state over."""


def save_state(
    path: Path, parts: Mapping[str, Stateful], made_with: Mapping[str, Any], position: Position
) -> None:
    """Write a run's state.

    Args:
        path: of the file.
        parts: what has a state.
        made_with: all that a run must share to go on from it, by name.
        position: how far the run is.

    Raises:
        TenreoError: when the file can not be written; an older one is then untouched.
    """
    values = {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "made_with": dict(made_with),
        "position": asdict(position),
    }
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(values, file)
    except RuntimeError as error:  # torch's own, while it handles what the disk said
        raise TenreoError(f"{path}: can not be written: {error.__context__}; choose another --out") from error


def load_state(path: Path, parts: Mapping[str, Stateful], made_with: Mapping[str, Any]) -> Position:
    """Put a run's state into a model and all that trains it.

    Args:
        path: of the file.
        parts: what takes its state over.
        made_with: as of `save_state`; what may not differ is compared.

    Returns:
        How far the run was.

    Raises:
        TenreoError: when the file is missing, damaged, or of another run.
    """
    if not path.exists():
        raise TenreoError(f"{path}: nothing to resume; leave --resume out to start")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself looks at no checksum
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} has another checksum")
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        _check(path, values["made_with"], made_with)
        for name, part in parts.items():
            part.load_state_dict(values["parts"][name])
        position = dict(values["position"])
        position["history"] = [Epoch(**e) for e in position["history"]]
        return Position(**position)
    except TenreoError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        why = f"{type(error).__name__} {error}".splitlines()[0]
        raise TenreoError(
            f"{path}: does not belong to this model, or is damaged ({why}); leave --resume out to start again"
        ) from error


def _check(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # A longer run begins like a shorter one, unless its schedule looks at the end.
    free = FREE if now["schedule"] == "cosine" else (*FREE, "epochs")
    for name, value in now.items():
        if name not in free and value != earlier[name]:
            raise TenreoError(f"{path}: was made with {name} {earlier[name]}, now {value}; give the same")

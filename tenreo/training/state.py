"""All that a run needs to go on where it was, in one file that is replaced whole or not at all.

Nothing random is kept: the order of images, augmentation and dropout are functions of seed, epoch, step,
image and process.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write
from tenreo.training.observer import Epoch
from tenreo.training.settings import Schedule

CHANGEABLE = ("save_every", "skip_broken")  # settings that a resumed run may change


class StateFile(NamedTuple):
    """Where a run keeps its state.

    Attributes:
        path: of the file; written by the first process after each epoch, before its evaluation, every
            `save_every` steps, and when the run is stopped.
        resume: go on from what is there.
    """

    path: Path
    resume: bool = False


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps done in the epoch after those of the history.
        loss: sum over the images of that epoch so far, in nats.
        correct: how many of them were classified correctly.
        seen: how many they were.
        seconds: spent on them.
        waiting: seconds of these spent on waiting for data.
        history: the epochs that are done.
    """

    step: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    def add_step(self, *, images: int, loss: float, correct: int, seconds: float, waited: float) -> None:
        """Include one step of so many images; the loss is their mean."""
        self.step += 1
        self.seen += images
        self.loss += loss * images
        self.correct += correct
        self.seconds += seconds
        self.waiting += waited


class Stateful(Protocol):
    """What has a state to save: models, optimizers, scalers, averages."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state: Any) -> Any:
        """Take a state over."""


def save_state(path: Path, parts: Mapping[str, Stateful], configuration: Mapping[str, Any], progress: Progress) -> None:
    """Write a run's state.

    Args:
        path: of the file.
        parts: what has a state.
        configuration: all that must be the same for a run to go on from it, by name.
        progress: how far the run is.

    Raises:
        TenreoError: when the file can not be written; an older one is then untouched.
    """
    values = {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "configuration": dict(configuration),
        "progress": asdict(progress),
    }
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(values, file)
    except RuntimeError as error:  # torch's own, while it handles what the disk said
        raise TenreoError(f"{path}: can not be written: {error.__context__}; choose another path") from error


def load_state(path: Path, parts: Mapping[str, Stateful], configuration: Mapping[str, Any]) -> Progress:
    """Load a run's state into a model and all that trains it.

    Args:
        path: of the file.
        parts: what takes its state over.
        configuration: as of `save_state`; what may not differ is compared.

    Returns:
        How far the run was.

    Raises:
        TenreoError: when the file is missing, damaged, or of another run.
    """
    if not path.exists():
        raise TenreoError(f"{path}: nothing to resume; start without resuming")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself looks at no checksum
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} has another checksum")
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        _check(path, values["configuration"], configuration)
        for name, part in parts.items():
            part.load_state_dict(values["parts"][name])
        progress = dict(values["progress"])
        progress["history"] = [Epoch(**each) for each in progress["history"]]
        return Progress(**progress)
    except TenreoError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        why = f"{type(error).__name__} {error}".splitlines()[0]
        raise TenreoError(
            f"{path}: does not belong to this model, or is damaged ({why}); start again without resuming"
        ) from error


def _check(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # A longer run begins like a shorter one, unless its schedule looks at the end.
    free = CHANGEABLE if now["schedule"] == Schedule.COSINE else (*CHANGEABLE, "epochs")
    for name, value in now.items():
        if name not in free and value != earlier[name]:
            raise TenreoError(f"{path}: was made with {name} {earlier[name]}, now {value}; give the same")

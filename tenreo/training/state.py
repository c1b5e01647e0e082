"""All that a run needs to go on where it was, in one file that is replaced whole or not at all.

Nothing random is kept: the order of images, augmentation and dropout are functions of seed, epoch, step,
image and process.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args, get_origin, get_type_hints

import torch

from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write
from tenreo.training.observer import Epoch
from tenreo.training.settings import Schedule
from tenreo.training.state_checks import check_alike, check_number, check_optimizer

# What a run started from, known by content: what to say where it is another one.
ORIGIN = {
    "start": "from another model's file, or with another teacher",
    "training_images": "with training images of other names, sizes or classes",
    "evaluation_images": "with evaluation images of other names, sizes or classes",
}
CHANGEABLE = ("save_every", "skip_broken", "patience")  # settings that a resumed run may change


class StateFile(NamedTuple):
    """Where a run keeps its state.

    Attributes:
        path: of the file; written by the first process after each epoch, before its evaluation, every
            `save_every` steps, and when the run is stopped.
        resume: go on from what is there.
        start: what the run starts from, such as a hash of the model's file; must be the same when it is resumed.
    """

    path: Path
    resume: bool = False
    start: str = ""


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
        why = error.__context__ or error
        raise TenreoError(f"{path}: can not be written: {why}; choose another path") from error


def load_state(path: Path, parts: Mapping[str, Stateful], configuration: Mapping[str, Any]) -> Progress:
    """Load a run's state into a model and all that trains it; what does not fit changes nothing.

    Args:
        path: of the file.
        parts: what takes its state over.
        configuration: as of `save_state`; what may not differ is compared.

    Returns:
        How far the run was.

    Raises:
        TenreoError: when the file is missing, damaged, or of another run.
    """
    if not path.is_file():  # a pipe would be waited for
        raise TenreoError(f"{path}: nothing to resume; start without resuming")
    try:
        _check_archive(path)
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        _check(path, values["configuration"], configuration)
        saved = values["parts"]
        for name, part in parts.items():
            if isinstance(part, torch.optim.Optimizer):
                check_optimizer(part, saved[name])
            else:
                check_alike(name, part.state_dict(), saved[name])
        progress = _progress(values["progress"])
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        return progress
    except TenreoError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        why = (f"{type(error).__name__} {error}".splitlines() or [""])[0][:200]
        raise TenreoError(
            f"{path}: does not belong to this model, or is damaged ({why}); start again without resuming"
        ) from error


def check_history(path: Path, progress: Progress) -> None:
    """Raise unless the epochs of a run are its start and all that follow.

    Args:
        path: of the state.
        progress: that it holds.

    Raises:
        TenreoError: when they are not, as in the states of earlier versions, which did not measure the start.
    """
    numbers = [epoch.epoch for epoch in progress.history]
    if numbers != list(range(len(numbers))) or not numbers:
        raise TenreoError(
            f"{path}: does not hold the evaluation of the start and of every epoch since, as earlier versions wrote "
            "it; start again without resuming"
        )


def _check_archive(path: Path) -> None:
    """Raise ValueError where torch would read what is damaged, or more than the file is long."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it says that it holds more than it does")
        if damaged := archive.testzip():  # torch itself looks at no checksum
            raise ValueError(f"{damaged} has another checksum")


def _progress(values: Any) -> Progress:
    """What a file says of the progress; ValueError when it makes no sense."""
    plain = _numbers_of(Progress, {**values, "history": None})
    history = [Epoch(**_numbers_of(Epoch, each)) for each in values["history"]]
    progress = Progress(**{**plain, "history": history})
    if progress.correct > progress.seen or (progress.step > 0) != (progress.seen > 0):
        raise ValueError(f"{progress.correct} of {progress.seen} images in {progress.step} steps")
    return progress


def _numbers_of(cls: type, values: Any) -> dict[str, Any]:
    """The fields of a dataclass of numbers; a list is not looked at."""
    kinds = get_type_hints(cls)
    if set(values) != set(kinds):
        raise ValueError(f"{cls.__name__} has {len(values)} values of other names")
    for name, value in values.items():
        optional = type(None) in get_args(kinds[name]) or get_origin(kinds[name]) is list
        if not (value is None and optional):
            check_number(name, value, whole=kinds[name] is int)
    return dict(values)


def _check(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # A longer run begins like a shorter one, unless its schedule looks at the end.
    free = CHANGEABLE if now["schedule"] == Schedule.COSINE else (*CHANGEABLE, "epochs")
    for name, value in now.items():
        if name not in earlier:
            raise TenreoError(
                f"{path}: does not say its {name}, as states of earlier versions do not; start again without resuming"
            )
        plain = isinstance(earlier[name], (int, float, str, type(None)))
        if name not in free and not (plain and value == earlier[name]):
            how = ORIGIN.get(name, f"with {name} {str(earlier[name])[:100]}, now {value}")
            raise TenreoError(f"{path}: was made {how}; give the same")

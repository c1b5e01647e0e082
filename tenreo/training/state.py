"""The training state: one file, replaced atomically, from which an interrupted run resumes.

The file contains no state of random number generators: the order of images, augmentation and dropout are functions of
seed, epoch, step, image and process.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args, get_origin, get_type_hints

import torch

from tenreo.errors import TenreoError, raise_if_out_of_memory
from tenreo.files.atomic import atomic_write
from tenreo.files.pickle_checks import check_torch_file
from tenreo.training.observer import Epoch
from tenreo.training.settings import Schedule
from tenreo.training.state_checks import check_compatible, check_number, check_optimizer

# Fingerprints in the configuration, with the error message for a different value.
_ORIGIN_ERRORS = {
    "start": "from another model's file, or with another teacher",
    "training_images": "with training images of other names, sizes or classes",
    "evaluation_images": "with evaluation images of other names, sizes or classes",
}
_CHANGEABLE = ("save_every", "skip_broken", "patience")  # settings that a resumed run may change


class StateFile(NamedTuple):
    """The file of the training state.

    Attributes:
        path: path of the file. The main process writes it every `save_every` steps, before and after the evaluation of
            each epoch, and when the run is stopped.
        resume: whether to resume from the existing file.
        start: identification of the initial model, such as a hash of its file; a resumed run must have the same.
    """

    path: Path
    resume: bool = False
    start: str = ""


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        step: number of completed steps of the current epoch.
        loss: sum of the losses of the current epoch's images so far, in nats.
        correct: number of correctly classified images of the current epoch so far.
        seen: number of images of the current epoch so far.
        seconds: duration of the current epoch so far.
        waiting: seconds that the current epoch has spent waiting for data.
        history: completed epochs.
    """

    step: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    def add_step(self, *, images: int, loss: float, correct: int, seconds: float, waited: float) -> None:
        """Add the result of a step: number of images, mean loss, correct predictions, and times in seconds."""
        self.step += 1
        self.seen += images
        self.loss += loss * images
        self.correct += correct
        self.seconds += seconds
        self.waiting += waited


class Stateful(Protocol):
    """An object with a state to save: a model, optimizer, gradient scaler or moving average."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state: Any) -> Any:
        """Replace the state."""


def save_state(path: Path, parts: Mapping[str, Stateful], configuration: Mapping[str, Any], progress: Progress) -> None:
    """Write the training state to a file.

    Args:
        path: path of the file.
        parts: objects whose state is saved, by name.
        configuration: values that must be equal for a run to resume from the file, by name.
        progress: progress of the run.

    Raises:
        TenreoError: if the file cannot be written; an existing file is then unchanged.
    """
    values = {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "configuration": dict(configuration),
        "progress": asdict(progress),
    }
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(values, file)
    except RuntimeError as error:  # torch raises it while it handles the OSError, which gives the reason
        raise_if_out_of_memory(error)
        cause = error.__context__
        why = (cause.strerror or cause) if isinstance(cause, OSError) else error
        raise TenreoError(f"{path}: cannot be written: {why}; choose another path") from error


def load_state(path: Path, parts: Mapping[str, Stateful], configuration: Mapping[str, Any]) -> Progress:
    """Restore the training state from a file. The whole file is validated before the first object is changed.

    Args:
        path: path of the file.
        parts: objects whose state is restored, by name.
        configuration: configuration of this run, which is compared with that of the file.

    Returns:
        The progress of the run.

    Raises:
        TenreoError: if the file is missing, damaged, or belongs to another run.
    """
    if not path.is_file():  # reading a pipe would block
        raise TenreoError(f"{path}: does not exist, so there is nothing to resume; start without resuming")
    try:
        with path.open("rb") as file:
            check_torch_file(file)  # loading another file could take more memory than its size
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():  # torch does not compare checksums
                    raise ValueError(f"{damaged} has a wrong checksum")
            file.seek(0)
            values: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        _check_configuration(path, values["configuration"], configuration)
        saved = values["parts"]
        for name, part in parts.items():
            if isinstance(part, torch.optim.Optimizer):
                check_optimizer(part, saved[name])
            else:
                check_compatible(name, part.state_dict(), saved[name])
        progress = _progress(values["progress"])
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        return progress
    except TenreoError:
        raise
    except Exception as error:  # torch may raise anything while it reads a damaged file
        raise_if_out_of_memory(error)
        why = (f"{type(error).__name__} {error}".splitlines() or [""])[0][:200]
        raise TenreoError(
            f"{path}: does not belong to this model, or is damaged ({why}); start again without resuming"
        ) from error


def check_history(path: Path, progress: Progress) -> None:
    """Raise TenreoError unless the progress from a state file has the results of every epoch from 0 on."""
    numbers = [epoch.epoch for epoch in progress.history]
    if numbers != list(range(len(numbers))) or not numbers:
        raise TenreoError(
            f"{path}: does not contain the results of epoch 0 and of every later epoch, as states of earlier versions "
            "do not; start again without resuming"
        )


def _progress(values: Any) -> Progress:
    """Return the progress that a state file contains; raises ValueError if it is invalid."""
    plain = _checked_fields(Progress, {**values, "history": None})
    history = [Epoch(**_checked_fields(Epoch, each)) for each in values["history"]]
    progress = Progress(**{**plain, "history": history})
    if progress.correct > progress.seen or (progress.step > 0) != (progress.seen > 0):
        raise ValueError(f"{progress.correct} of {progress.seen} images in {progress.step} steps")
    return progress


def _checked_fields(cls: type, values: Any) -> dict[str, Any]:
    """Return the fields of a dataclass of numbers after validation; fields that are lists are not validated."""
    kinds = get_type_hints(cls)
    if set(values) != set(kinds):
        raise ValueError(f"{cls.__name__} has other fields")
    for name, value in values.items():
        optional = type(None) in get_args(kinds[name]) or get_origin(kinds[name]) is list
        if not (value is None and optional):
            check_number(name, value, whole=kinds[name] is int)
    return dict(values)


def _check_configuration(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise unless the configuration in a state file agrees with that of this run."""
    # Only the cosine schedule depends on the total number of epochs, so other runs may be extended.
    changeable = _CHANGEABLE if now["schedule"] == Schedule.COSINE else (*_CHANGEABLE, "epochs")
    for name, value in now.items():
        if name not in earlier:
            raise TenreoError(
                f"{path}: does not contain {name}, as states of earlier versions do not; start again without resuming"
            )
        plain = isinstance(earlier[name], (int, float, str, type(None)))
        if name not in changeable and not (plain and value == earlier[name]):
            how = _ORIGIN_ERRORS.get(name, f"with {name} {str(earlier[name])[:100]}, now {value}")
            raise TenreoError(f"{path}: was made {how}; give the same")

"""A fine-tuning run with files: the initial model, the best and last model, the training state and the log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import file_digest
from pathlib import Path
from typing import NamedTuple

from torch import nn

from tenreo.compression.serialization import write_model
from tenreo.correction.statistics import calibrate_
from tenreo.data.batches import Batches, UnlabeledBatches
from tenreo.data.images import Images
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import Evaluation, evaluate
from tenreo.files.header import Header, read_header
from tenreo.files.records import Correction, ModelInfo
from tenreo.models.dense_weights import dense_weights, rename_weights
from tenreo.planning.recipe import recipe_of
from tenreo.training.log import RunLog
from tenreo.training.loop import finetune_
from tenreo.training.observer import Epoch, Observer, Step, best_of
from tenreo.training.settings import Settings
from tenreo.training.state import StateFile
from tenreo.training.tensorboard import TensorBoard
from tenreo.training.trainer import Resources


class Datasets(NamedTuple):
    """The training and validation images of a run."""

    train: Images
    val: Images


@dataclass
class RunObserver(Observer):
    """Stops a run on request, and collects the images that were skipped or caused warnings.

    Attributes:
        stop: function that returns whether to stop.
        broken: paths of skipped images.
        warned: paths and warnings of images that were read nevertheless.
    """

    stop: Callable[[], bool]
    broken: set[str] = field(default_factory=set)
    warned: set[tuple[str, str]] = field(default_factory=set)

    def should_stop(self) -> bool:
        """Return whether to save the state and stop."""
        return self.stop()

    def on_broken(self, path: str) -> None:
        """Collect the path of a skipped image."""
        self.broken.add(path)

    def on_warned(self, path: str, text: str) -> None:
        """Collect a warning about an image."""
        self.warned.add((path, text))


@dataclass(frozen=True)
class Run:
    """A fine-tuning run.

    Attributes:
        source: file of the model that the run starts from.
        header: header of that file.
        files: paths of the files that the run writes: "file" (the best model), and unless the run only calibrates,
            "last" (the last model), "state", "log" and optionally "plot".
        settings: options of training.
        resources: device, workers and processes.
        teacher: file of the dense model to distill from; None takes the weights that the header names.
        resume: whether the run resumes from its state.
    """

    source: Path
    header: Header
    files: Mapping[str, Path]
    settings: Settings
    resources: Resources
    teacher: Path | None = None
    resume: bool = False

    def initial_info(self, train: Images) -> ModelInfo:
        """Return the description of the model for the files: that of the source, or of the run that is resumed."""
        if self.resume and self.files["last"].exists():
            return read_header(self.files["last"]).info
        info = rename_weights(self.header.info, self.header.path.parent, self.files["file"].parent)
        names = train.class_names
        return replace(info, class_names=names, classes=len(names)) if names else info

    def discard_state(self) -> None:
        """Remove the state of an earlier run whose files this run replaces, so that it cannot be resumed.

        Raises:
            TenreoError: if the file cannot be removed.
        """
        path = self.files.get("state")
        try:
            if path is not None:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise TenreoError(f"{path}: cannot be removed: {error.strerror}; choose another path") from error

    def calibrate(
        self,
        model: nn.Module,
        train: Images,
        batches: int,
        source: str,
        observer: RunObserver,
        progress: Callable[[int], None],
    ) -> Correction:
        """Estimate the BatchNorm statistics of the model on training images, in place.

        Args:
            model: model on the device.
            train: training images; their labels are not used.
            batches: number of batches.
            source: name of the images for the model file.
            observer: may stop the calibration.
            progress: called with the number of images after each batch.

        Raises:
            KeyboardInterrupt: if the observer stopped the calibration.
        """

        def advance(count: int) -> None:
            progress(count)
            observer.stop_if_asked(count)

        images = UnlabeledBatches(train, batches, self.resources.loading(self.settings), self.settings.seed)
        correction = calibrate_(model, images, source=source, progress=advance)
        observer.broken |= images.batches.broken
        observer.warned |= images.batches.warnings
        return correction

    def evaluate(self, model: nn.Module, val: Images, observer: RunObserver) -> Evaluation:
        """Evaluate the model on validation images over all processes.

        Raises:
            KeyboardInterrupt: if the observer stopped the evaluation.
        """
        group = self.resources.group
        loading = self.resources.loading(self.settings)
        batches = Batches(val, loading, self.resources.device, rank=group.rank, world_size=group.size)
        result = evaluate(model, batches, self.settings.amp, progress=observer.stop_if_asked, group=group)
        observer.broken |= group.union(batches.broken)
        observer.warned |= group.union(batches.warnings)
        return result

    def finetune(
        self, model: nn.Module, info: ModelInfo, data: Datasets, teacher: nn.Module | None, observer: Observer
    ) -> list[Epoch]:
        """Train the model, and return all epochs.

        Model files of a resumed run that no longer exist are written again if the state contains their weights.

        Args:
            model: model on the device.
            info: description of the model for the files.
            data: training and validation images.
            teacher: dense model to distill from, or None.
            observer: receives the results of steps and epochs; in the main process a `RunWriter`.

        Raises:
            KeyboardInterrupt: if the observer stopped the run.
        """
        history = finetune_(
            model, *data, self.settings, resources=self.resources, teacher=teacher,
            state=StateFile(self.files["state"], self.resume, self._origin()), observer=observer,
        )  # fmt: skip
        if self.resources.group.is_main:
            last_is_best = best_of(history) is history[-1]
            for kind in ("last", "file") if last_is_best else ("last",):
                if not self.files[kind].exists():
                    self.save(model, kind, info)
        return history

    def save(self, model: nn.Module, kind: str, info: ModelInfo) -> None:
        """Write the model to the file of a kind ("file" or "last"), with the recipe of the source."""
        # Not `save`, which would identify the architecture of the model again.
        write_model(model, self.files[kind], info, recipe_of(self.header))

    def _origin(self) -> str:
        """Return hashes of the source and of the teacher's file, which identify the start of the run."""
        digests = [_digest(self.source)]
        if self.settings.distill:
            teacher = dense_weights(self.header, self.teacher)
            digests.append(_digest(Path(teacher)) if teacher and Path(teacher).is_file() else str(teacher))
        return " and ".join(digests)


def _digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 hash of a file."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise TenreoError(f"{path}: cannot be read: {error.strerror}; give the path of a file") from error


@dataclass(kw_only=True)
class RunWriter(RunObserver):
    """Writes the model files and the logs of a run.

    Attributes:
        run: the run.
        model: model that is trained.
        info: description of the model for the files.
        logs: logs that receive every step and epoch.
    """

    run: Run
    model: nn.Module
    info: ModelInfo
    logs: Sequence[RunLog | TensorBoard]

    def on_step(self, step: Step) -> None:
        """Log a step."""
        for log in self.logs:
            log.step(step)

    def on_epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Write the model and log the epoch."""
        for kind in ("file", "last") if is_best else ("last",):
            self.run.save(self.model, kind, self.info)
        for log in self.logs:
            log.epoch(epoch)

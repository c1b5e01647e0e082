"""A fine-tuning run as the command line does it: its files, and what a person sees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest
from pathlib import Path

from torch import nn

from tenreo.cli.commands.finetune import TrainingData, TrainingOutput, run_files
from tenreo.cli.terminal.console import note, note_images, progress_bar, show, show_json
from tenreo.cli.terminal.pictures import plot_logs
from tenreo.cli.terminal.stopping import Stop
from tenreo.cli.terminal.tables import evaluations_table, megabytes, number
from tenreo.compression.serialization import write_model
from tenreo.correction.statistics import calibrate_
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images
from tenreo.data.unlabeled import UnlabeledBatches
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import Evaluation, evaluate
from tenreo.files.header import Header, read_header
from tenreo.files.records import ModelInfo
from tenreo.models.model_files import dense_weights
from tenreo.planning.recipe import recipe_of
from tenreo.training.log import RunLog
from tenreo.training.loop import Resources, finetune_
from tenreo.training.observer import Epoch, Observer, Step, best_of
from tenreo.training.settings import Settings
from tenreo.training.state import StateFile
from tenreo.training.tensorboard import TensorBoard

ENOUGH_IMAGES = 256  # to estimate statistics on, docs/research/statistics.md
WAITING = 0.2  # share of the time spent on waiting for images that is worth a note
Splits = tuple[Images, Images]  # to learn from, and to evaluate on


@dataclass(frozen=True)
class Job:
    """What was asked for, and the files that come of it.

    Attributes:
        best: file of the best model.
        file: the model to start from.
        header: of the file.
        data: images, and batches to calibrate on.
        settings: how to train.
        output: what is written and shown.
    """

    best: Path
    file: Path
    header: Header
    data: TrainingData
    settings: Settings
    output: TrainingOutput

    @property
    def files(self) -> dict[str, Path]:
        """What is written, by what it is."""
        return run_files(self.best, self.settings.epochs, self.output.plot)

    def start(self) -> str:
        """What the run starts from, by content: a hash of its file, and of the teacher's."""
        digests = [_digest(self.file)]
        if self.settings.distill:
            teacher = dense_weights(self.header, self.data.teacher)
            digests.append(_digest(Path(teacher)) if teacher and Path(teacher).is_file() else str(teacher))
        return " and ".join(digests)

    def save(self, model: nn.Module, path: Path, info: ModelInfo) -> None:
        """Write the model with the recipe of the file that it comes from."""
        write_model(model, path, info, recipe_of(self.header))  # `save` would prove what was proved when it was loaded

    def stopped(self) -> str:
        """What to say when the run was stopped."""
        state = self.files.get("state")
        if state and state.exists():
            return f"stopped and saved in {state}; go on with the same command and --resume"
        return "stopped before the first step; there is nothing to resume"


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise TenreoError(f"{path}: can not be read: {error.strerror}; give the path of a file") from error


def train(
    job: Job, model: nn.Module, splits: Splits, teacher: nn.Module | None, resources: Resources, stop: Stop
) -> None:
    """Calibrate, train, write and show, as far as this process writes and shows."""
    info, calibrated = job.header.info, None
    main, resume = resources.group.is_main, job.output.resume
    if names := splits[0].class_names:
        info = replace(info, class_names=names, classes=len(names))
    if main and splits[0].doubt:
        note(splits[0].doubt)
    if resume and job.files["last"].exists():
        info = read_header(job.files["last"]).info
    if main and not resume and "state" in job.files:
        _remove(job.files["state"])  # of a run that is replaced: not to be resumed any more
    follower = _Follower(stop)
    if job.data.calibrate and not resume:
        info = _calibrate(job, model, info, splits, resources, follower)
    if not job.settings.epochs:
        calibrated = _measure(job, model, splits[1], resources, follower)
        if main:
            job.save(model, job.best, info)
    history: list[Epoch] = []
    if job.settings.epochs:
        history = _finetune(job, model, info, splits, teacher, resources, follower)
    if main:
        _show(job, resources, calibrated, history, follower)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise TenreoError(f"{path}: can not be removed: {error.strerror}; choose another path") from error


class _Follower(Observer):
    """Stops when asked to, and knows which images were skipped or warned of."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.broken: set[str] = set()
        self.warned: set[tuple[str, str]] = set()

    def should_stop(self) -> bool:
        """Whether a signal asked for it."""
        return self.stop()

    def on_broken(self, path: str) -> None:
        """Remember the image."""
        self.broken.add(path)

    def on_warned(self, path: str, text: str) -> None:
        """Remember the image."""
        self.warned.add((path, text))


def _finetune(
    job: Job,
    model: nn.Module,
    info: ModelInfo,
    splits: Splits,
    teacher: nn.Module | None,
    resources: Resources,
    follower: _Follower,
) -> list[Epoch]:
    """All epochs, the first one being the start."""
    main, images = resources.group.is_main, len(splits[0])
    with ExitStack() as stack:
        observer = follower
        if main:
            log = stack.enter_context(closing(RunLog(job.files["log"], job.output.resume)))
            folder = job.output.tensorboard
            board = None if folder is None else stack.enter_context(closing(TensorBoard(folder)))
            note(f"{job.file.name} on {job.data.data} ({resources.device})")
            note(HEADER)
            advance = stack.enter_context(progress_bar("finetune", job.settings.epochs * images))
            observer = _Reporter(follower, job, model, info, images, (log, board), advance)
        state = StateFile(job.files["state"], job.output.resume, job.start())
        history = finetune_(
            model, *splits, job.settings, resources=resources, teacher=teacher, state=state, observer=observer
        )
    if main:
        _restore(job, model, info, history)
    return history


def _restore(job: Job, model: nn.Module, info: ModelInfo, history: list[Epoch]) -> None:
    """Write the files of a resumed run again that are gone, as far as its state has them."""
    last = best_of(history) is history[-1]
    for what, known in (("last", True), ("file", last)):
        if known and not job.files[what].exists():
            job.save(model, job.files[what], info)


class _Reporter(_Follower):
    """Writes and shows what happens in a run."""

    def __init__(
        self,
        follower: _Follower,
        job: Job,
        model: nn.Module,
        info: ModelInfo,
        images: int,
        logs: tuple[RunLog, TensorBoard | None],
        advance: Callable[..., None],
    ) -> None:
        super().__init__(follower.stop)
        self.broken, self.warned = follower.broken, follower.warned
        self.job, self.model, self.info, self.images = job, model, info, images
        self.logs, self.advance = [log for log in logs if log is not None], advance

    def on_step(self, step: Step) -> None:
        """Log the step and move the bar."""
        for log in self.logs:
            log.step(step)
        done = (step.epoch - 1 + step.step / step.steps) * self.images
        self.advance(text=_status(step), done=round(done))

    def on_epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Write the model and its line of the table."""
        for what in ("file", "last") if is_best else ("last",):
            self.job.save(self.model, self.job.files[what], self.info)
        for log in self.logs:
            log.epoch(epoch)
        if "plot" in self.job.files:
            plot_logs({"fine-tuning": self.job.files["log"]}, self.job.files["plot"])
        note(_line(epoch, self.job.settings.epochs))
        if epoch.waiting > WAITING:
            note(f"{epoch.waiting:.0%} of the time went into waiting for images; more --workers may help")

    def on_broken(self, path: str) -> None:
        """Name the image, once."""
        if path not in self.broken:
            note(f"skipped {path}: cannot be read as an image")
        super().on_broken(path)


_COLUMNS = {
    "epoch": 9, "lr": 10, "training loss": 15, "training top-1": 16, "val loss": 10, "val top-1": 11, "val top-5": 11,
    "seconds": 9, "waiting": 9,
}  # fmt: skip
HEADER = "".join(f"{name:>{width}}" for name, width in _COLUMNS.items())


def _line(e: Epoch, epochs: int) -> str:
    cells = (
        f"{e.epoch:>4}/{epochs:<4}", _rate(e), number(e.train_loss, 4), number(e.train_top1), number(e.loss, 4),
        number(e.top1), number(e.top5), number(e.seconds, 1), f"{e.waiting:.0%}",
    )  # fmt: skip
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _COLUMNS.values(), strict=True))


def _rate(e: Epoch) -> str:
    return "-" if e.lr is None else f"{e.lr:.3g}"


def _status(step: Step) -> str:
    speed = step.images / step.seconds if step.seconds else 0.0
    return f"loss {step.epoch_loss:.4f} top-1 {step.epoch_top1:.2f} % {speed:.0f} img/s {megabytes(step.memory)}"


def _calibrate(
    job: Job, model: nn.Module, info: ModelInfo, splits: Splits, resources: Resources, follower: _Follower
) -> ModelInfo:
    """Estimate the model's statistics on images; the info with what was done."""
    s, group = job.settings, resources.group
    images = UnlabeledBatches(splits[0], job.data.calibrate, _loading(job, resources), s.seed)
    with progress_bar("calibrate, images", job.data.calibrate * s.batch_size, shown=group.is_main) as advance:

        def progress(count: int) -> None:
            advance(count)
            if follower.stop():
                raise KeyboardInterrupt

        done = calibrate_(model, images, source=job.data.data, progress=progress)
    follower.broken |= images.batches.broken
    follower.warned |= images.batches.warnings
    if group.is_main:
        note(f"calibrated {done}")
        if done.images < ENOUGH_IMAGES:
            note(f"{done.images} images are few to average over, and can do harm: give {ENOUGH_IMAGES} or more")
    return replace(info, corrections=(*info.corrections, done))


def _measure(job: Job, model: nn.Module, images: Images, resources: Resources, follower: _Follower) -> Evaluation:
    """What the model reaches; a run of several epochs measures its start itself."""

    def stop_at_once(_: int) -> None:
        if follower.stop():
            raise KeyboardInterrupt

    group = resources.group
    batches = Batches(images, _loading(job, resources), resources.device, rank=group.rank, world_size=group.size)
    measured = evaluate(model, batches, job.settings.amp, progress=stop_at_once, total=group.sum)
    follower.broken |= group.union(batches.broken)
    follower.warned |= group.union(batches.warnings)
    return measured


def _loading(job: Job, resources: Resources) -> Loading:
    return Loading(job.settings.batch_size, resources.workers, job.settings.skip_broken)


def _show(
    job: Job, resources: Resources, calibrated: Evaluation | None, history: list[Epoch], follower: _Follower
) -> None:
    """Draw the log if asked to, and show what came of the run.

    Raises:
        TenreoError: when the best model is gone.
    """
    note_images(follower.broken, follower.warned)
    best = best_of(history).epoch if history else None
    if best == 0:
        note(f"no epoch was better than the start: {job.best} is the model as it was before training")
    gone = not job.best.exists()
    if job.output.json:
        after = None if calibrated is None else calibrated.to_dict()
        files = {what: str(path) for what, path in job.files.items()}
        found = {"calibrated": after, "skipped": sorted(follower.broken), "processes": resources.group.size}
        show_json("finetune", {"files": files, **found, "best": best, "epochs": [asdict(e) for e in history]})
    else:
        if calibrated is not None:
            of = f"{job.file.name} on {job.data.data} ({resources.device})"
            show(evaluations_table(of, [("calibrated", calibrated)]))
        for name, epoch in (("start", history[0]), ("best", best_of(history))) if history else ():
            figures = f"top-1 {number(epoch.top1)} %, top-5 {number(epoch.top5)} %, loss {number(epoch.loss, 4)}"
            show(f"{name}: {figures}" + (f", epoch {epoch.epoch}" if epoch.epoch else ""))
        written = {what: path for what, path in job.files.items() if path.exists()}
        show("wrote " + ", ".join(f"{path} ({what})" for what, path in written.items()))
    if gone:
        raise TenreoError(
            f"{job.best}: the best model, of epoch {best}, is gone, and the state holds the last one alone, which is "
            f"in {job.files['last']}; train anew without resuming"
        )

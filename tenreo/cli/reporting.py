"""A fine-tuning run as the command line does it: its files, and what a person sees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tenreo.cli.console import note, progress_bar, show, show_json
from tenreo.cli.options import TrainingData, TrainingOutput
from tenreo.cli.pictures import plot_logs
from tenreo.cli.stopping import Stop
from tenreo.cli.tables import megabytes, number, table
from tenreo.compression.statistics import calibrate_
from tenreo.compression.tensors import write_model
from tenreo.files.header import Header, read_header
from tenreo.files.records import ModelInfo
from tenreo.planning.recipe import recipe_of
from tenreo.training.log import RunLog
from tenreo.training.loop import Resources, finetune_
from tenreo.training.observer import Epoch, Observer, Step
from tenreo.training.settings import Settings
from tenreo.training.state import StateFile
from tenreo.vision.batches import Batches, Loading, unlabeled
from tenreo.vision.evaluation import Evaluation, evaluate
from tenreo.vision.images import Images

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

    def beside(self, end: str) -> Path:
        """The best model's file with another ending."""
        return self.best.with_name(f"{self.best.name.removesuffix('.safetensors')}.{end}")

    @property
    def files(self) -> dict[str, Path]:
        """What is written, by what it is."""
        if not self.settings.epochs:
            return {"file": self.best}
        files = {"file": self.best, "last": self.beside("last.safetensors"), "state": self.beside("state"),
                 "log": self.beside("csv")}  # fmt: skip
        return {**files, "plot": self.beside("png")} if self.output.plot else files

    def save(self, model: nn.Module, path: Path, info: ModelInfo) -> None:
        """Write the model with the recipe of the file that it comes from."""
        write_model(model, path, info, recipe_of(self.header))  # `save` would prove what was proved when it was loaded

    def stopped(self) -> str:
        """What to say when the run was stopped."""
        state = self.files.get("state")
        if state and state.exists():
            return f"stopped and saved in {state}; go on with the same command and --resume"
        return "stopped before the first step; there is nothing to resume"


def train(
    job: Job, model: nn.Module, splits: Splits, teacher: nn.Module | None, resources: Resources, stop: Stop
) -> None:
    """Calibrate, train, write and show, as far as this process writes and shows."""
    info, calibrated = job.header.info, None
    main, resume = resources.group.is_main, job.output.resume
    if resume and job.files["last"].exists():
        info = read_header(job.files["last"]).info
    if main and not resume and "state" in job.files:
        job.files["state"].unlink(missing_ok=True)  # of a run that is replaced: not to be resumed any more
    if job.data.calibrate and not resume:
        calibrated, info = _calibrate(job, model, info, splits, resources, stop)
        if main:
            # A resumed run reads from the last file that it was calibrated.
            job.save(model, job.files.get("last", job.best), info)
    history: list[Epoch] = []
    skipped: set[str] = set()
    if job.settings.epochs:
        history, skipped = _finetune(job, model, info, splits, teacher, resources, stop)
    if main:
        _show(job, resources, calibrated, history, skipped)


def _finetune(
    job: Job,
    model: nn.Module,
    info: ModelInfo,
    splits: Splits,
    teacher: nn.Module | None,
    resources: Resources,
    stop: Stop,
) -> tuple[list[Epoch], set[str]]:
    """All epochs, and the paths of the images that were skipped."""
    main, images = resources.group.is_main, len(splits[0])
    with (
        closing(RunLog(job.files["log"], job.output.resume)) as log,
        progress_bar("finetune", job.settings.epochs * images, shown=main) as advance,
    ):
        follower = _Follower(stop)
        if main:
            note(HEADER)
            follower = _Reporter(stop, job, model, info, images, log, advance)
        state = StateFile(job.files["state"], job.output.resume)
        history = finetune_(
            model, *splits, job.settings, resources=resources, teacher=teacher, state=state, observer=follower
        )
    return history, follower.skipped


class _Follower(Observer):
    """Stops when asked to; of a process that neither writes nor shows anything."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.skipped: set[str] = set()

    def should_stop(self) -> bool:
        """Whether a signal asked for it."""
        return self.stop()


class _Reporter(_Follower):
    """Writes and shows what happens in a run."""

    def __init__(
        self,
        stop: Stop,
        job: Job,
        model: nn.Module,
        info: ModelInfo,
        images: int,
        log: RunLog,
        advance: Callable[..., None],
    ) -> None:
        super().__init__(stop)
        self.job, self.model, self.info, self.images = job, model, info, images
        self.log, self.advance = log, advance

    def on_step(self, step: Step) -> None:
        """Log the step and move the bar."""
        self.log.step(step)
        done = (step.epoch - 1 + step.step / step.steps) * self.images
        self.advance(text=_status(step), done=round(done))

    def on_epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Write the model and its line of the table."""
        for what in ("file", "last") if is_best else ("last",):
            self.job.save(self.model, self.job.files[what], self.info)
        self.log.epoch(epoch)
        note(_line(epoch, self.job.settings.epochs))
        if epoch.waiting > WAITING:
            note(f"{epoch.waiting:.0%} of the time went into waiting for images; more --workers may help")

    def on_broken(self, path: str) -> None:
        """Name the image, once."""
        if path not in self.skipped:
            note(f"skipped {path}: can not be read as an image")
        self.skipped.add(path)


HEADER = (
    f"{'epoch':>9}{'lr':>9}{'training loss':>15}{'top-1 %':>9}{'val loss':>10}{'top-1 %':>9}"
    f"{'seconds':>9}{'waiting':>9}"
)


def _line(e: Epoch, epochs: int) -> str:
    return (f"{e.epoch:>4}/{epochs:<4}{e.lr:>9.3g}{e.train_loss:>15.4f}{e.train_top1:>9.2f}{e.loss:>10.4f}"
            f"{e.top1:>9.2f}{e.seconds:>9.1f}{e.waiting:>9.0%}")  # fmt: skip


def _status(step: Step) -> str:
    speed = step.images / step.seconds if step.seconds else 0.0
    return f"loss {step.loss:.3f} top-1 {step.top1:.0f} % {speed:.0f} img/s {megabytes(step.memory)}"


def _calibrate(
    job: Job, model: nn.Module, info: ModelInfo, splits: Splits, resources: Resources, stop: Stop
) -> tuple[Evaluation, ModelInfo]:
    """Estimate the model's statistics on images; say what the model then reaches."""
    s, group = job.settings, resources.group
    loading = Loading(s.batch_size, resources.workers, s.skip_broken)
    with progress_bar("calibrate, images", job.data.calibrate * s.batch_size, shown=group.is_main) as advance:

        def progress(count: int) -> None:
            advance(count)
            if stop():
                raise KeyboardInterrupt

        images = unlabeled(splits[0], job.data.calibrate, loading, s.seed)
        done = calibrate_(model, images, source=job.data.data, progress=progress)
        batches = Batches(splits[1], loading, resources.device, share=group.share)
        measured = evaluate(model, batches, s.amp, progress=lambda _: progress(0), total=group.sum)
    if group.is_main:
        note(f"calibrated {done}: top-1 {measured.top1:.2f} %")
        if done.images < ENOUGH_IMAGES:
            note(f"{done.images} images are few to average over, and can do harm: give {ENOUGH_IMAGES} or more")
    return measured, replace(info, corrections=(*info.corrections, done))


def _show(
    job: Job, resources: Resources, calibrated: Evaluation | None, history: list[Epoch], skipped: set[str]
) -> None:
    """Draw the log if asked to, and show what came of the run."""
    if "plot" in job.files:
        plot_logs({"fine-tuning": job.files["log"]}, job.files["plot"])
    if skipped:
        note(f"skipped {len(skipped)} broken images")
    if job.output.json:
        after = None if calibrated is None else calibrated.to_dict()
        files = {what: str(path) for what, path in job.files.items()}
        found = {"calibrated": after, "skipped": sorted(skipped), "processes": resources.group.size}
        show_json("finetune", {"files": files, **found, "epochs": [asdict(e) for e in history]})
        return
    show(_table(f"{job.file.name} on {job.data.data} ({resources.device})", calibrated, history))
    show("wrote " + ", ".join(f"{path} ({what})" for what, path in job.files.items()))


def _table(title: str, calibrated: Evaluation | None, history: list[Epoch]) -> Any:
    columns = (
        "epoch", "lr", "training\nloss", "training\ntop-1 %", "val\nloss", "top-1\n%", "top-5\n%", "seconds",
    )  # fmt: skip
    rows: list[Any] = []
    if calibrated is not None:
        c = calibrated
        rows.append(("calibrated", "", "", "", number(c.loss, 4), number(c.top1), number(c.top5), ""))
    rows += [
        (str(e.epoch), f"{e.lr:.3g}", number(e.train_loss, 4), number(e.train_top1), number(e.loss, 4),
         number(e.top1), number(e.top5), number(e.seconds, 1))
        for e in history
    ]  # fmt: skip
    return table(title, columns, rows, text=1)

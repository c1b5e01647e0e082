"""A fine-tuning run as the command line does it: its files, and what a person sees."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenreo.cli.common import note, progress_bar, show, show_json
from tenreo.header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from tenreo.cli.stopping import Stop
    from tenreo.data import Images
    from tenreo.distributed import Group
    from tenreo.evaluation import Evaluation
    from tenreo.header import Header, ModelCard
    from tenreo.runlog import RunLog
    from tenreo.runstate import Epoch, Step
    from tenreo.settings import Settings

WAITING = 0.2  # of the time: more is worth a word


@dataclass(frozen=True)
class Job:
    """What was asked for, and the files that come of it.

    Attributes:
        best: file of the best model.
        file: the model to start from.
        data: folder of images, or digits.
        header: of the file.
        settings: how to train.
        calibrate: batches to estimate BatchNorm on before the first epoch.
        workers: processes that decode images.
        resume: go on from the state.
        plot: draw the log.
        json: tell the result as JSON.
    """

    best: Path
    file: Path
    data: str
    header: Header
    settings: Settings
    calibrate: int
    workers: int
    resume: bool
    plot: bool
    json: bool

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
        return {**files, "plot": self.beside("png")} if self.plot else files

    def stopped(self) -> str:
        """What to say when the run was stopped."""
        state = self.files.get("state")
        if state and state.exists():
            return f"stopped and saved in {state}; go on with the same command and --resume"
        return "stopped before the first step; there is nothing to resume"


def train(
    job: Job, model: nn.Module, images: Images, val: Images, teacher: nn.Module | None, group: Group, stop: Stop
) -> None:  # fmt: skip
    """Calibrate, train, write and show, as far as this process writes and talks."""
    from tenreo import models, runlog

    card, calibrated = job.header.card, None
    history: list[Epoch] = []
    broken: set[str] = set()
    if job.resume and job.files["last"].exists():
        card = read_header(job.files["last"]).card
    if group.writes and not job.resume and "state" in job.files:
        job.files["state"].unlink(missing_ok=True)  # of a run that is replaced: not to be resumed any more
    if job.calibrate and not job.resume:
        calibrated, card = _calibrate(job, model, card, images, val, group, stop)
        if group.writes:
            # A resumed run reads from the last file that it was calibrated.
            models.save(model, job.files.get("last", job.best), card, job.header.recipe)
    if job.settings.epochs:
        history, broken = _finetune(job, model, card, images, val, teacher, group, stop)
    if not group.writes:
        return
    if "plot" in job.files:
        runlog.plot({"fine-tuning": job.files["log"]}, job.files["plot"])
    if broken:
        note(f"skipped {len(broken)} broken images")
    if job.json:
        after = None if calibrated is None else calibrated.to_dict()
        shown = {**job.files, "calibrated": after, "skipped": sorted(broken), "processes": group.size}
        show_json({**shown, "epochs": [asdict(e) for e in history]})
        return
    _show(f"{job.file.name} on {job.data} ({next(model.parameters()).device})", calibrated, history)
    show("wrote " + ", ".join(f"{path} ({what})" for what, path in job.files.items()))


def _finetune(
    job: Job, model: nn.Module, card: ModelCard, images: Images, val: Images, teacher: nn.Module | None,
    group: Group, stop: Stop,
) -> tuple[list[Epoch], set[str]]:  # fmt: skip
    """All epochs, and the paths of the images that were skipped."""
    from tenreo import finetuning, runlog

    s = job.settings
    with (
        closing(runlog.RunLog(job.files["log"], job.resume)) as log,
        progress_bar("finetune", s.epochs * len(images), shown=group.writes) as advance,
    ):
        voice = _Voice(job, model, card, len(images), log, advance)
        if group.writes:
            note(HEADER)
        history = finetuning.finetune_(
            model, images, val, s, device=next(model.parameters()).device, workers=job.workers, group=group,
            teacher=teacher, state=job.files["state"], resume=job.resume, stopping=stop,
            on_epoch=voice.epoch if group.writes else None,
            progress=voice.step if group.writes else None,
            on_broken=voice.broken if group.writes else None,
        )  # fmt: skip
    return history, voice.skipped


@dataclass
class _Voice:
    """Writes and says what happens in a run."""

    job: Job
    model: nn.Module
    card: ModelCard
    images: int
    log: RunLog
    advance: Callable[..., None]
    skipped: set[str] = field(default_factory=set)

    def step(self, step: Step) -> None:
        """A step is done."""
        self.log.step(step)
        done = (step.epoch - 1 + step.step / step.steps) * self.images
        self.advance(text=_status(step), done=round(done))

    def epoch(self, epoch: Epoch, is_best: bool) -> None:
        """An epoch is done, and the model has the weights that were evaluated."""
        from tenreo import models

        for what in ("file", "last") if is_best else ("last",):
            models.save(self.model, self.job.files[what], self.card, self.job.header.recipe)
        self.log.epoch(epoch)
        note(_line(epoch, self.job.settings.epochs))
        if epoch.waiting > WAITING:
            note(f"{epoch.waiting:.0%} of the time went into waiting for images; more --workers may help")

    def broken(self, path: str) -> None:
        """An image was skipped."""
        if path not in self.skipped:
            note(f"skipped {path}: can not be read as an image")
        self.skipped.add(path)


HEADER = f"{'epoch':>9}{'lr':>9}{'training loss':>15}{'top-1 %':>9}{'val loss':>10}{'top-1 %':>9}{'seconds':>9}{'waiting':>9}"


def _line(e: Epoch, epochs: int) -> str:
    return (f"{e.epoch:>4}/{epochs:<4}{e.lr:>9.3g}{e.train_loss:>15.4f}{e.train_top1:>9.2f}{e.loss:>10.4f}"
            f"{e.top1:>9.2f}{e.seconds:>9.1f}{e.waiting:>9.0%}")  # fmt: skip


def _status(step: Step) -> str:
    from tenreo.tables import megabytes

    speed = step.images / step.seconds if step.seconds else 0.0
    return f"loss {step.loss:.3f} top-1 {step.top1:.0f} % {speed:.0f} img/s {megabytes(step.memory)}"


def _calibrate(
    job: Job, model: nn.Module, card: ModelCard, train: Images, val: Images, group: Group, stop: Stop
) -> tuple[Evaluation, ModelCard]:
    """Estimate the model's statistics on images; say what the model then reaches."""
    from tenreo import evaluation
    from tenreo.data import Batches, unlabelled
    from tenreo.statistics import calibrate_

    s, device = job.settings, next(model.parameters()).device
    with progress_bar("calibrate, images", job.calibrate * s.batch_size, shown=group.writes) as advance:

        def progress(count: int) -> None:
            advance(count)
            if stop():
                raise KeyboardInterrupt

        images = unlabelled(train, job.calibrate, s.batch_size, job.workers, s.seed, s.skip_broken)
        done = calibrate_(model, images, source=job.data, progress=progress)
        batches = Batches(val, s.batch_size, device, job.workers, group=group, skip_broken=s.skip_broken)
        measured = evaluation.evaluate(model, batches, s.amp, lambda _: progress(0))
    if group.writes:
        note(f"calibrated {done}: top-1 {measured.top1:.2f} %")
    return measured, replace(card, corrections=(*card.corrections, done))


def _show(title: str, calibrated: Evaluation | None, history: list[Epoch]) -> None:
    from tenreo.tables import number, table

    columns = (
        "epoch",
        "lr",
        "training\nloss",
        "training\ntop-1 %",
        "val\nloss",
        "top-1\n%",
        "top-5\n%",
        "seconds",
    )
    rows: list[Any] = []
    if calibrated is not None:
        c = calibrated
        rows.append(("calibrated", "", "", "", number(c.loss, 4), number(c.top1), number(c.top5), ""))
    rows += [
        (str(e.epoch), f"{e.lr:.3g}", number(e.train_loss, 4), number(e.train_top1), number(e.loss, 4),
         number(e.top1), number(e.top5), number(e.seconds, 1))
        for e in history
    ]  # fmt: skip
    show(table(title, columns, rows, text=1))

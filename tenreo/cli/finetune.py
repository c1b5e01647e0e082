"""`tenreo finetune`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenreo.cli.common import (
    Data,
    Device,
    Force,
    Json,
    Workers,
    choose_workers,
    note,
    progress_bar,
    refuse_existing,
    show,
    show_json,
)
from tenreo.cli.stopping import Stop, stoppable
from tenreo.errors import TenreoError
from tenreo.header import read_header

if TYPE_CHECKING:
    from torch import nn

    from tenreo.data import Images
    from tenreo.distributed import Group
    from tenreo.evaluation import Evaluation
    from tenreo.header import Header, ModelCard
    from tenreo.runstate import Epoch, Step
    from tenreo.settings import Settings

WAITING = 0.2  # of the time: more is worth a word


def _configure(context: typer.Context, path: Path | None) -> Path | None:
    """Let a YAML file stand in for the options that are not given."""
    if path is not None:
        from tenreo.recipe import read_yaml

        values = read_yaml(path)
        known = [p.name for p in context.command.params if p.name not in (None, "file", "config", "help")]
        for key in values:
            if key not in known:
                raise TenreoError(f"{path}: unknown key {key!r}; known keys are {', '.join(map(str, known))}")
        context.default_map = values
    return path


def _errors_told(context: typer.Context, path: Path | None) -> Path | None:
    # Callbacks of options run before the command, outside what turns its errors into one line.
    try:
        return _configure(context, path)
    except TenreoError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def finetune(
    file: Annotated[Path, typer.Argument(help="A file of tenreo, or a .pth of the reference.")],
    data: Data,
    config: Annotated[Path | None, typer.Option(metavar="YAML", is_eager=True, callback=_errors_told, help="Values of these options, with _ for -; an option given here wins.")] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the images; 0 with --calibrate trains nothing.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per step and process.")] = 64,
    lr: Annotated[float | None, typer.Option(help="Default: 0.0001 for MobileNet-V2, 0.00025 otherwise.")] = None,
    optimizer: Annotated[str, typer.Option(metavar="sgd|adamw", help="What turns gradients into steps.")] = "sgd",
    momentum: Annotated[float, typer.Option(min=0, help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of the optimizer.")] = 1e-4,
    schedule: Annotated[str, typer.Option(metavar="constant|step|cosine", help="Of the learning rate; step: a tenth from epoch 16 on.")] = "step",
    warmup: Annotated[float, typer.Option(min=0, metavar="EPOCHS", help="In which the learning rate rises from 0.")] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Share of a label that is spread over all classes.")] = 0.0,
    augment: Annotated[str, typer.Option(metavar="none|standard", help="none: resize and centre crop, as the paper; standard: random crop and flip.")] = "none",
    distill: Annotated[bool, typer.Option("--distill", help="Learn from the dense model's outputs as well.")] = False,
    teacher: Annotated[Path | None, typer.Option(metavar="FILE", help="The dense model; by default the weights that the file names.")] = None,
    temperature: Annotated[float, typer.Option(help="Of --distill: softens the outputs.")] = 4.0,
    distill_weight: Annotated[float, typer.Option(help="Of --distill in the loss, 0 to 1.")] = 0.9,
    ema: Annotated[float, typer.Option(metavar="DECAY", help="Evaluate and write averaged weights, such as 0.999.")] = 0.0,
    clip: Annotated[float, typer.Option(min=0, metavar="NORM", help="Largest norm of the gradients; 0 does not look.")] = 0.0,
    freeze: Annotated[str, typer.Option(metavar="nothing|coefficients|others", help="What is not trained.")] = "nothing",
    calibrate: Annotated[int, typer.Option(min=0, metavar="N", help="First estimate BatchNorm on N batches, without labels.")] = 0,
    amp: Annotated[bool, typer.Option("--amp", help="Compute in 16 bits where that is safe.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Memory format that GPUs prefer with --amp.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Run through torch.compile.")] = False,
    sync_batchnorm: Annotated[bool, typer.Option("--sync-batchnorm", help="BatchNorm over all processes (CUDA).")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Go on past images that can not be read; count them.")] = False,
    save_every: Annotated[int, typer.Option(min=0, metavar="STEPS", help="Save the run's state so often; 0: after epochs.")] = 0,
    workers: Workers = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of the order of images, augmentation and dropout.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Best model; the last one, the run's state and log stand beside it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state beside the output file.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw loss and accuracy beside the output file.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Train a compressed model a little: coefficients and all that is dense; positions stay.

    Several GPUs: torchrun --nproc-per-node 8 -m tenreo finetune ... (the same options).
    """
    options = dict(locals())
    best = out or Path(f"finetuned-{file.stem}.safetensors")
    if not resume:
        refuse_existing(best, force)
    if epochs == 0 and not calibrate:
        raise TenreoError("epochs: given 0, which does nothing; say --calibrate 4, or --epochs 1")
    if teacher and not distill:
        raise TenreoError(f"teacher: given {teacher}, but nothing is learnt from it; say --distill as well")
    if plot:
        from tenreo.runlog import require_plotting

        require_plotting()

    from tenreo import evaluation, models
    from tenreo.data import open_images
    from tenreo.distributed import joined, local_device
    from tenreo.settings import Settings, default_lr

    where = evaluation.choose_device(local_device(device))
    model, header = models.open_model(file)
    options["lr"] = default_lr(header.card.arch) if lr is None else lr
    settings = Settings(**{k: v for k, v in options.items() if k in Settings.__dataclass_fields__})
    preprocess, classes = header.card.preprocess, header.card.classes
    train = open_images(data, "train", preprocess, classes, augment)
    val = open_images(data, "val", preprocess, classes)
    job = _Job(
        best, file, data, header, settings, calibrate, choose_workers(workers, data), resume, plot, json
    )
    dense = _teacher(header, file, teacher) if distill else None
    with stoppable() as stop, joined(where) as group, evaluation.naming_batch_size(batch_size):
        try:
            _train(job, model.to(where), train, val, dense, group, stop)
        except KeyboardInterrupt:
            if group.writes:
                note(job.stopped())
            sys.stdout.flush()
            # Threads inside compiled code can not be interrupted, and a normal exit waits for them.
            os._exit(stop.exit_code)


class _Job:
    """What was asked for, and the files that come of it."""

    def __init__(
        self, best: Path, file: Path, data: str, header: Header, settings: Settings, calibrate: int, workers: int,
        resume: bool, plot: bool, json: bool,
    ) -> None:  # fmt: skip
        self.best, self.file, self.data, self.header, self.settings = best, file, data, header, settings
        self.calibrate, self.workers, self.resume, self.plot, self.json = (
            calibrate,
            workers,
            resume,
            plot,
            json,
        )
        stem = best.name.removesuffix(".safetensors")
        self.last, self.state, self.log, self.picture = (
            best.with_name(f"{stem}.{end}") for end in ("last.safetensors", "state", "csv", "png")
        )

    @property
    def files(self) -> dict[str, Path]:
        """What is written, by what it is."""
        files = {"file": self.best}
        if self.settings.epochs:
            files |= {"last": self.last, "state": self.state, "log": self.log}
        return files | ({"plot": self.picture} if self.plot and self.settings.epochs else {})

    def stopped(self) -> str:
        """What to say when the run was stopped."""
        if self.state.exists():
            return f"stopped and saved in {self.state}; go on with the same command and --resume"
        return "stopped before the first step; nothing was written"


def _train(
    job: _Job, model: nn.Module, train: Images, val: Images, teacher: nn.Module | None, group: Group, stop: Stop
) -> None:  # fmt: skip
    """Calibrate, train, write and show, as far as this process writes and talks."""
    from dataclasses import asdict

    from tenreo import finetuning, models, runlog

    s = job.settings
    device = next(model.parameters()).device
    card = read_header(job.last).card if job.resume and job.last.exists() else job.header.card
    calibrated = None
    if job.calibrate and not job.resume:
        calibrated, card = _calibrate(job, model, card, train, val, group)
        if group.writes:
            # A resumed run reads from the last file that it was calibrated.
            models.save(model, job.last if s.epochs else job.best, card, job.header.recipe)

    def on_epoch(epoch: Epoch, is_best: bool) -> None:
        if not group.writes:
            return
        if is_best:
            models.save(model, job.best, card, job.header.recipe)
        models.save(model, job.last, card, job.header.recipe)
        log.epoch(epoch)
        note(_line(epoch, s.epochs))
        if epoch.waiting > WAITING:
            note(f"{epoch.waiting:.0%} of the time went into waiting for images; more --workers may help")

    broken: set[str] = set()

    def on_broken(path: str) -> None:
        if path not in broken:
            note(f"skipped {path}: can not be read as an image")
        broken.add(path)

    history: list[Epoch] = []
    if s.epochs:
        log = runlog.RunLog(job.log, job.resume)
        with progress_bar("finetune", s.epochs * len(train), shown=group.writes) as advance:

            def progress(step: Step) -> None:
                if group.writes:
                    log.step(step)
                    done = (step.epoch - 1 + step.step / step.steps) * len(train)
                    advance(text=_status(step), done=round(done))

            if group.writes:
                note(HEADER)
            history = finetuning.finetune_(
                model, train, val, s, device=device, workers=job.workers, group=group, teacher=teacher,
                state=job.state, resume=job.resume, on_epoch=on_epoch, progress=progress, on_broken=on_broken,
                stopping=stop,
            )  # fmt: skip
        log.close()
    if not group.writes:
        return
    if job.plot and s.epochs:
        runlog.plot({"fine-tuning": job.log}, job.picture)
    if broken:
        note(f"skipped {len(broken)} broken images")
    if job.json:
        after = None if calibrated is None else calibrated.to_dict()
        shown = {**job.files, "calibrated": after, "skipped": sorted(broken), "processes": group.size}
        show_json({**shown, "epochs": [asdict(e) for e in history]})
        return
    _show(f"{job.file.name} on {job.data} ({device})", calibrated, history)
    show("wrote " + ", ".join(f"{path} ({what})" for what, path in job.files.items()))


HEADER = f"{'epoch':>9}{'lr':>10}{'training loss':>15}{'top-1 %':>9}{'loss':>9}{'top-1 %':>9}{'seconds':>9}{'waiting':>9}"


def _line(e: Epoch, epochs: int) -> str:
    return (f"{e.epoch:>4}/{epochs:<4}{e.lr:>10.3g}{e.train_loss:>15.4f}{e.train_top1:>9.2f}{e.loss:>9.4f}"
            f"{e.top1:>9.2f}{e.seconds:>9.1f}{e.waiting:>9.0%}")  # fmt: skip


def _status(step: Step) -> str:
    from tenreo.tables import megabytes

    speed = step.images / step.seconds if step.seconds else 0.0
    return f"loss {step.loss:.3f} top-1 {step.top1:.0f} % {speed:.0f} img/s {megabytes(step.memory)}"


def _teacher(header: Header, file: Path, given: Path | None) -> nn.Module:
    """The dense model: a given file, one beside the compressed file, or torchvision's weights.

    Raises:
        TenreoError: when there is none, or it is compressed itself or has other classes.
    """
    from tenreo import models

    card = header.card
    if card.arch is None or (given is None and card.weights in (None, "none")):
        raise TenreoError(f"distill: {file} does not name the weights it comes from; say --teacher FILE")
    path = given or file.with_name(str(card.weights))
    try:
        teacher, found = models.with_weights(card.arch, str(path) if given or path.exists() else card.weights)
    except TenreoError as error:
        raise TenreoError(f"distill: {error}; a teacher is a dense model: say --teacher FILE") from error
    if found.classes != card.classes:
        raise TenreoError(
            f"{path}: has {found.classes} classes, the model has {card.classes}; give its own dense model"
        )
    return teacher


def _calibrate(
    job: _Job, model: nn.Module, card: ModelCard, train: Images, val: Images, group: Group
) -> tuple[Evaluation, ModelCard]:
    """Estimate the model's statistics on images; say what the model then reaches."""
    from tenreo import evaluation
    from tenreo.data import Batches, unlabelled
    from tenreo.statistics import calibrate_

    size, device = job.settings.batch_size, next(model.parameters()).device
    with progress_bar("calibrate, images", job.calibrate * size, shown=group.writes) as advance:
        images = unlabelled(train, job.calibrate, size, job.workers, job.settings.seed)
        done = calibrate_(model, images, source=job.data, progress=advance)
        measured = evaluation.evaluate(model, Batches(val, size, device, job.workers, group=group))
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
        "loss",
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

"""A fine-tuning run in the terminal: progress, the table of epochs and the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace

from torch import nn

from tenreo.cli.commands.finetune import TrainingData, TrainingOutput
from tenreo.cli.terminal.console import note, note_images, progress_bar, show, show_json
from tenreo.cli.terminal.pictures import plot_logs
from tenreo.cli.terminal.stopping import Stop
from tenreo.cli.terminal.tables import evaluations_table, megabytes, number
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import Evaluation
from tenreo.files.records import ModelInfo
from tenreo.training.log import RunLog
from tenreo.training.observer import Epoch, Step, best_of
from tenreo.training.run import Datasets, Run, RunObserver, RunWriter
from tenreo.training.tensorboard import TensorBoard

ENOUGH_IMAGES = 256  # number of images for reliable statistics, see docs/research/statistics.md
SLOW_LOADING = 0.2  # fraction of the time spent waiting for images from which a note is shown


def train(
    run: Run,
    data: TrainingData,
    output: TrainingOutput,
    model: nn.Module,
    datasets: Datasets,
    teacher: nn.Module | None,
    stop: Stop,
) -> None:
    """Calibrate and train a model, write its files and show the results; only the main process writes and shows.

    Args:
        run: files, settings and resources of the run.
        data: options of the images.
        output: options of what is written and shown.
        model: model on the device.
        datasets: training and validation images.
        teacher: dense model to distill from, or None.
        stop: whether a signal asked to stop.
    """
    main, observer, calibrated = run.resources.group.is_main, RunObserver(stop), None
    if main and datasets.train.doubt:
        note(datasets.train.doubt)
    if main and not run.resume:
        run.discard_state()
    info = run.initial_info(datasets.train)
    if data.calibrate and not run.resume:
        info = _calibrate(run, data, model, info, datasets, observer)
    history: list[Epoch] = []
    if run.settings.epochs:
        history = _finetune(run, data, output, model, info, datasets, teacher, observer)
    else:
        calibrated = run.evaluate(model, datasets.val, observer)
        if main:
            run.save(model, "file", info)
    if main:
        _show_results(run, data, output, calibrated, history, observer)


def _calibrate(
    run: Run, data: TrainingData, model: nn.Module, info: ModelInfo, datasets: Datasets, observer: RunObserver
) -> ModelInfo:
    """Calibrate the model with a progress bar, and return the info with the correction."""
    main, images = run.resources.group.is_main, data.calibrate * run.settings.batch_size
    with progress_bar("calibrate, images", images, shown=main) as advance:
        correction = run.calibrate(model, datasets.train, data.calibrate, data.data, observer, advance)
    if main:
        note(f"calibrated {correction}")
        if correction.images < ENOUGH_IMAGES:
            note(
                f"statistics of only {correction.images} images can reduce the accuracy; "
                f"give {ENOUGH_IMAGES} images or more"
            )
    return replace(info, corrections=(*info.corrections, correction))


def _finetune(
    run: Run,
    data: TrainingData,
    output: TrainingOutput,
    model: nn.Module,
    info: ModelInfo,
    datasets: Datasets,
    teacher: nn.Module | None,
    observer: RunObserver,
) -> list[Epoch]:
    """Train the model; the main process shows a progress bar and a table of epochs."""
    with ExitStack() as stack:
        if run.resources.group.is_main:
            logs: list[RunLog | TensorBoard] = [stack.enter_context(closing(RunLog(run.files["log"], run.resume)))]
            if output.tensorboard is not None:
                logs.append(stack.enter_context(closing(TensorBoard(output.tensorboard))))
            note(_title(run, data))
            note(HEADER)
            images = len(datasets.train)
            advance = stack.enter_context(progress_bar("finetune", run.settings.epochs * images))
            observer = _Reporter(observer, run, model, info, logs, images, advance)
        return run.finetune(model, info, datasets, teacher, observer)


def _title(run: Run, data: TrainingData) -> str:
    return f"{run.source.name} on {data.data} ({run.resources.device})"


class _Reporter(RunWriter):
    """Writes the files of a run, and shows its progress.

    Args:
        observer, run, model, info, logs: as for `RunWriter`.
        images: number of training images.
        advance: function that moves the progress bar.
    """

    def __init__(
        self,
        observer: RunObserver,
        run: Run,
        model: nn.Module,
        info: ModelInfo,
        logs: Sequence[RunLog | TensorBoard],
        images: int,
        advance: Callable[..., None],
    ) -> None:
        super().__init__(observer, run, model, info, logs)
        self.images, self.advance = images, advance

    def on_step(self, step: Step) -> None:
        """Log the step and move the progress bar."""
        super().on_step(step)
        done = (step.epoch - 1 + step.step / step.steps) * self.images
        self.advance(text=_status(step), done=round(done))

    def on_epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Write the model, log the epoch and show a line of the table."""
        super().on_epoch(epoch, is_best)
        files = self.run.files
        if "plot" in files:
            plot_logs({"fine-tuning": files["log"]}, files["plot"])
        note(_table_line(epoch, self.run.settings.epochs))
        if epoch.waiting > SLOW_LOADING:
            note(f"{epoch.waiting:.0%} of the time was spent waiting for images; more --workers may help")

    def on_broken(self, path: str) -> None:
        """Show the path of a skipped image, once."""
        if path not in self.broken:
            note(f"skipped {path}: cannot be read as an image")
        super().on_broken(path)


_COLUMNS = {
    "epoch": 9, "lr": 10, "training loss": 15, "training top-1": 16, "val loss": 10, "val top-1": 11, "val top-5": 11,
    "seconds": 9, "waiting": 9,
}  # fmt: skip
HEADER = "".join(f"{name:>{width}}" for name, width in _COLUMNS.items())


def _table_line(e: Epoch, epochs: int) -> str:
    cells = (
        f"{e.epoch:>4}/{epochs:<4}", "-" if e.lr is None else f"{e.lr:.3g}", number(e.train_loss, 4),
        number(e.train_top1), number(e.loss, 4), number(e.top1), number(e.top5), number(e.seconds, 1),
        f"{e.waiting:.0%}",
    )  # fmt: skip
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _COLUMNS.values(), strict=True))


def _status(step: Step) -> str:
    speed = step.images / step.seconds if step.seconds else 0.0
    return f"loss {step.epoch_loss:.4f} top-1 {step.epoch_top1:.2f} % {speed:.0f} img/s {megabytes(step.memory)}"


def _show_results(
    run: Run,
    data: TrainingData,
    output: TrainingOutput,
    calibrated: Evaluation | None,
    history: list[Epoch],
    observer: RunObserver,
) -> None:
    """Show the results of the run, as lines or as a JSON object.

    Raises:
        TenreoError: if the file of the best model no longer exists.
    """
    note_images(observer.broken, observer.warned)
    best, best_file = best_of(history).epoch if history else None, run.files["file"]
    if best == 0:
        note(f"no epoch improved the model: {best_file} is the model before training")
    missing = not best_file.exists()
    if output.json:
        show_json("finetune", {
            "files": {kind: str(path) for kind, path in run.files.items()},
            "calibrated": None if calibrated is None else calibrated.to_dict(),
            "skipped": sorted(observer.broken), "processes": run.resources.group.size, "best": best,
            "epochs": [asdict(epoch) for epoch in history],
        })  # fmt: skip
    else:
        if calibrated is not None:
            show(evaluations_table(_title(run, data), [("calibrated", calibrated)]))
        for name, epoch in (("start", history[0]), ("best", best_of(history))) if history else ():
            figures = f"top-1 {number(epoch.top1)} %, top-5 {number(epoch.top5)} %, loss {number(epoch.loss, 4)}"
            show(f"{name}: {figures}" + (f", epoch {epoch.epoch}" if epoch.epoch else ""))
        show("wrote " + ", ".join(f"{path} ({kind})" for kind, path in run.files.items() if path.exists()))
    if missing:
        raise TenreoError(
            f"{best_file}: the best model, of epoch {best}, no longer exists, and the state contains only the last "
            f"model, which is in {run.files['last']}; train again without resuming"
        )

"""A fine-tuning run in the terminal: progress, the table of epochs and the results."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace

from torch import nn

from tenreo.cli.commands.finetune import TrainingData, TrainingOutput
from tenreo.cli.terminal.console import note, note_images, show, show_json
from tenreo.cli.terminal.pictures import plot_logs
from tenreo.cli.terminal.progress import progress_bar
from tenreo.cli.terminal.tables import evaluations_table, number
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import Evaluation
from tenreo.files.records import ModelInfo
from tenreo.sizes import byte_count
from tenreo.training.log import RunLog
from tenreo.training.observer import Epoch, Step, best_of
from tenreo.training.run import Datasets, Run, RunObserver, RunWriter
from tenreo.training.tensorboard import TensorBoard

ENOUGH_IMAGES = 256  # number of images for reliable statistics, see docs/research/statistics.md
SLOW_LOADING = 0.2  # fraction of the time spent waiting for images from which a note is shown


@dataclass
class Training:
    """A run with its options and data; only the main process writes files and shows results.

    Attributes:
        run: files, settings and resources of the run.
        data: options of the images.
        output: options of the files and the printed results.
        model: model on the device.
        datasets: training and validation images.
        teacher: dense model to distill from, or None.
        observer: observer that stops the run after a signal.
    """

    run: Run
    data: TrainingData
    output: TrainingOutput
    model: nn.Module
    datasets: Datasets
    teacher: nn.Module | None
    observer: RunObserver

    @property
    def is_main(self) -> bool:
        """Whether this is the only or the first process of the run."""
        return self.run.resources.group.is_main

    @property
    def title(self) -> str:
        """Title of the results."""
        return f"{self.run.source.name} on {self.data.data} ({self.run.resources.device})"

    def train(self) -> None:
        """Calibrate and train the model, write its files and show the results."""
        run, calibrated, history = self.run, None, []
        if self.is_main and self.datasets.train.doubt:
            note(self.datasets.train.doubt)
        if self.is_main and not run.resume:
            run.discard_state()
        info = run.initial_info(self.datasets.train)
        if self.data.calibrate and not run.resume:
            info = self._calibrate(info)
        if run.settings.epochs:
            history = self._finetune(info)
        else:
            calibrated = run.evaluate(self.model, self.datasets.val, self.observer)
            if self.is_main:
                run.save(self.model, "file", info)
        if self.is_main:
            self._show_results(calibrated, history)

    def _calibrate(self, info: ModelInfo) -> ModelInfo:
        """Calibrate the model with a progress bar, and return the info with the correction."""
        run, data = self.run, self.data
        images = data.calibrate * run.settings.batch_size
        with progress_bar("calibrate, images", images, shown=self.is_main) as advance:
            correction = run.calibrate(
                self.model, self.datasets.train, data.calibrate, data.data, self.observer, advance
            )
        if self.is_main:
            note(f"calibrated {correction}")
            if correction.images < ENOUGH_IMAGES:
                note(
                    f"statistics of only {correction.images} images can reduce the accuracy; "
                    f"give {ENOUGH_IMAGES} images or more"
                )
        return replace(info, corrections=(*info.corrections, correction))

    def _finetune(self, info: ModelInfo) -> list[Epoch]:
        """Train the model; the main process shows a progress bar and a table of epochs."""
        run, observer = self.run, self.observer
        with ExitStack() as stack:
            if self.is_main:
                logs: list[RunLog | TensorBoard] = [stack.enter_context(closing(RunLog(run.files["log"], run.resume)))]
                if self.output.tensorboard is not None:
                    logs.append(stack.enter_context(closing(TensorBoard(self.output.tensorboard))))
                note(self.title)
                for line in HEADINGS:
                    note(line)
                images = len(self.datasets.train)
                advance = stack.enter_context(progress_bar("finetune", run.settings.epochs * images))
                observer = _Reporter(
                    **vars(observer), run=run, model=self.model, info=info, logs=logs, advance=advance, images=images
                )
            return run.finetune(self.model, info, self.datasets, self.teacher, observer)

    def _show_results(self, calibrated: Evaluation | None, history: list[Epoch]) -> None:
        """Show the results of the run, as lines or as a JSON object.

        Raises:
            TenreoError: if the file of the best model no longer exists.
        """
        run, skipped = self.run, self.observer.broken
        note_images(skipped, self.observer.warned)
        best, best_file = best_of(history).epoch if history else None, run.files["file"]
        if best == 0:
            note(f"no epoch improved the model: {best_file} is the model before training")
        missing = not best_file.exists()
        if self.output.json:
            show_json("finetune", {
                "files": {kind: str(path) for kind, path in run.files.items()},
                "calibrated": None if calibrated is None else calibrated.to_dict(),
                "skipped": sorted(skipped), "processes": run.resources.group.size, "best": best,
                "epochs": [asdict(epoch) for epoch in history],
            })  # fmt: skip
        else:
            if calibrated is not None:
                show(*evaluations_table(self.title, [("calibrated", calibrated)]))
            for name, epoch in (("start", history[0]), ("best", best_of(history))) if history else ():
                figures = f"top-1 {number(epoch.top1)} %, top-5 {number(epoch.top5)} %, loss {number(epoch.loss, 4)}"
                show(f"{name}: {figures}" + (f", epoch {epoch.epoch}" if epoch.epoch else ""))
            show("wrote " + ", ".join(f"{path} ({kind})" for kind, path in run.files.items() if path.exists()))
        if missing:
            raise TenreoError(
                f"{best_file}: the best model, of epoch {best}, no longer exists, and the state contains only the last "
                f"model, which is in {run.files['last']}; train again without resuming"
            )


@dataclass(kw_only=True)
class _Reporter(RunWriter):
    """Writes the files of a run, and shows its progress: `advance` moves a bar by numbers of `images` per epoch."""

    advance: Callable[..., None]
    images: int

    def on_step(self, step: Step) -> None:
        """Log the step and move the progress bar."""
        super().on_step(step)
        speed = step.images / step.seconds if step.seconds else 0.0
        text = f"loss {step.epoch_loss:.4f} top-1 {step.epoch_top1:.2f} % {speed:.0f} img/s {byte_count(step.memory)}"
        self.advance(text=text, done=round((step.epoch - 1 + step.step / step.steps) * self.images))

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
    "epoch": 9, "lr": 10, "training\nloss": 9, "training\ntop-1 %": 9, "val\nloss": 9, "val\ntop-1 %": 8,
    "val\ntop-5 %": 8, "seconds": 8, "waiting": 8,
}  # fmt: skip
HEADINGS = [
    "".join(f"{name.rpartition(chr(10))[::2][line]:>{width}}" for name, width in _COLUMNS.items()) for line in (0, 1)
]


def _table_line(e: Epoch, epochs: int) -> str:
    cells = (
        f"{e.epoch:>4}/{epochs:<4}", "-" if e.lr is None else f"{e.lr:.3g}", number(e.train_loss, 4),
        number(e.train_top1), number(e.loss, 4), number(e.top1), number(e.top5), number(e.seconds, 1),
        f"{e.waiting:.0%}",
    )  # fmt: skip
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _COLUMNS.values(), strict=True))

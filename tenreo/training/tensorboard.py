"""Event files for TensorBoard, which is an optional package."""

from pathlib import Path

from tenreo.errors import TenreoError, install
from tenreo.files.atomic import write_errors_named
from tenreo.training.observer import Epoch, Step


class TensorBoard:
    """Writes the scalars `train/loss`, `train/top1` and `train/lr` of steps, and `val/...` of evaluations.

    The step of every scalar is the number of optimizer steps since the start of the run.

    Args:
        folder: folder of the event files; a resumed run adds another file.

    Raises:
        TenreoError: if tensorboard is not installed, or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TenreoError(f"tensorboard: is not installed; {install('tensorboard')}") from error
        with write_errors_named(folder):
            self.writer = SummaryWriter(str(folder))

    def step(self, step: Step) -> None:
        """Write the scalars of a step."""
        done = (step.epoch - 1) * step.steps + step.step
        self._write("train", done, {"loss": step.loss, "top1": step.top1, "lr": step.lr})

    def epoch(self, epoch: Epoch) -> None:
        """Write the scalars of an evaluation."""
        self._write("val", epoch.epoch * epoch.steps, {"loss": epoch.loss, "top1": epoch.top1, "top5": epoch.top5})
        self.writer.flush()

    def _write(self, split: str, done: int, values: dict[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(f"{split}/{name}", value, done)

    def close(self) -> None:
        """Write all pending scalars and close the file."""
        self.writer.close()

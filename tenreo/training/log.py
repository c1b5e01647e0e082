"""The log of a run: a CSV file of every step and every evaluation. This module does not import torch."""

import csv
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write, write_errors_named
from tenreo.training.observer import Epoch, Step

COLUMNS = (
    "epoch", "step", "steps", "split", "lr", "loss", "top1", "images_per_second", "waiting", "memory",
)  # fmt: skip


class RunLog:
    """A CSV file that a row is appended to after every step and every evaluation.

    Columns: epoch and step, from 1 (both are 0 in the evaluation before training); steps, the number of steps of an
    epoch; split ("train": a step, "val": an evaluation); lr; loss in nats; top1 in percent; images_per_second;
    waiting, the fraction of the epoch's time that was spent waiting for data; memory in bytes.

    Args:
        path: path of the file.
        resume: whether to keep the rows of an earlier run that precede the first row of this run.

    Raises:
        TenreoError: if the file cannot be written, or is to be resumed and is not a log.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.earlier = read_log(path) if resume and path.exists() else []
        self.file: Any = None

    def step(self, step: Step) -> None:
        """Append the row of a step."""
        speed = step.images / step.seconds if step.seconds else 0.0
        self._write({
            "epoch": step.epoch, "step": step.step, "steps": step.steps, "split": "train", "lr": step.lr,
            "loss": step.loss, "top1": step.top1, "images_per_second": speed, "waiting": step.waiting,
            "memory": step.memory,
        })  # fmt: skip

    def epoch(self, epoch: Epoch) -> None:
        """Append the row of an evaluation."""
        self._write({
            "epoch": epoch.epoch, "step": epoch.steps, "steps": epoch.steps, "split": "val", "lr": epoch.lr,
            "loss": epoch.loss, "top1": epoch.top1, "waiting": epoch.waiting,
        })  # fmt: skip

    def _write(self, row: dict[str, Any]) -> None:
        row = {name: f"{v:.6g}" if isinstance(v, float) else str(v) for name, v in row.items() if v is not None}
        if self.file is None:
            self._begin(row)
        try:
            with write_errors_named(self.path):
                csv.DictWriter(self.file, COLUMNS, lineterminator="\n").writerow(row)
                self.file.flush()
        except TenreoError:
            with suppress(OSError):  # closing tries to write the buffered row again
                self.file.close()
            self.file = None
            raise

    def _begin(self, first: dict[str, Any]) -> None:
        """Create the file, with the earlier rows that precede the first row of this run."""
        with atomic_write(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in self.earlier if _moment(row) < _moment(first))
        with write_errors_named(self.path):
            self.file = self.path.open("a", newline="")

    def close(self) -> None:
        """Flush the file to the disk and close it.

        Raises:
            TenreoError: if the file cannot be written.
        """
        if self.file is not None:
            file, self.file = self.file, None
            with write_errors_named(self.path), file:
                os.fsync(file.fileno())


def _moment(row: dict[str, Any]) -> tuple[int, int, bool]:
    """Return a key that sorts rows by time."""
    return int(row["epoch"]), int(row["step"]), row["split"] == "val"


def read_log(path: Path) -> list[dict[str, str]]:
    """Read the rows of a log, without an incomplete last row.

    Raises:
        TenreoError: if the file is not a log of a run.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise ValueError("it is not a regular file")
        text = path.read_text()
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        for row in rows:
            if tuple(row) != COLUMNS or None in row.values():
                raise ValueError(f"needs the columns {', '.join(COLUMNS)}")
            _moment(row)
    except (OSError, ValueError, csv.Error) as error:
        raise TenreoError(f"{path}: is not a log of a run: {error}; repair or remove it") from error
    return rows

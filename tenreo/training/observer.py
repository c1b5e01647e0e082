"""What a run reports while it goes on, and the object that it is reported to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step, over all processes together.

    Attributes:
        epoch: its number from 1.
        step: its number in the epoch, from 1.
        steps: of an epoch.
        images: of this step.
        lr: learning rate.
        loss: mean over its images, in nats.
        top1: of its images, in percent.
        epoch_loss: mean over the images of the epoch so far; in the end, the epoch's `train_loss`.
        epoch_top1: likewise, in percent.
        seconds: from the step before to this one.
        waiting: share of the epoch's time so far that was spent on waiting for data.
        memory: bytes at the highest point, of the GPU or else of the process.
    """

    epoch: int
    step: int
    steps: int
    images: int
    lr: float
    loss: float
    top1: float
    epoch_loss: float
    epoch_top1: float
    seconds: float
    waiting: float
    memory: int


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch and its evaluation; epoch 0 is the start, of which nothing was learned yet.

    Attributes:
        epoch: its number from 1; 0 is the start.
        steps: how many it had.
        lr: the last learning rate; None at the start.
        train_loss: mean over the training images as they were learned, in nats; None at the start.
        train_top1: of the same, in percent; None at the start.
        top1: of the evaluation, in percent.
        top5: likewise; None with five classes or fewer.
        loss: of the evaluation, in nats.
        seconds: for all of it.
        waiting: share of the training's time that was spent on waiting for data.
    """

    epoch: int
    steps: int
    lr: float | None
    train_loss: float | None
    train_top1: float | None
    top1: float
    top5: float | None
    loss: float
    seconds: float
    waiting: float


def best_of(history: Sequence[Epoch]) -> Epoch:
    """The epoch of the highest top-1, the first of several."""
    return max(history, key=lambda epoch: epoch.top1)


class Observer:
    """Follows a run; each method does nothing unless a subclass overrides it."""

    def on_step(self, step: Step) -> None:
        """A step is done."""

    def on_epoch(self, epoch: Epoch, is_best: bool) -> None:
        """An epoch is done, or the start was measured.

        Args:
            epoch: its figures.
            is_best: whether its top-1 is the best so far; the model has the weights that were evaluated.
        """

    def on_broken(self, path: str) -> None:
        """An image of this path was skipped, in any process; called after each epoch."""

    def on_warned(self, path: str, text: str) -> None:
        """Something was wrong with the image of this path, which was read all the same; called after each epoch."""

    def should_stop(self) -> bool:
        """Whether to save the state and stop; asked after each step."""
        return False

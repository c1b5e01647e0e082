"""The results that a training run reports, and the interface of the object that receives them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """The result of one optimizer step over all processes.

    Attributes:
        epoch: number of the epoch, from 1.
        step: number of the step in its epoch, from 1.
        steps: number of steps of an epoch.
        images: number of images of the step.
        lr: learning rate.
        loss: mean loss of the images, in nats.
        top1: top-1 accuracy on the images, in percent.
        epoch_loss: mean loss of the epoch so far; after the last step, it equals the epoch's `train_loss`.
        epoch_top1: top-1 accuracy of the epoch so far, in percent.
        seconds: time since the previous step.
        waiting: fraction of the epoch's time so far that was spent waiting for data.
        memory: peak memory in bytes, of the GPU, or of the process on other devices.
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
    """The result of one epoch and its evaluation. Epoch 0 is the evaluation before training.

    Attributes:
        epoch: number of the epoch, from 0.
        steps: number of optimizer steps; 0 in epoch 0.
        lr: learning rate of the last step; None in epoch 0.
        train_loss: mean loss of the training images during the epoch, in nats; None in epoch 0.
        train_top1: top-1 accuracy on the training images during the epoch, in percent; None in epoch 0.
        top1: top-1 accuracy of the evaluation, in percent.
        top5: top-5 accuracy of the evaluation, in percent; None with five classes or fewer.
        loss: mean loss of the evaluation, in nats.
        seconds: duration of training and evaluation.
        waiting: fraction of the training time that was spent waiting for data.
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
    """Return the epoch with the highest top-1 accuracy; of several, the first."""
    return max(history, key=lambda epoch: epoch.top1)


class Observer:
    """Receives the results of a training run; subclasses override the methods that they need."""

    def on_step(self, step: Step) -> None:
        """Receive the result of a step."""

    def on_epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Receive the result of an epoch, or of the evaluation before training.

        During the call, the model has the weights that were evaluated.

        Args:
            epoch: result of the epoch.
            is_best: whether its top-1 accuracy is higher than that of all earlier epochs.
        """

    def on_broken(self, path: str) -> None:
        """Receive the path of an image that any process skipped; called after each epoch."""

    def on_warned(self, path: str, text: str) -> None:
        """Receive a warning about an image that was read nevertheless; called after each epoch."""

    def should_stop(self) -> bool:
        """Return whether to save the state and stop; called after each step and during evaluations."""
        return False

    def stop_if_asked(self, _: int) -> None:
        """Raise KeyboardInterrupt if the run is to stop; a progress callback for evaluations."""
        if self.should_stop():
            raise KeyboardInterrupt

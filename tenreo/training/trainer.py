"""The objects that a training run needs for every step: model, optimizer, scaler, averages and progress."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tenreo.compression.parametrization import quantized_coefficients
from tenreo.data.batches import Loading
from tenreo.data.images import Images
from tenreo.data.mixing import batch_mixer
from tenreo.devices import half_dtype
from tenreo.distributed import SINGLE_PROCESS, ProcessGroup
from tenreo.training.ema import ExponentialMovingAverage
from tenreo.training.observer import Observer, best_of
from tenreo.training.optimizer import make_optimizer
from tenreo.training.schedule import lr_multiplier
from tenreo.training.settings import AmpType, Settings
from tenreo.training.state import Progress, StateFile, Stateful, save_state


@dataclass(frozen=True)
class Resources:
    """The compute resources of a run.

    Attributes:
        device: device of the model and its batches.
        workers: number of processes that decode images.
        group: the processes that train the model together.
    """

    device: torch.device = torch.device("cpu")
    workers: int = 0
    group: ProcessGroup = SINGLE_PROCESS

    def loading(self, settings: Settings) -> Loading:
        """Return how images are loaded; training loads all images of an optimizer step at once instead."""
        return Loading(settings.batch_size, self.workers, settings.skip_broken)


class Trainer:
    """A model with everything that trains it, and the progress of the run.

    Args:
        model: model on the device of the resources, inside the context of `frozen`.
        train: training images.
        val: validation images.
        settings: options of training, with a learning rate.
        resources: device, workers and processes.
        teacher: dense model in evaluation mode, or None; ignored without `settings.distill`.
        state: file of the training state, or None.
        observer: receives the results of steps and epochs.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Images,
        val: Images,
        settings: Settings,
        resources: Resources,
        teacher: nn.Module | None,
        state: StateFile | None,
        observer: Observer,
    ) -> None:
        self.model, self.train, self.val, self.settings = model, train, val, settings
        self.resources, self.state, self.observer = resources, state, observer
        self.device, self.group = resources.device, resources.group
        self.teacher = teacher if settings.distill else None
        self.progress = Progress()
        self.engine = self.group.wrap(model, self.device, settings.sync_batchnorm)
        if settings.compile:
            self.engine = torch.compile(self.engine)  # type: ignore[assignment]
        self.optimizer = make_optimizer(model, settings)
        automatic = settings.amp_dtype == AmpType.AUTO
        self.half = half_dtype(self.device) if automatic else getattr(torch, settings.amp_dtype)
        self.mix = batch_mixer(settings.mixup, settings.cutmix, train.classes)
        scaled = settings.amp and self.half == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.average = ExponentialMovingAverage(model, settings.ema) if settings.ema else None
        self.parts: dict[str, Stateful] = {"model": model, "optimizer": self.optimizer, "scaler": self.scaler}
        if self.average is not None:
            self.parts["average"] = self.average

    @property
    def configuration(self) -> dict[str, Any]:
        """Settings, counts and fingerprints that must be equal for a run to resume from this run's state."""
        plain = {k: str(v) if isinstance(v, str) else v for k, v in asdict(self.settings).items()}
        counts = {"processes": self.group.size, "images": len(self.train)}
        return {**plain, **counts, **self.origin}

    @cached_property
    def origin(self) -> dict[str, str]:
        """Fingerprints of the initial model and of the images."""
        images = {"training_images": self.train.fingerprint(), "evaluation_images": self.val.fingerprint()}
        return {"start": self.state.start if self.state else "", **images}

    @property
    def epochs_done(self) -> int:
        """Number of completed epochs; the evaluation before the first epoch does not count."""
        return max(0, len(self.progress.history) - 1)

    @property
    def out_of_patience(self) -> bool:
        """Whether early stopping ends the run."""
        patience, history = self.settings.patience, self.progress.history
        return bool(patience and history) and self.epochs_done - best_of(history).epoch >= patience

    def save(self) -> None:
        """Write the training state; only the main process does this."""
        if self.state is not None and self.group.is_main:
            save_state(self.state.path, self.parts, self.configuration, self.progress)

    def seed(self, step: int | None = None) -> int:
        """Return the seed of the current epoch, or the seed of one of its steps in this process."""
        seed = self.settings.seed * 1_000_003 + self.epochs_done
        return (seed if step is None else (seed * 1_000_003 + step) * 1_009 + self.group.rank) % 2**63

    def set_lr(self, step: int, steps: int) -> float:
        """Set the learning rate of the optimizer for a step of the current epoch and return it.

        Args:
            step: index of the step in its epoch, from 0.
            steps: number of steps of an epoch.
        """
        start, end = (self.epochs_done + number / steps for number in (step, step + 1))
        lr = (self.settings.lr or 0.0) * lr_multiplier(self.settings, start, end)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr * parameters["lr_scale"]
        return lr

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """Give the model, inside the context, the weights that are evaluated and saved: averaged and quantized.

        The buffers of the main process are copied to all processes.
        """
        averaged = self.average.applied(self.model) if self.average is not None else nullcontext()
        with averaged, quantized_coefficients(self.model):
            self.group.broadcast(b for b in self.model.buffers() if b.is_floating_point())
            yield

"""Fine-tuning: gradient descent on everything that requires a gradient; positions stay as they are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.averaging import Average
from tenreo.compression import as_stored
from tenreo.data import Batches, Images
from tenreo.distributed import ALONE, Group
from tenreo.errors import TenreoError
from tenreo.evaluation import evaluate, half, peak_memory
from tenreo.objective import objective
from tenreo.optimisation import frozen, make_optimizer
from tenreo.runstate import Epoch, Position, Stateful, Step, load_state, save_state
from tenreo.schedule import factor
from tenreo.settings import Settings, default_lr

__all__ = ["Epoch", "Settings", "Step", "default_lr", "finetune_"]


def finetune_(
    model: nn.Module,
    train: Images,
    val: Images,
    settings: Settings,
    *,
    device: torch.device,
    workers: int = 0,
    group: Group = ALONE,
    teacher: nn.Module | None = None,
    state: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Epoch, bool], None] | None = None,
    progress: Callable[[Step], None] | None = None,
    on_broken: Callable[[str], None] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> list[Epoch]:
    """Train a model in place.

    Every step is a function of the weights, the seed and its own number, so a resumed run repeats an
    uninterrupted one exactly.

    Args:
        model: dense or compressed; moved to the device. In the end it has the last weights, or with an
            average of them (`settings.ema`) that average.
        train: images to learn from, augmented as `open_images` was told.
        val: images to evaluate on after each epoch.
        settings: how to train.
        device: where.
        workers: processes that decode images.
        group: the processes that train together, each calling this with the same arguments.
        teacher: dense model to learn from, with `settings.distill`.
        state: file that holds all a run needs to go on; written by the first process after each epoch, before
            its evaluation, every `settings.save_every` steps, and when it is stopped.
        resume: go on from it.
        on_epoch: called after each epoch with its figures and whether top-1 is the best so far, while the
            model has the weights that were evaluated.
        progress: called after each step.
        on_broken: called after each epoch with the path of every image that was skipped, in any process.
        stopping: asked after each step; True saves the state and raises KeyboardInterrupt.

    Returns:
        All epochs, also those before a resume.

    Raises:
        TenreoError: when the loss is no longer finite, an image is broken, there are too few of them, or the
            state is missing, damaged or of other settings.
        KeyboardInterrupt: when it was stopped.
    """
    if settings.distill and teacher is None:
        raise TenreoError("distill: needs a teacher; give the dense model")
    if resume and state is None:
        raise TenreoError("resume: needs the file of the state; give its path")
    for network in (model, teacher):
        if network is not None:
            network.to(device)
            if settings.channels_last:
                network.to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.eval()
    with frozen(model, settings.freeze):
        run = _Run(
            model, settings, device, group, teacher if settings.distill else None, state, train, val, workers,
            on_epoch, progress, on_broken, stopping,
        )  # fmt: skip
        if resume and state is not None:
            run.position = load_state(state, run.parts, run.made_with)
        while len(run.position.history) < settings.epochs:
            _epoch(run)
    if run.average is not None:
        run.average.fill(model)
    model.eval()
    return run.position.history


@dataclass
class _Run:
    """What stays the same from step to step, and how far the run is."""

    model: nn.Module
    settings: Settings
    device: torch.device
    group: Group
    teacher: nn.Module | None
    state: Path | None
    train: Images
    val: Images
    workers: int
    on_epoch: Callable[[Epoch, bool], None] | None
    progress: Callable[[Step], None] | None
    on_broken: Callable[[str], None] | None
    stopping: Callable[[], bool] | None
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        s, kind = self.settings, self.device.type
        self.engine = self.group.wrap(self.model, self.device, s.sync_batchnorm)
        if s.compile:
            self.engine = torch.compile(self.engine)  # type: ignore[assignment]
        self.optimizer = make_optimizer(self.model, s)
        self.scaler = torch.amp.GradScaler(kind, enabled=s.amp and half(self.device) == torch.float16)
        self.average = Average(self.model, s.ema) if s.ema else None
        self.parts: dict[str, Stateful] = {
            "model": self.model, "optimizer": self.optimizer, "scaler": self.scaler,
        }  # fmt: skip
        if self.average is not None:
            self.parts["average"] = self.average

    @property
    def made_with(self) -> dict[str, Any]:
        """What must be the same for another run to go on from this one's state."""
        return {**asdict(self.settings), "processes": self.group.size, "images": len(self.train)}

    def save(self) -> None:
        """Write the state, in the process that writes."""
        if self.state is not None and self.group.writes:
            save_state(self.state, self.parts, self.made_with, self.position)

    def seed(self, step: int | None = None) -> int:
        """Of the epoch that is under way, or of one of its steps in this process."""
        seed = self.settings.seed * 1_000_003 + len(self.position.history)
        return (seed if step is None else (seed * 1_000_003 + step) * 1_009 + self.group.rank) % 2**63

    def stops(self) -> bool:
        """Whether this process was asked to stop."""
        return self.stopping is not None and self.stopping()

    def stop_at_once(self) -> None:
        """Stop within an evaluation; the state was saved before it."""
        if self.stops():
            raise KeyboardInterrupt

    def set_lr(self, done: float) -> float:
        """The learning rate of the step that ends so many epochs after the start."""
        s = self.settings
        lr = s.lr * factor(s.schedule, s.warmup, s.epochs, done)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        return lr

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """The model with the weights to be judged and kept, the same in every process."""
        averaged = self.average.applied(self.model) if self.average is not None else nullcontext()
        with averaged, as_stored(self.model):
            self.group.spread(b for b in self.model.buffers() if b.is_floating_point())
            yield


def _epoch(run: _Run) -> None:
    """The rest of an epoch, and its evaluation."""
    s, at = run.settings, run.position
    batches = Batches(run.train, s.batch_size, run.device, run.workers, run.seed(), group=run.group, first=at.step,
                      skip_broken=s.skip_broken)  # fmt: skip
    if not batches.steps:
        raise TenreoError(
            f"no batch to train on: given {len(run.train)} images, needs at least 2 per process; give more"
        )
    _steps(run, batches)
    start = time.perf_counter()
    judged = Batches(
        run.val, s.batch_size, run.device, run.workers, group=run.group, skip_broken=s.skip_broken
    )
    with run.evaluated_weights():
        measured = evaluate(run.model, judged, s.amp, lambda _: run.stop_at_once())
        seconds = at.seconds + time.perf_counter() - start
        epoch = Epoch(
            len(at.history) + 1, batches.steps, run.optimizer.param_groups[0]["lr"], at.loss / at.seen, 100 * at.right / at.seen,
            measured.top1, measured.top5, measured.loss, seconds, at.waiting / at.seconds,
        )  # fmt: skip
        for path in sorted(run.group.union(batches.broken | judged.broken)):
            if run.on_broken is not None:
                run.on_broken(path)
        if run.on_epoch is not None:
            run.on_epoch(epoch, all(epoch.top1 > e.top1 for e in at.history))
    run.position = Position(history=[*at.history, epoch])
    run.save()  # after the model's own files: a run cut off in between evaluates this epoch again


def _steps(run: _Run, batches: Batches) -> None:
    """The steps of an epoch that are not done yet."""
    s, at = run.settings, run.position
    run.model.train()
    epoch, before = len(at.history) + 1, time.perf_counter()
    for (images, labels), total in zip(batches, batches.totals, strict=True):
        lr = run.set_lr(epoch - 1 + (at.step + 1) / batches.steps)
        torch.manual_seed(run.seed(at.step))
        loss, right, stop = _step(run, images, labels, total)
        if not math.isfinite(loss):
            raise TenreoError(f"the loss became {loss} in epoch {epoch}; try a smaller --lr")
        now = time.perf_counter()
        seconds, before = now - before, now
        at.count(total, loss, right, seconds, batches.waited)
        if run.progress is not None:
            run.progress(Step(epoch, at.step, batches.steps, total, lr, loss, 100 * right / total, seconds,
                              at.waiting / at.seconds, peak_memory(run.device)))  # fmt: skip
        due = bool(s.save_every) and at.step % s.save_every == 0
        if stop or due or at.step == batches.steps:
            run.save()
        if stop:
            raise KeyboardInterrupt


def _step(run: _Run, images: Tensor, labels: Tensor, total: int) -> tuple[float, int, bool]:
    """One step of the optimizer: mean loss and right answers over all processes, and whether to stop."""
    s = run.settings
    if s.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(run.device.type, half(run.device), enabled=s.amp):
        logits = run.engine(images)
        with torch.no_grad():
            taught = run.teacher(images) if run.teacher is not None else None
    loss = objective(logits, labels, taught, s)
    run.optimizer.zero_grad()
    # Processes average their gradients; each image is to count the same, however many a process has.
    run.scaler.scale(loss * (len(labels) * run.group.size / total)).backward()  # type: ignore[no-untyped-call]
    if s.clip:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), s.clip)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average is not None:
        run.average.update(run.model)
    right = (logits.detach().argmax(1) == labels).sum()
    # In float64, which holds counts exactly; MPS has none, and no processes to sum over either.
    sums = torch.stack([loss.detach() * len(labels), right, right.new_tensor(run.stops())])
    sums = run.group.sum(sums.double() if run.device.type != "mps" else sums)
    value, count, stops = sums.tolist()
    return value / total, int(count), stops > 0

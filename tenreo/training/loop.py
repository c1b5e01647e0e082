"""Fine-tuning: gradient descent on everything that requires a gradient; positions stay as they are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.compression.parametrization import quantized_coefficients
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images
from tenreo.data.mixing import batch_mixer
from tenreo.devices import half_dtype, peak_memory
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import Evaluation, evaluate
from tenreo.training.distributed import ALONE, ProcessGroup, local_gradients
from tenreo.training.ema import ExponentialMovingAverage
from tenreo.training.loss import training_loss
from tenreo.training.observer import Epoch, Observer, Step, best_of
from tenreo.training.optimizer import frozen, make_optimizer, training_mode
from tenreo.training.schedule import lr_multiplier
from tenreo.training.settings import AmpType, Settings, default_lr
from tenreo.training.state import Progress, StateFile, Stateful, check_history, load_state, save_state


@dataclass(frozen=True)
class Resources:
    """Where a model is trained.

    Attributes:
        device: of the model and its batches.
        workers: processes that decode images.
        group: the processes that train together, each doing the same.
    """

    device: torch.device = torch.device("cpu")
    workers: int = 0
    group: ProcessGroup = ALONE


def finetune_(
    model: nn.Module,
    train: Images,
    val: Images,
    settings: Settings,
    *,
    resources: Resources = Resources(),
    teacher: nn.Module | None = None,
    state: StateFile | None = None,
    observer: Observer | None = None,
) -> list[Epoch]:
    """Train a model in place.

    Every step is a function of the weights, the seed and its own number, so on the CPU a resumed run is bit-for-bit
    identical to an uninterrupted one.

    Args:
        model: dense or compressed, of a resumed run the one that it started from; moved to the device. In the end
            it has the last weights, or with a moving average of them (`settings.ema`) that average.
        train: images to learn from, augmented as `open_images` was told.
        val: images to evaluate on, before the first epoch and after each.
        settings: how to train.
        resources: where.
        teacher: dense model to learn from, with `settings.distill`.
        state: file that holds all a run needs to go on.
        observer: is told of every step and epoch, and asked whether to stop.

    Returns:
        All epochs, also those before a resume; the first one, epoch 0, is the start.

    Raises:
        TenreoError: when the loss or an output is not finite, an image is broken, there are too few of them or too
            few in a batch, or the state is missing, damaged or of another run.
        KeyboardInterrupt: when it was stopped.
    """
    if settings.distill and teacher is None:
        raise TenreoError("distill: needs a teacher; give the dense model")
    for network in (model, teacher):
        if network is not None:
            network.to(resources.device)
            if settings.channels_last:
                network.to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.eval()
    lr = default_lr(None) if settings.lr is None else settings.lr
    settings = replace(settings, lr=lr)
    with frozen(model, settings.freeze, settings.freeze_batchnorm):
        run = _Run(model, train, val, settings, resources, teacher, state, observer or Observer())
        if state is not None and state.resume:
            run.progress = load_state(state.path, run.parts, run.configuration)
            check_history(state.path, run.progress)
        if not run.progress.history:
            _start(run)
        while run.epochs_done < settings.epochs and not run.out_of_patience:
            _epoch(run)
    if run.average is not None:
        run.average.copy_to(model)
    model.eval()
    return run.progress.history


class _Run:
    """What stays the same from step to step, and how far the run is."""

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
        self.half = (
            half_dtype(self.device) if settings.amp_dtype == AmpType.AUTO else getattr(torch, settings.amp_dtype)
        )
        self.mix = batch_mixer(settings.mixup, settings.cutmix, train.classes)
        scaled = settings.amp and self.half == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.average = ExponentialMovingAverage(model, settings.ema) if settings.ema else None
        self.parts: dict[str, Stateful] = {
            "model": model, "optimizer": self.optimizer, "scaler": self.scaler,
        }  # fmt: skip
        if self.average is not None:
            self.parts["average"] = self.average

    @property
    def configuration(self) -> dict[str, Any]:
        """What must be the same for another run to go on from this one's state."""
        plain = {k: str(v) if isinstance(v, str) else v for k, v in asdict(self.settings).items()}
        counts = {"processes": self.group.size, "images": len(self.train)}
        return {**plain, **counts, **self.origin}

    @cached_property
    def origin(self) -> dict[str, str]:
        """What the run started from, by content."""
        images = {"training_images": self.train.fingerprint(), "evaluation_images": self.val.fingerprint()}
        return {"start": self.state.start if self.state else "", **images}

    @property
    def epochs_done(self) -> int:
        """Epochs behind the run, without the start."""
        return max(0, len(self.progress.history) - 1)

    @property
    def out_of_patience(self) -> bool:
        """Whether too many epochs were not better than the best."""
        patience, history = self.settings.patience, self.progress.history
        return bool(patience and history) and self.epochs_done - best_of(history).epoch >= patience

    @property
    def loading(self) -> Loading:
        """How images are read to be learned from: all batches of a step at once."""
        return replace(self.evaluation_loading, batch_size=self.settings.batch_size * self.settings.accumulate)

    @property
    def evaluation_loading(self) -> Loading:
        """How images are read to be evaluated on."""
        return Loading(self.settings.batch_size, self.resources.workers, self.settings.skip_broken)

    def save(self) -> None:
        """Write the state, in the main process."""
        if self.state is not None and self.group.is_main:
            save_state(self.state.path, self.parts, self.configuration, self.progress)

    def seed(self, step: int | None = None) -> int:
        """Of the epoch that is under way, or of one of its steps in this process."""
        seed = self.settings.seed * 1_000_003 + self.epochs_done
        return (seed if step is None else (seed * 1_000_003 + step) * 1_009 + self.group.rank) % 2**63

    def stop_at_once(self) -> None:
        """Stop within an evaluation if asked to; the state was saved before it."""
        if self.observer.should_stop():
            raise KeyboardInterrupt

    def set_lr(self, done: float) -> float:
        """The learning rate of the step that ends so many epochs after the start."""
        lr = (self.settings.lr or 0.0) * lr_multiplier(self.settings, done)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr * parameters["lr_scale"]
        return lr

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """The model with the weights to be evaluated and written, the same in every process."""
        averaged = self.average.applied(self.model) if self.average is not None else nullcontext()
        with averaged, quantized_coefficients(self.model):
            self.group.broadcast(b for b in self.model.buffers() if b.is_floating_point())
            yield


def _start(run: _Run) -> None:
    """The evaluation of the model as it was given."""
    if run.settings.epochs and run.settings.batch_size == 1:
        _try_single_image(run)
    _evaluation(run, lambda measured, seconds: _epoch_of(
        measured, epoch=0, steps=0, lr=None, train_loss=None, train_top1=None, seconds=seconds, waiting=0.0,
    ))  # fmt: skip


def _try_single_image(run: _Run) -> None:
    """Raise unless the model can be trained on batches of one image, which BatchNorm of 1 x 1 pixels can not."""
    trial = deepcopy(run.model)
    training_mode(trial, run.settings.freeze, run.settings.freeze_batchnorm)
    images, _ = next(iter(Batches(run.train, Loading(1, 0, run.settings.skip_broken), run.device, seed=0)))
    try:
        with torch.no_grad():
            trial(images)
    except ValueError as error:
        raise TenreoError(
            f"batch_size: given 1, on which this model can not be trained ({error}); give at least 2, or freeze "
            "BatchNorm"
        ) from error


def _epoch(run: _Run) -> None:
    """The rest of an epoch, and its evaluation."""
    progress, group = run.progress, run.group
    batches = Batches(
        run.train, run.loading, run.device, seed=run.seed(), rank=group.rank, world_size=group.size, skip=progress.step
    )
    if not batches.steps:
        raise TenreoError(
            f"no batch to train on: given {len(run.train)} images, needs at least 2 per process; give more"
        )
    if run.state is not None and (progress.step > batches.steps or progress.seen != batches.skipped_images):
        raise TenreoError(
            f"{run.state.path}: is damaged (step {progress.step} of {batches.steps}, after {progress.seen} images); "
            "start again without resuming"
        )
    _steps(run, batches)
    _evaluation(run, partial(_summary, run, batches.steps), batches)


def _evaluation(run: _Run, epoch_of: Callable[[Evaluation, float], Epoch], *seen: Batches) -> None:
    """Measure the model, report the epoch that this makes, and save.

    Args:
        run: whose epoch it is.
        epoch_of: the epoch of a measurement and its seconds.
        seen: the batches that it was trained on.
    """
    start = time.perf_counter()
    val = Batches(run.val, run.evaluation_loading, run.device, rank=run.group.rank, world_size=run.group.size)
    history = run.progress.history
    with run.evaluated_weights():
        measured = evaluate(
            run.model, val, run.settings.amp, progress=lambda _: run.stop_at_once(), total=run.group.sum
        )
        epoch = epoch_of(measured, time.perf_counter() - start)
        for path in sorted(run.group.union(set().union(*(b.broken for b in (*seen, val))))):
            run.observer.on_broken(path)
        for path, text in sorted(run.group.union(set().union(*(b.warnings for b in (*seen, val))))):
            run.observer.on_warned(path, text)
        run.observer.on_epoch(epoch, all(epoch.top1 > earlier.top1 for earlier in history))
    run.progress = Progress(history=[*history, epoch])
    run.save()  # after the model's own files: a run cut off in between evaluates this epoch again


def _summary(run: _Run, steps: int, measured: Evaluation, seconds: float) -> Epoch:
    """The figures of the epoch that was just trained; seconds are those of its evaluation."""
    done = run.progress
    return _epoch_of(
        measured,
        epoch=run.epochs_done + 1,
        steps=steps,
        lr=run.set_lr(run.epochs_done + 1),  # that of the last step
        train_loss=done.loss / done.seen,
        train_top1=100 * done.correct / done.seen,
        seconds=done.seconds + seconds,
        waiting=done.waiting / done.seconds if done.seconds else 0.0,
    )


def _epoch_of(measured: Evaluation, **trained: Any) -> Epoch:
    return Epoch(top1=measured.top1, top5=measured.top5, loss=measured.loss, **trained)


def _steps(run: _Run, batches: Batches) -> None:
    """The steps of an epoch that are not done yet."""
    s, progress = run.settings, run.progress
    training_mode(run.model, s.freeze, s.freeze_batchnorm)
    epoch, before = run.epochs_done + 1, time.perf_counter()
    for (images, labels), total in zip(batches, batches.global_sizes, strict=True):
        lr = run.set_lr(epoch - 1 + (progress.step + 1) / batches.steps)
        torch.manual_seed(run.seed(progress.step))
        loss, correct, stop = _step(run, images, labels, total)
        if not math.isfinite(loss):
            raise TenreoError(f"the loss became {loss} in epoch {epoch}; try a smaller learning rate")
        now = time.perf_counter()
        seconds, before = now - before, now
        progress.add_step(images=total, loss=loss, correct=correct, seconds=seconds, waited=batches.wait_seconds)
        run.observer.on_step(
            Step(
                epoch=epoch, step=progress.step, steps=batches.steps, images=total, lr=lr, loss=loss,
                top1=100 * correct / total, epoch_loss=progress.loss / progress.seen,
                epoch_top1=100 * progress.correct / progress.seen, seconds=seconds,
                waiting=progress.waiting / progress.seconds, memory=peak_memory(run.device),
            )
        )  # fmt: skip
        due = bool(s.save_every) and progress.step % s.save_every == 0
        if stop or due or progress.step == batches.steps:
            run.save()
        if stop:
            raise KeyboardInterrupt


def _step(run: _Run, images: Tensor, labels: Tensor, total: int) -> tuple[float, int, bool]:
    """One step of the optimizer: mean loss and correct answers over all processes, and whether to stop."""
    s = run.settings
    targets = labels
    if run.mix is not None:
        images, targets = run.mix(images, labels)
    if s.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    run.optimizer.zero_grad()
    parts = _parts(s, total // run.group.size)
    # Processes average their gradients; each image is to count the same, however many a process has.
    split = zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True)
    found = []
    for i, (x, y) in enumerate(split):
        with local_gradients(run.engine) if i < parts - 1 else nullcontext():
            found.append(_backward(run, x, y, run.group.size / total))
    sums = torch.stack(found).sum(0)
    if s.clip:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), s.clip)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average is not None:
        run.average.update(run.model)
    stop = torch.tensor([run.observer.should_stop()], device=run.device)
    value, count, stops = run.group.sum(torch.cat([sums, stop.to(sums)])).tolist()
    return value / total, int(count), stops > 0


def _parts(settings: Settings, images: int) -> int:
    """Into how many batches the images of a step are divided, the same in all processes: none has a single image."""
    smallest = min(2, settings.batch_size)
    return max(1, min(math.ceil(images / settings.batch_size), images // smallest, settings.accumulate))


def _backward(run: _Run, images: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Add the gradients of the images' losses, each times a weight: (2,), sum of the losses and correct answers."""
    with torch.autocast(run.device.type, run.half, enabled=run.settings.amp):
        logits = run.engine(images)
        with torch.no_grad():
            taught = run.teacher(images) if run.teacher is not None else None
    loss = training_loss(logits, targets, taught, run.settings)
    run.scaler.scale(loss * (len(images) * weight)).backward()  # type: ignore[no-untyped-call]
    # Of mixed images, the class of the larger part; without labels, the teacher's answer.
    right = targets if targets.ndim == 1 else targets.argmax(1)
    if taught is not None and run.train.classes == 0:
        right = taught.argmax(1)
    correct = (logits.detach().argmax(1) == right).sum()
    # In float64, which holds counts exactly; MPS has none, and no processes to sum over either.
    kind = torch.float32 if run.device.type == "mps" else torch.float64
    return torch.stack([loss.detach() * len(images), correct]).to(kind)

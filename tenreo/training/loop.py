"""Fine-tuning: gradient descent on every parameter that requires a gradient; positions do not change."""

import time
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images
from tenreo.devices import peak_memory
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import evaluate
from tenreo.training.divergence import check_loss, check_weights
from tenreo.training.observer import Epoch, Observer, Step
from tenreo.training.optimizer import frozen, set_training_mode
from tenreo.training.settings import Settings, default_lr
from tenreo.training.state import Progress, StateFile, check_history, load_state
from tenreo.training.step import train_step
from tenreo.training.trainer import Resources, Trainer


def finetune_(
    model: nn.Module,
    train: Images,
    val: Images,
    settings: Settings,
    *,
    resources: Resources | None = None,
    teacher: nn.Module | None = None,
    state: StateFile | None = None,
    observer: Observer | None = None,
) -> list[Epoch]:
    """Train a model in place.

    Every step is a function of the weights, the seed and the number of the step. On the CPU, a resumed run is
    therefore bit-for-bit identical to an uninterrupted run.

    Args:
        model: dense or compressed model; a resumed run needs the model that the run started from. It is moved to the
            device. After training it has the last weights, or their moving average if `settings.ema` is set.
        train: training images, which `open_images` augments.
        val: validation images; the model is evaluated on them before the first epoch and after every epoch.
        settings: options of training.
        resources: device, workers and processes; by default the CPU in a single process.
        teacher: dense model to distill from; required if `settings.distill` is set.
        state: file of the training state, which makes a run resumable.
        observer: receives the results of steps and epochs, and may stop the run.

    Returns:
        All epochs, including those before a resume. The first, epoch 0, is the evaluation before training.

    Raises:
        TenreoError: if the loss or an output is not finite, an image cannot be read, there are too few images, the
            batch size is too small, or the state is missing, damaged or belongs to another run.
        KeyboardInterrupt: if the observer stopped the run.
    """
    if settings.distill and teacher is None:
        raise TenreoError("distill: needs a teacher; give the dense model")
    resources = resources or Resources()
    for network in (model, teacher):
        if network is not None:
            network.to(resources.device)
            if settings.channels_last:
                network.to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.eval()
    settings = replace(settings, lr=default_lr(None) if settings.lr is None else settings.lr)
    with frozen(model, settings.freeze, settings.freeze_batchnorm):
        trainer = Trainer(model, train, val, settings, resources, teacher, state, observer or Observer())
        if state is not None and state.resume:
            trainer.progress = load_state(state.path, trainer.parts, trainer.configuration)
            check_history(state.path, trainer.progress)
        if not trainer.progress.history:
            _evaluate_start(trainer)
        while trainer.epochs_done < settings.epochs and not trainer.out_of_patience:
            _run_epoch(trainer)
    if trainer.average is not None:
        trainer.average.copy_to(model)
    model.eval()
    return trainer.progress.history


def _evaluate_start(trainer: Trainer) -> None:
    """Evaluate the model before training, as epoch 0."""
    if trainer.settings.epochs and trainer.settings.batch_size == 1:
        _check_single_image_batches(trainer)
    _evaluate_epoch(trainer, {"epoch": 0, "steps": 0, "lr": None, "train_loss": None, "train_top1": None})


def _check_single_image_batches(trainer: Trainer) -> None:
    """Raise unless the model can be trained on batches of one image, which BatchNorm over 1 x 1 pixels cannot."""
    trial = deepcopy(trainer.model)
    set_training_mode(trial, trainer.settings.freeze, trainer.settings.freeze_batchnorm)
    images, _ = next(iter(Batches(trainer.train, Loading(1, 0, trainer.settings.skip_broken), trainer.device, seed=0)))
    try:
        with torch.no_grad():
            trial(images)
    except ValueError as error:
        raise TenreoError(
            f"batch_size: given 1, but this model cannot be trained on single images ({error}); give at least 2, or "
            "freeze BatchNorm"
        ) from error


def _run_epoch(trainer: Trainer) -> None:
    """Train the remaining steps of the current epoch, and evaluate the model."""
    s, progress, group = trainer.settings, trainer.progress, trainer.group
    loading = replace(trainer.resources.loading(s), batch_size=s.batch_size * s.accumulate)
    batches = Batches(
        trainer.train, loading, trainer.device, seed=trainer.seed(), rank=group.rank, world_size=group.size,
        skip=progress.step,
    )  # fmt: skip
    if not batches.steps:
        raise TenreoError(
            f"no batch to train on: given {len(trainer.train)} images, needs at least 2 per process; give more images"
        )
    if trainer.state is not None and (progress.step > batches.steps or progress.seen != batches.skipped_images):
        raise TenreoError(
            f"{trainer.state.path}: is damaged (step {progress.step} of {batches.steps}, after {progress.seen} "
            "images); start again without resuming"
        )
    _train_batches(trainer, batches)
    epoch = trainer.epochs_done + 1
    trained = {
        "epoch": epoch,
        "steps": batches.steps,
        "lr": trainer.set_lr(batches.steps - 1, batches.steps),  # that of the last step
        "train_loss": progress.loss / progress.seen,
        "train_top1": 100 * progress.correct / progress.seen,
    }
    _evaluate_epoch(trainer, trained, batches)


def _train_batches(trainer: Trainer, batches: Batches) -> None:
    """Train on batches; report every step and save the state when it is due."""
    s, progress = trainer.settings, trainer.progress
    set_training_mode(trainer.model, s.freeze, s.freeze_batchnorm)
    epoch, before = trainer.epochs_done + 1, time.perf_counter()
    for (images, labels), total in zip(batches, batches.global_sizes, strict=True):
        lr = trainer.set_lr(progress.step, batches.steps)
        torch.manual_seed(trainer.seed(progress.step))
        loss, correct, stop = train_step(trainer, images, labels, total)
        check_loss(loss, epoch)
        now = time.perf_counter()
        seconds, before = now - before, now
        progress.add_step(images=total, loss=loss, correct=correct, seconds=seconds, waited=batches.wait_seconds)
        trainer.observer.on_step(
            Step(
                epoch=epoch, step=progress.step, steps=batches.steps, images=total, lr=lr, loss=loss,
                top1=100 * correct / total, epoch_loss=progress.loss / progress.seen,
                epoch_top1=100 * progress.correct / progress.seen, seconds=seconds,
                waiting=progress.waiting / progress.seconds, memory=peak_memory(trainer.device),
            )
        )  # fmt: skip
        due = bool(s.save_every) and progress.step % s.save_every == 0
        if stop or due or progress.step == batches.steps:
            check_weights(trainer.model, epoch, trainer.group)
            trainer.save()
        if stop:
            raise KeyboardInterrupt


def _evaluate_epoch(trainer: Trainer, trained: dict[str, Any], *training_batches: Batches) -> None:
    """Evaluate the model, report the epoch and all broken images, and save the state.

    `trained` contains the fields of `Epoch` that do not come from the evaluation.
    """
    start, progress, group, observer = time.perf_counter(), trainer.progress, trainer.group, trainer.observer
    loading = trainer.resources.loading(trainer.settings)
    val = Batches(trainer.val, loading, trainer.device, rank=group.rank, world_size=group.size)
    used = (*training_batches, val)
    with trainer.evaluated_weights():
        # The state was saved before the evaluation, so nothing is lost if the observer stops it.
        result = evaluate(
            trainer.model, val, trainer.settings.amp, progress=observer.stop_if_asked, group=group,
            allow_nonfinite=bool(training_batches),
        )  # fmt: skip
        check_loss(result.loss, trained["epoch"], "evaluation")
        epoch = Epoch(
            **trained, top1=result.top1, top5=result.top5, loss=result.loss,
            seconds=progress.seconds + time.perf_counter() - start,
            waiting=progress.waiting / progress.seconds if progress.seconds else 0.0,
        )  # fmt: skip
        for path in sorted(group.union(set().union(*(b.broken for b in used)))):
            observer.on_broken(path)
        for path, text in sorted(group.union(set().union(*(b.warnings for b in used)))):
            observer.on_warned(path, text)
        observer.on_epoch(epoch, all(epoch.top1 > earlier.top1 for earlier in progress.history))
    trainer.progress = Progress(history=[*progress.history, epoch])
    # The observer has written the model files: a run that ends in between evaluates this epoch again.
    trainer.save()

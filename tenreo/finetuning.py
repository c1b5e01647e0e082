"""Fine-tuning: SGD over everything that requires a gradient; positions stay as they are."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tenreo.checkpoint import replacing
from tenreo.data import Batches, Images
from tenreo.errors import TenreoError
from tenreo.evaluation import evaluate
from tenreo.schedule import check_schedule, factor


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: passes over the images; 0 trains nothing.
        batch_size: images per step.
        lr: learning rate at its highest.
        momentum: of SGD.
        weight_decay: of SGD.
        seed: of the order of images and of dropout.
        schedule: of the learning rate: constant, step or cosine.
        warmup: epochs in which the learning rate rises from 0.

    Raises:
        TenreoError: when a value is out of range.
    """

    epochs: int = 1
    batch_size: int = 64
    lr: float = 0.00025
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 0
    schedule: str = "step"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 0),
            ("batch_size", 1),
            ("lr", 0),
            ("momentum", 0),
            ("weight_decay", 0),
        ):
            value = getattr(self, name)
            if not least <= value < float("inf"):
                raise TenreoError(f"{name}: given {value}, needs at least {least}")
        check_schedule(self.schedule, self.warmup, self.epochs)


@dataclass(frozen=True)
class Epoch:
    """One epoch: its number from 1, last learning rate, mean training loss in nats, and the evaluation."""

    epoch: int
    lr: float
    train_loss: float
    top1: float
    top5: float | None
    loss: float
    seconds: float


def default_lr(arch: str | None) -> float:
    """The learning rate of the paper's commands: 0.0001 for MobileNet-V2, 0.00025 otherwise."""
    return 0.0001 if arch == "mobilenet_v2" else 0.00025


def finetune_(
    model: nn.Module,
    train: Images,
    val: Images,
    settings: Settings,
    *,
    device: torch.device,
    workers: int = 0,
    state: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Epoch, bool], None] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[Epoch]:
    """Train a model in place.

    Every epoch starts from its own seed, so a resumed run repeats an uninterrupted one exactly.

    Args:
        model: dense or compressed; moved to the device.
        train: images to learn from.
        val: images to evaluate on after each epoch.
        settings: how to train.
        device: where.
        workers: processes that decode images.
        state: file that holds all a run needs to go on; written after each epoch.
        resume: go on from it.
        on_epoch: called after each epoch with its figures and whether top-1 is the best so far.
        progress: called after each step with (epoch, images done, loss).

    Returns:
        All epochs, also those before a resume.

    Raises:
        TenreoError: when the loss is no longer finite, or the state is missing, damaged or of
            other settings.
    """
    model.to(device)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        settings.lr, settings.momentum, weight_decay=settings.weight_decay,
    )  # fmt: skip
    history = _resume(model, optimizer, settings, state) if resume and state else []
    for epoch in range(len(history), settings.epochs):
        start = time.perf_counter()
        seed = settings.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        batches = Batches(train, settings.batch_size, device, workers, seed)
        train_loss = _train_epoch(model, optimizer, settings, batches, epoch, progress)
        measured = evaluate(model, Batches(val, settings.batch_size, device, workers))
        best = all(measured.top1 > e.top1 for e in history)
        history.append(
            Epoch(epoch + 1, optimizer.param_groups[0]["lr"], train_loss, measured.top1, measured.top5, measured.loss,
                  time.perf_counter() - start)
        )  # fmt: skip
        if on_epoch is not None:
            on_epoch(history[-1], best)
        if state is not None:
            # After the model's own files: a run cut off in between repeats this epoch.
            _save_state(state, model, optimizer, settings, history)
    model.eval()
    return history


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    batches: Batches,
    epoch: int,
    progress: Callable[[int, int, float], None] | None,
) -> float:
    model.train()
    total = 0.0
    seen = 0
    for step, (images, labels) in enumerate(batches, 1):
        done = epoch + step / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * factor(settings.schedule, settings.warmup, settings.epochs, done)
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        value = loss.item()
        if value != value or value == float("inf"):
            raise TenreoError(f"the loss became {value} in epoch {epoch + 1}; try a smaller --lr")
        total += value * len(labels)
        seen += len(labels)
        if progress is not None:
            progress(epoch, len(labels), value)
    if not seen:
        raise TenreoError("no batch to train on: one image is too few for BatchNorm; give more images")
    return total / seen


def _save_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, history: list[Epoch]
) -> None:
    values = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "settings": asdict(settings),
        "history": [asdict(e) for e in history],
    }
    with replacing(path) as temporary:
        torch.save(values, temporary)


def _resume(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, path: Path
) -> list[Epoch]:
    if not path.exists():
        raise TenreoError(f"{path}: nothing to resume; leave --resume out to start")
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        given, earlier = asdict(settings), dict(values["settings"])
        history = [Epoch(**e) for e in values["history"]]
        # A longer run begins like a shorter one, unless its schedule looks at the end.
        free = () if settings.schedule == "cosine" else ("epochs",)
        for name in given:
            if name not in free and given[name] != earlier[name]:
                raise TenreoError(
                    f"{path}: was made with {name} {earlier[name]}, now {given[name]}; give the same"
                )
        model.load_state_dict(values["model"])
        optimizer.load_state_dict(values["optimizer"])
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
        EOFError,
    ) as error:
        raise TenreoError(f"{path}: does not belong to this model, or is damaged: {error}") from error
    return history

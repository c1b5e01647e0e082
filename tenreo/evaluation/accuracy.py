"""Accuracy, loss and speed of a model on labeled images, and its agreement with another one on any images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from tenreo.data.batches import Batches
from tenreo.devices import half, peak_memory
from tenreo.errors import TenreoError

_NORMAL_95 = 1.959963984540054  # a standard normal number is smaller in absolute value with probability 0.95


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Attributes:
        top1: percent.
        top5: percent; None with five classes or fewer.
        loss: mean cross-entropy in nats.
        images: how many.
        seconds: for all of them, reading included.
        reading_seconds: of these, spent on waiting for images, which the model did not hide by computing.
        peak_memory: bytes, of the GPU or else of the process.
    """

    top1: float
    top5: float | None
    loss: float
    images: int
    seconds: float
    reading_seconds: float
    peak_memory: int

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of top-1, in percent."""
        return wilson_interval(round(self.top1 * self.images / 100), self.images)

    @property
    def images_per_second(self) -> float:
        """Images per second, reading included."""
        return self.images / self.seconds

    @property
    def model_images_per_second(self) -> float:
        """Images per second without the time spent on waiting for them."""
        return self.images / max(self.seconds - self.reading_seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        speed = {
            "images_per_second": self.images_per_second,
            "model_images_per_second": self.model_images_per_second,
        }
        return {**asdict(self), "top1_interval": list(self.top1_interval), **speed}


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, in percent (E. B. Wilson, JASA 22, 1927, 209-212).

    >>> [round(bound, 2) for bound in wilson_interval(900, 1000)]
    [87.98, 91.71]

    Args:
        correct: of the images.
        images: how many, at least 1.
    """
    z2, share = _NORMAL_95**2, correct / images
    middle = (share + z2 / (2 * images)) / (1 + z2 / images)
    half_width = _NORMAL_95 / (1 + z2 / images) * math.sqrt(share * (1 - share) / images + z2 / (4 * images**2))
    return 100 * max(0.0, middle - half_width), 100 * min(1.0, middle + half_width)


def evaluate(
    model: nn.Module,
    batches: Batches,
    amp: bool = False,
    *,
    progress: Callable[[int], None] | None = None,
    each: Callable[[Tensor, Tensor], None] | None = None,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Evaluation:
    """Measure a model; compressed weights are decoded once, and every image counts once over all processes.

    Args:
        model: on the batches' device; its mode is put back afterwards.
        batches: what to measure it on.
        amp: autocast to `half`.
        progress: called with the number of images done.
        each: called with logits (batch, classes) float32 and labels (batch,) of every batch, such as `Predictions.add`.
        total: adds a tensor up over all processes.

    Raises:
        TenreoError: when no image can be read, an output is not finite, or a label has no output.
    """
    device = batches.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    was_training = model.training
    model.eval()
    autocast = torch.autocast(device.type, half(device)) if amp else nullcontext()
    # Top-1, top-5, loss, images, batches of many classes: float64 holds such numbers exactly.
    sums = torch.zeros(5, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    start, reading = time.perf_counter(), 0.0
    with torch.inference_mode(), parametrize.cached(), autocast:
        for images, labels in batches:
            reading += batches.waited
            logits = model(images).float()
            _check_outputs(logits, batches.highest)
            sums += _figures(logits, labels).to(sums)
            if each is not None:
                each(logits, labels)
            if progress is not None:
                progress(len(labels))
    top1, top5, loss, seen, many = total(sums).tolist()  # waits for the device
    seconds = time.perf_counter() - start
    model.train(was_training)
    if not seen:
        raise TenreoError("no image to evaluate on; give at least one that can be read")
    if not math.isfinite(loss):
        raise TenreoError("an output of the model is not finite, so it has no accuracy or loss; inspect its file")
    return Evaluation(
        top1=100 * top1 / seen,
        top5=100 * top5 / seen if many else None,
        loss=loss / seen,
        images=int(seen),
        seconds=seconds,
        reading_seconds=reading,
        peak_memory=peak_memory(device),
    )


def _check_outputs(logits: Tensor, highest: int) -> None:
    """Raise unless a model has an output (batch, classes) for every label up to the highest."""
    if logits.ndim != 2 or logits.shape[1] <= highest:
        raise TenreoError(
            f"an image has the label {highest}, counted from 0, the model's outputs are {list(logits.shape[1:])}; "
            "give the data it was trained on"
        )


def _figures(logits: Tensor, labels: Tensor) -> Tensor:
    """What a batch adds to the sums: (5,), of logits (batch, classes) and labels (batch,).

    The loss is not finite where any of the logits is not, also where the labels do not meet it.
    """
    top = logits.topk(min(5, logits.shape[1])).indices  # (batch, 5)
    hits = top == labels[:, None]
    loss = cross_entropy(logits, labels, reduction="sum") + torch.where(logits.isfinite().all(), 0.0, math.nan)
    many = logits.shape[1] > 5
    return torch.stack([hits[:, 0].sum(), hits.sum(), loss, loss.new_tensor(len(labels)), loss.new_tensor(many)])

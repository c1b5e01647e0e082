"""Accuracy, loss and speed of a model on labeled images."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tenreo.data.batches import Batches
from tenreo.devices import half_dtype, peak_memory
from tenreo.distributed import SINGLE_PROCESS, ProcessGroup
from tenreo.errors import TenreoError
from tenreo.evaluation.ranking import ranks
from tenreo.modules.copies import evaluating

_NORMAL_QUANTILE = 1.959963984540054  # the 97.5 % quantile, for two-sided 95 % confidence intervals


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy, loss and speed of a model.

    Attributes:
        top1: top-1 accuracy in percent.
        top5: top-5 accuracy in percent; None for models with at most five classes.
        loss: mean cross-entropy in nats.
        images: number of images.
        seconds: total time, including the time for reading images.
        reading_seconds: part of this time in which the model waited for images.
        peak_memory: peak memory in bytes, of the GPU or else of the process.
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
        """95 % confidence interval of the top-1 accuracy, in percent."""
        return wilson_interval(round(self.top1 * self.images / 100), self.images)

    @property
    def images_per_second(self) -> float:
        """Images per second, including the time for reading them."""
        return self.images / self.seconds

    @property
    def model_images_per_second(self) -> float:
        """Images per second, excluding the time in which the model waited for them."""
        return self.images / max(self.seconds - self.reading_seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Return values that can be written as JSON."""
        return {
            **asdict(self), "top1_interval": list(self.top1_interval), "images_per_second": self.images_per_second,
            "model_images_per_second": self.model_images_per_second,
        }  # fmt: skip


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion, in percent (E. B. Wilson, JASA 22, 1927, 209-212).

    >>> [round(bound, 2) for bound in wilson_interval(900, 1000)]
    [87.98, 91.71]

    Args:
        correct: number of correct images.
        images: number of images, at least 1.
    """
    z, p, n = _NORMAL_QUANTILE, correct / images, images
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return 100 * max(0.0, center - half_width), 100 * min(1.0, center + half_width)


def evaluate(
    model: nn.Module,
    batches: Batches,
    amp: bool = False,
    *,
    progress: Callable[[int], None] | None = None,
    each: Callable[[Tensor, Tensor], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    allow_nonfinite: bool = False,
) -> Evaluation:
    """Measure a model's accuracy, loss and speed. Compressed weights are decoded once.

    Args:
        model: model on the batches' device, in either mode.
        batches: labeled images.
        amp: whether to autocast to `half_dtype`.
        progress: function that is called with the number of images of every batch.
        each: function that is called with the logits (batch, classes) float32 and labels (batch,) of every batch.
        group: processes that each evaluate a part of the batches; every process returns the result of all of them,
            which does not depend on the number of processes.
        allow_nonfinite: whether an output that is not finite makes the loss NaN instead of raising an error.

    Raises:
        TenreoError: if no image can be read, an output is not finite, or a label has no output.
    """
    device = batches.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model = evaluating(model)
    sums: list[Tensor] = []  # of the batches; they stay on the device, since copying each would wait for it
    start, reading = time.perf_counter(), 0.0
    with torch.inference_mode(), torch.autocast(device.type, half_dtype(device), enabled=amp):
        for images, labels in batches:
            reading += batches.wait_seconds
            logits = model(images).float()
            _check_outputs(logits, batches.max_label)
            sums.append(_batch_sums(logits, labels))
            if each is not None:
                each(logits, labels)
            if progress is not None:
                progress(len(labels))
    top1, top5, loss, count, many = exact_sums(sums, 5, group)
    seconds = time.perf_counter() - start
    if not count:
        raise TenreoError("no image to evaluate on; give at least one that can be read")
    if not math.isfinite(loss) and not allow_nonfinite:
        raise TenreoError(
            "an output of the model is not finite, so its accuracy and loss are undefined; inspect its file"
        )
    return Evaluation(
        top1=100 * top1 / count, top5=100 * top5 / count if many else None, loss=loss / count, images=int(count),
        seconds=seconds, reading_seconds=reading, peak_memory=peak_memory(device),
    )  # fmt: skip


def exact_sums(rows: list[Tensor], columns: int, group: ProcessGroup) -> list[float]:
    """Return the sums over all rows of all processes; rounded once, so that they do not depend on the rows' order.

    Args:
        rows: rows of this process, each (columns,).
        columns: number of elements of a row.
        group: the processes.
    """
    values = group.gather(torch.stack(rows).tolist() if rows else [])  # waits until the device has finished
    return [math.fsum(column) for column in zip(*values, strict=True)] or [0.0] * columns


def _check_outputs(logits: Tensor, max_label: int) -> None:
    """Raise unless the outputs have the shape (batch, classes) with a class for every label."""
    if logits.ndim != 2 or logits.shape[1] <= max_label:
        raise TenreoError(
            f"an image has the label {max_label}, counted from 0, but the model's outputs have the shape "
            f"{list(logits.shape[1:])}; give the data it was trained on"
        )


def _batch_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (5,): the top-1 hits, top-5 hits, total loss and images of a batch, and whether there are over 5 classes.

    If any of the logits (batch, classes) is not finite, the loss is NaN, even if no label selects that logit.
    """
    rank = ranks(logits, labels)
    loss = cross_entropy(logits, labels, reduction="sum") + torch.where(logits.isfinite().all(), 0.0, math.nan)
    many = logits.shape[1] > 5
    top1, top5 = (rank == 0).sum(), (rank < 5).sum()
    # Unlike new_tensor, new_full copies nothing from the CPU, which would wait for the GPU.
    return torch.stack([top1, top5, loss, loss.new_full((), len(labels)), loss.new_full((), many)])

"""Agreement of two models' outputs on images that need no labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div
from torch.nn.utils import parametrize

from tenreo.devices import half
from tenreo.errors import TenreoError


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a model's outputs are from those of a reference on the same images.

    Attributes:
        agreement: images of which both models name the same class first, in percent.
        kl: mean Kullback-Leibler divergence KL(reference, model) of the softmax outputs, in nats.
        images: how many.
        top1: accuracy of the model in percent; None without labels.
        reference_top1: accuracy of the reference in percent; None without labels.
    """

    agreement: float
    kl: float
    images: int
    top1: float | None
    reference_top1: float | None


class ImageBatches(Protocol):
    """Batches of images and labels on a device; labels are -1 where there are none."""

    device: torch.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (batch, channels, height, width) and labels (batch,)."""


def compare(
    model: nn.Module,
    reference: nn.Module,
    batches: ImageBatches,
    amp: bool = False,
    *,
    progress: Callable[[int], None] | None = None,
) -> Agreement:
    """Compare the outputs of two models, which needs no labels; `Agreement` says in what.

    Args:
        model: on the batches' device, in evaluation mode.
        reference: likewise, with outputs of the same classes; the dense model, for one.
        batches: of images; without labels where these are -1.
        amp: autocast to `half`.
        progress: called with the number of images done.

    Raises:
        TenreoError: when no image can be read, or an output is not finite.
    """
    device = batches.device
    autocast = torch.autocast(device.type, half(device)) if amp else nullcontext()
    sums = torch.zeros(4, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    seen, labeled = 0, True
    with torch.inference_mode(), parametrize.cached(), autocast:
        for images, labels in batches:
            own, other = model(images).float(), reference(images).float()
            if own.shape != other.shape:
                raise TenreoError(
                    f"the outputs are {list(own.shape[1:])} of one model and {list(other.shape[1:])} of the other; "
                    "compare models of the same classes"
                )
            first, second = own.argmax(1), other.argmax(1)
            divergence = kl_div(own.log_softmax(1), other.log_softmax(1), reduction="sum", log_target=True)
            hits = [(first == second).sum(), (first == labels).sum(), (second == labels).sum()]
            sums += torch.stack([divergence, *hits]).to(sums)
            seen += len(images)
            labeled &= bool((labels >= 0).all())
            if progress is not None:
                progress(len(images))
    if not seen:
        raise TenreoError("no image to compare on; give at least one that can be read")
    kl, agree, top1, reference_top1 = sums.tolist()
    if not math.isfinite(kl):
        raise TenreoError("an output of one of the models is not finite; inspect both files")
    return Agreement(
        agreement=100 * agree / seen,
        kl=max(kl / seen, 0.0),
        images=seen,
        top1=100 * top1 / seen if labeled else None,
        reference_top1=100 * reference_top1 / seen if labeled else None,
    )

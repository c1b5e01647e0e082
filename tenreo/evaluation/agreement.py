"""Agreement of the outputs of two models on images, which need no labels."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from tenreo.devices import half_dtype
from tenreo.distributed import SINGLE_PROCESS, ProcessGroup
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import exact_sums
from tenreo.evaluation.ranking import predicted_classes
from tenreo.modules.copies import evaluating


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of a model's outputs with those of a reference model on the same images.

    Attributes:
        agreement: percentage of the images for which both models predict the same class.
        kl: mean Kullback-Leibler divergence KL(reference, model) of the softmax outputs, in nats.
        images: number of images.
        top1: top-1 accuracy of the model in percent; None without labels.
        reference_top1: top-1 accuracy of the reference model in percent; None without labels.
    """

    agreement: float
    kl: float
    images: int
    top1: float | None
    reference_top1: float | None


def compare(
    model: nn.Module,
    reference: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    amp: bool = False,
    *,
    progress: Callable[[int], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Agreement:
    """Compare the outputs of two models on the same images.

    Args:
        model: model in either mode.
        reference: model with the same classes, on the same device; usually the dense model.
        batches: images (batch, channels, height, width) on this device, and labels (batch,), -1 if unknown.
        amp: whether to autocast to `half_dtype`.
        progress: function that is called with the number of images of every batch.
        group: processes that each compare a part of the batches, as for `evaluate`.

    Raises:
        TenreoError: if no image can be read, the shapes of the outputs differ, or an output is not finite.
    """
    model, reference = evaluating(model), evaluating(reference)
    device = next(model.parameters()).device
    sums: list[Tensor] = []
    with torch.inference_mode(), torch.autocast(device.type, half_dtype(device), enabled=amp):
        for images, labels in batches:
            own, other = model(images).float(), reference(images).float()
            if own.shape != other.shape:
                raise TenreoError(
                    f"the outputs have the shape {list(own.shape[1:])} in one model and {list(other.shape[1:])} in the "
                    "other; compare models with the same classes"
                )
            predicted, expected = predicted_classes(own), predicted_classes(other)
            divergence = kl_div(own.log_softmax(1), other.log_softmax(1), reduction="sum", log_target=True)
            hits = [predicted == expected, predicted == labels, expected == labels, labels >= 0]
            size = divergence.new_full((), len(labels))
            sums.append(torch.stack([divergence, size, *(each.sum() for each in hits)]))
            if progress is not None:
                progress(len(images))
    kl, count, agree, top1, reference_top1, labeled = exact_sums(sums, 6, group)
    if not count:
        raise TenreoError("no image to compare on; give at least one that can be read")
    if not math.isfinite(kl):
        raise TenreoError("an output of one of the models is not finite; inspect both files")
    return Agreement(
        agreement=100 * agree / count,
        kl=max(kl / count, 0.0),
        images=int(count),
        top1=100 * top1 / count if labeled == count else None,
        reference_top1=100 * reference_top1 / count if labeled == count else None,
    )

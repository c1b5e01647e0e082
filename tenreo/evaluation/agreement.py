"""Agreement of the outputs of two models on the same inputs, which needs no labels."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div
from torch.utils._pytree import tree_leaves

from tenreo.codec.distortion import decibels, finite
from tenreo.correction.run_model import image_count, run_batch
from tenreo.devices import half_dtype
from tenreo.distributed import SINGLE_PROCESS, ProcessGroup
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import exact_sums
from tenreo.evaluation.ranking import predicted_classes
from tenreo.modules.copies import evaluating

_MEASURES = 5  # columns of `class_measures`


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


@dataclass(frozen=True, kw_only=True)
class OutputAgreement:
    """How far outputs of any form are from those of a reference model.

    Attributes:
        squared_norm: squared norm of the outputs of the reference model.
        squared_error: squared norm of their difference from the outputs of the model.
        examples: number of examples.
        classes: agreement of the classes; None unless the outputs are one number per example and class.
    """

    squared_norm: float
    squared_error: float
    examples: int
    classes: Agreement | None

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio of the outputs in dB; infinite if they are equal."""
        return decibels(self.squared_norm, self.squared_error)

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON can represent; an infinite ratio becomes None."""
        classes = {} if self.classes is None else asdict(self.classes)
        known = {name: classes.get(name) for name in ("agreement", "kl")}
        return {"snr": finite(self.snr), **known, "examples": self.examples}


def compare(
    model: nn.Module,
    reference: nn.Module,
    batches: Iterable[Any],
    amp: bool = False,
    *,
    progress: Callable[[int], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Agreement:
    """Compare the classes that two models predict for the same images; the arguments are those of `compare_outputs`.

    Returns:
        The agreement.

    Raises:
        TenreoError: as in `compare_outputs`, and if the outputs are not one number per image and class.
    """
    result = compare_outputs(model, reference, batches, amp, progress=progress, group=group)
    if result.classes is None:
        raise TenreoError("the outputs are not one number per image and class, so the models predict no classes")
    return result.classes


def compare_outputs(
    model: nn.Module,
    reference: nn.Module,
    batches: Iterable[Any],
    amp: bool = False,
    *,
    progress: Callable[[int], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> OutputAgreement:
    """Compare the outputs of two models on the same batches.

    Args:
        model: model in either mode.
        reference: model with outputs of the same shapes, on the same device; usually the dense model.
        batches: batches as for `match_statistics_`; pairs of images and labels (batch,), -1 if unknown, also give the
            accuracy.
        amp: whether to autocast to `half_dtype`.
        progress: function that is called with the number of examples of every batch.
        group: processes that each compare a part of the batches, as for `evaluate`.

    Returns:
        The agreement over the batches of all processes.

    Raises:
        TenreoError: if there is no batch, a model fails, the shapes of the outputs differ, or one is not finite.
    """
    model, reference = evaluating(model), evaluating(reference)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    sums: list[Tensor] = []  # they stay on the device, since copying each would wait for it
    with torch.no_grad(), torch.autocast(device.type, half_dtype(device), enabled=amp):
        for batch in batches:
            own, expected = (_floats(run_batch(each, batch)) for each in (model, reference))
            _check_shapes(own, expected)
            sums.append(_batch_sums(own, expected, batch))
            if progress is not None:
                progress(image_count(batch))
    norm, error, count, lacking, *measures = exact_sums(sums, 4 + _MEASURES, group)
    if not count:
        raise TenreoError("no image to compare on; give at least one that can be read")
    if not math.isfinite(norm + error):
        raise TenreoError("an output of one of the models is not finite; inspect both files")
    classes = None if lacking else agreement_of(measures, int(count))
    return OutputAgreement(squared_norm=norm, squared_error=error, examples=int(count), classes=classes)


def class_measures(own: Tensor, expected: Tensor, labels: Tensor) -> Tensor:
    """Compare the outputs of a classifier with those of its reference.

    Args:
        own: outputs of the model (batch, classes, ...).
        expected: outputs of the reference, of the same shape.
        labels: (batch,) int64, -1 if unknown.

    Returns:
        (batch, 5): the KL divergence in nats, whether the classes are equal, whether that of the model and that of the
        reference are right, and whether there is a label; means over further dimensions of the outputs.
    """
    kl = kl_div(own.log_softmax(1), expected.log_softmax(1), reduction="none", log_target=True).sum(1)
    classes, wanted = predicted_classes(own), predicted_classes(expected)
    known = labels.view(-1, *[1] * (classes.dim() - 1)).expand_as(classes)
    columns = (kl, classes == wanted, classes == known, wanted == known, known >= 0)
    return torch.stack([each.to(kl.dtype).reshape(len(each), -1).mean(1) for each in columns], 1)


def agreement_of(sums: Sequence[float], images: int) -> Agreement:
    """Return the agreement from the sums of `class_measures` over all images."""
    kl, agree, top1, reference_top1, labeled = (each / images for each in sums)
    return Agreement(
        agreement=100 * agree, kl=max(kl, 0.0), images=images, top1=100 * top1 if labeled == 1 else None,
        reference_top1=100 * reference_top1 if labeled == 1 else None,
    )  # fmt: skip


def labels_of(batch: Any, outputs: Tensor) -> Tensor:
    """Return the labels of a batch (batch,) on the device of its outputs, -1 if it has none."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        labels = batch[1]
        if isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == outputs.shape[:1]:
            return labels.to(outputs.device)
    return torch.full(outputs.shape[:1], -1, device=outputs.device)


def _batch_sums(own: Sequence[Tensor], expected: Sequence[Tensor], batch: Any) -> Tensor:
    """Return (9,): squared norm and error, examples, whether there are no classes, and sums of `class_measures`."""
    first, count = own[0], image_count(batch)
    norm = torch.stack([y.square().sum() for y in expected]).sum()
    error = torch.stack([(x - y).square().sum() for x, y in zip(own, expected, strict=True)]).sum()
    has_classes = len(own) == 1 and first.dim() == 2 and len(first) == count and first.shape[1] > 1
    measures = [first.new_zeros(())] * _MEASURES
    if has_classes:
        measures = list(class_measures(first, expected[0], labels_of(batch, first)).sum(0))
    # Unlike new_tensor, new_full copies nothing from the CPU, which would wait for the GPU.
    return torch.stack([norm, error, first.new_full((), count), first.new_full((), not has_classes), *measures])


def _check_shapes(own: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise unless two models have outputs, and these have the same shapes."""
    shapes = [[list(x.shape) for x in outputs] for outputs in (own, expected)]
    if not own:
        raise TenreoError("the outputs of the model contain no floating-point numbers; compare a metric")
    if shapes[0] != shapes[1]:
        given, wanted = (", ".join(map(str, each)) for each in shapes)
        raise TenreoError(
            f"the outputs have the shape {given} in one model and {wanted or 'none'} in the other; compare models "
            "with the same classes, or a metric"
        )


def _floats(outputs: Any) -> list[Tensor]:
    """Return the floating-point tensors among outputs, in float64 where the device has it."""
    tensors = [x for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]
    return [x.float() if x.device.type == "mps" else x.double() for x in tensors]

"""The loss: cross-entropy of the labels, and of a teacher's softened outputs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from tenreo.training.settings import Settings


def training_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, settings: Settings) -> Tensor:
    """The mean loss of a batch in nats, in float32.

    With a teacher, weight * T^2 * KL(teacher / T, model / T) is mixed in (G. Hinton et al., "Distilling the
    Knowledge in a Neural Network", arXiv 1503.02531, section 2: T^2 keeps the gradients' size).

    Args:
        logits: (batch, classes) of the model.
        labels: (batch,) integers, or the shares of the classes (batch, classes); -1 without labels, which needs a
            teacher of weight 1.
        teacher: (batch, classes) logits of the dense model, or None.
        settings: label smoothing, temperature and weight.
    """
    logits = logits.float()
    weight = settings.distill_weight
    if teacher is None or weight < 1:
        loss = cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    if teacher is None:
        return loss
    t = settings.temperature
    divergence = kl_div(
        log_softmax(logits / t, 1),
        log_softmax(teacher.float() / t, 1),
        reduction="batchmean",
        log_target=True,
    )
    softened = weight * t * t * divergence
    return softened if weight == 1 else (1 - weight) * loss + softened

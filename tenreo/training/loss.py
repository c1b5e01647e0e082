"""The training loss: cross-entropy with the labels, and the divergence from the outputs of a teacher."""

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from tenreo.training.settings import Settings


def training_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, settings: Settings) -> Tensor:
    """Return the mean loss of a batch in nats, in float32.

    With a teacher, the loss is (1 - weight) * cross-entropy + weight * T^2 * KL(teacher / T || model / T), where T is
    the temperature. The factor T^2 makes the magnitude of the gradient independent of T (G. Hinton et al.,
    "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2).

    Args:
        logits: (batch, classes) outputs of the model.
        labels: (batch,) class indices, or (batch, classes) class probabilities. Images without labels have -1; they
            need a teacher and a distillation weight of 1.
        teacher: (batch, classes) outputs of the teacher, or None.
        settings: label smoothing, temperature and distillation weight.
    """
    logits = logits.float()
    weight = settings.distill_weight
    if teacher is None or weight < 1:
        loss = cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    if teacher is None:
        return loss
    t = settings.temperature
    own, target = (log_softmax(outputs.float() / t, 1) for outputs in (logits, teacher))
    divergence = kl_div(own, target, reduction="batchmean", log_target=True)
    distillation = weight * t * t * divergence
    return distillation if weight == 1 else (1 - weight) * loss + distillation

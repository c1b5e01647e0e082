"""Order of the classes by a model's outputs: of classes with equal outputs, the lowest comes first."""

import torch
from torch import Tensor


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the class with the highest of the outputs (batch, classes), (batch,) int64.

    Probabilities are not suitable, because the softmax of different outputs may be equal.
    """
    return logits.argmax(1)  # the first of equal values, unlike topk


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of classes that precede the label of each image, (batch,) int64; 0 if it is predicted.

    Args:
        logits: (batch, classes).
        labels: (batch,) class indices.
    """
    own = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & lower)).sum(1)

"""Tests of the training loss against explicit formulas."""

import torch

from tenreo.training.loss import training_loss
from tenreo.training.settings import Settings


def test_label_smoothing_spreads_a_fraction_of_the_label():
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    target = 0.8 * torch.eye(5)[labels] + 0.2 / 5
    expected = -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    loss = training_loss(logits, labels, None, Settings(label_smoothing=0.2))
    torch.testing.assert_close(loss, expected)


def test_distillation_mixes_in_the_softened_divergence():
    logits, teacher, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    p, q = (teacher / 3).softmax(1), (logits / 3).softmax(1)
    divergence = (p * (p / q).log()).sum() / 6
    plain = training_loss(logits, labels, None, Settings())
    loss = training_loss(logits, labels, teacher, Settings(distill=True, temperature=3, distill_weight=0.25))
    torch.testing.assert_close(loss, 0.75 * plain + 0.25 * 9 * divergence)
    alone = training_loss(logits, labels, logits, Settings(distill=True, distill_weight=1.0))
    assert alone.abs() < 1e-6

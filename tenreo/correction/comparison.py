"""Comparison of a corrected model's outputs with those of the uncorrected model."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tenreo.codec.distortion import decibels
from tenreo.correction.run_model import Forward, run_batch

_ROUNDING = 1e-10  # squared error relative to the outputs, -100 dB; smaller errors are taken for rounding


def harm_of_correction(
    dense: nn.Module, uncorrected: nn.Module, corrected: nn.Module, batches: Sequence[Any], forward: Forward | None
) -> str:
    """Describe by how much a correction moves the outputs of a model away from those of the dense model.

    The error of the outputs is their squared distance from the outputs of the dense model, over all batches.

    Args:
        dense: dense model, in evaluation mode like the other two.
        uncorrected: compressed model before the correction.
        corrected: compressed model after the correction.
        batches: batches to run all models on.
        forward: function that runs a model on a batch and returns its outputs, or None.

    Returns:
        A text with the signal-to-noise ratios in dB; empty if the correction helps, or if the outputs cannot be
        compared because the models return tensors of different shapes, or none.
    """
    energy, before, after = 0.0, 0.0, 0.0
    for batch in batches:
        wanted, plain, new = (_numbers(run_batch(model, batch, forward)) for model in (dense, uncorrected, corrected))
        shapes = [x.shape for x in wanted]
        if not wanted or shapes != [x.shape for x in plain] or shapes != [x.shape for x in new]:
            return ""
        energy += _distance(wanted, [torch.zeros_like(x) for x in wanted])
        before += _distance(plain, wanted)
        after += _distance(new, wanted)
    if after <= before or after <= _ROUNDING * energy:
        return ""
    return f"it lowered the SNR of the outputs from {decibels(energy, before):.1f} to {decibels(energy, after):.1f} dB"


def _numbers(outputs: Any) -> list[Tensor]:
    """Return the floating-point tensors among the outputs of a model."""
    return [x.detach() for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]


def _distance(given: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Return the squared distance of outputs where the wanted ones are finite; infinity if a given one is not."""
    total = 0.0
    for a, b in zip(given, wanted, strict=True):
        difference = torch.where(b.isfinite(), a.float() - b.float(), 0.0)
        total += difference.square().sum().item()
    return total if math.isfinite(total) else math.inf

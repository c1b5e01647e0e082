"""Per-channel mean and variance of a layer's input or output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PRIOR = 64.0  # weight of the assumption that nothing has changed, in measured values per channel


@dataclass(frozen=True)
class Moments:
    """Mean and variance per channel; moments of disjoint sets of values are added with `+`.

    >>> both = Moments.of(torch.tensor([[1.0], [3.0]]), channel=1) + Moments.of(torch.tensor([[5.0]]), channel=1)
    >>> both.count, both.mean.item(), round(both.var.item(), 4)
    (3, 3.0, 2.6667)
    """

    count: int  # values per channel
    mean: Tensor  # (channels,) float64, on the CPU
    var: Tensor  # (channels,) float64, biased (divided by `count`), on the CPU

    @property
    def confidence(self) -> float:
        """Weight of the measured values relative to the prior, count / (count + PRIOR), in [0, 1)."""
        return self.count / (self.count + PRIOR)

    @classmethod
    def of(cls, x: Tensor, channel: int) -> Moments:
        """Compute the moments of a floating-point tensor; channel is the index of its channel dimension."""
        x = x.detach().movedim(channel, 1) if x.dim() > 1 else x.detach()[None]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if x.device.type == "mps":  # where the other operator does not exist
            var, mean = torch.var_mean(wide, [d for d in range(wide.dim()) if d != 1], correction=0)
        else:
            # The kernel that BatchNorm uses in training takes a quarter of the time of var_mean on a permuted copy.
            mean, var = torch.batch_norm_update_stats(wide, None, None, 0.0)
        return cls(x.numel() // max(1, x.shape[1]), mean.cpu().double(), var.cpu().double())

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        weight, shift = other.count / count, other.mean - self.mean
        var = (1 - weight) * self.var + weight * other.var + weight * (1 - weight) * shift**2
        return Moments(count, self.mean + weight * shift, var)

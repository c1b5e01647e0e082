"""Mean and variance per channel of what a layer gets or gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PRIOR = 64.0  # values that say "nothing has changed", beside those that were seen


@dataclass(frozen=True)
class Moments:
    """Mean and variance per channel of some values.

    >>> both = Moments.of(torch.tensor([[1.0], [3.0]]), channel=1) + Moments.of(torch.tensor([[5.0]]), channel=1)
    >>> both.count, both.mean.item(), round(both.var.item(), 4)
    (3, 3.0, 2.6667)

    Attributes:
        count: values per channel.
        mean: (channels,) float64, on the CPU.
        var: (channels,) float64, biased, on the CPU.
    """

    count: int
    mean: Tensor
    var: Tensor

    @property
    def confidence(self) -> float:
        """Between 0 and 1: how much so many values weigh against the prior."""
        return self.count / (self.count + PRIOR)

    @classmethod
    def of(cls, x: Tensor, channel: int) -> Moments:
        """The moments of a tensor.

        Args:
            x: floating point.
            channel: its dimension of channels.
        """
        rows = x.detach().movedim(channel, 0).flatten(1)  # (channels, all others)
        wide = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        var, mean = torch.var_mean(wide, dim=1, correction=0)
        return cls(rows.shape[1], mean.cpu().double(), var.cpu().double())

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        share, shift = other.count / count, other.mean - self.mean
        var = (1 - share) * self.var + share * other.var + share * (1 - share) * shift**2
        return Moments(count, self.mean + share * shift, var)

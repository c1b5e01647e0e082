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
        x = x.detach().movedim(channel, 1) if x.dim() > 1 else x.detach()[None]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        # What BatchNorm itself uses in training takes a quarter of the time of var_mean over a copy.
        mean, var = torch.batch_norm_update_stats(wide, None, None, 0.0)
        return cls(x.numel() // max(1, x.shape[1]), mean.cpu().double(), var.cpu().double())

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        share, shift = other.count / count, other.mean - self.mean
        var = (1 - share) * self.var + share * other.var + share * (1 - share) * shift**2
        return Moments(count, self.mean + share * shift, var)

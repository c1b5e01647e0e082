"""Layers whose statistics are corrected: what each sees, call by call, and the formula of its correction.

*Matched BatchNorm.* With m and v, mean and variance per channel of the input of a BatchNorm, in the dense model (d) and
the compressed one (c) on the same batches,

    ratio = ((v_c + eps) / (v_d + eps)) ^ t,  t = n / (n + 64)
    running_var = dense_var * ratio
    running_mean = dense_mean * sqrt(ratio) + t * (m_c - m_d * sqrt(ratio))

so the compressed BatchNorm does to its input what the dense one does to its own. Of n values per channel, few say
little: t shrinks both corrections towards "nothing has changed". The inputs cancel out as far as both models treat them
alike. To that end every BatchNorm normalizes by its batch while the statistics are collected: its input is scaled and
shifted from its own mean and variance (in the measure t, else from the running ones) to those that its running
statistics state. Its output then has the mean and variance of real data, beta and gamma, whatever the images are.

*Calibrated BatchNorm.* Without the dense model, running statistics move towards the averages seen. Per BatchNorm, means
and logarithms of variances each move by the share max(0, 1 - 4 * error / change): change is the mean square over
channels of how far they would move, error the mean square of their standard error, from how they differ between images.

*Matched bias.* A model without BatchNorm has biases: bias += m_d * sqrt(v_c / v_d) - m_c, with m and v those of the
output of a compressed layer. Without the root this is bias correction: M. Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from tenreo.correction.moments import Moments
from tenreo.planning.rules import CONVOLUTIONS

_STANDARD_ERRORS = 2.0  # a change smaller than so many standard errors is not believed


def is_batchnorm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm: torch's, torchvision's frozen one, timm's with its activation."""
    running = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return all(isinstance(s, Tensor) for s in running) and not isinstance(module, _InstanceNorm)


class CorrectedLayer(ABC):
    """A layer that can be corrected, the same layer of the dense model, and what both saw.

    Args:
        name: of the layer.
        module: the layer.
        dense: the same layer of the dense model; None where there is none.
        channel: the dimension of channels in what is looked at.
    """

    def __init__(self, name: str, module: Any, dense: Any, channel: int) -> None:
        self.name, self.module, self.dense, self.channel = name, module, dense, channel
        self.calls: deque[Moments] = deque()  # of the dense model on this batch, those not yet compared
        self.seen: Moments | None = None
        self.seen_dense: Moments | None = None

    @abstractmethod
    def hooks(self) -> Iterator[RemovableHandle]:
        """Register what looks at the layer; the handles remove it."""

    @abstractmethod
    def correct_(self) -> None:
        """Apply what was seen to the layer."""

    def look(self, x: Tensor) -> Moments:
        """Take what a call of the dense model gets."""
        now = Moments.of(x, self.channel)
        self.calls.append(now)
        return now

    def compare(self, x: Tensor) -> tuple[Moments, Moments | None]:
        """Take what a call of the compressed model gets; return it, and what the same call of the dense one got."""
        now = Moments.of(x, self.channel)
        if self.dense is None:
            self.seen = now if self.seen is None else self.seen + now
            return now, None
        if not self.calls:  # the dense model did not make this call: nothing to compare with
            return now, None
        before = self.calls.popleft()
        self.seen = now if self.seen is None else self.seen + now
        self.seen_dense = before if self.seen_dense is None else self.seen_dense + before
        return now, before

    def broadcast(self, values: Tensor, x: Tensor) -> Tensor:
        """One value per channel, (channels,), in the shape and at least float32 that it takes to meet x."""
        shape = [-1 if i == self.channel % x.dim() else 1 for i in range(x.dim())]
        dtype = torch.float32 if x.dtype.itemsize < 4 else x.dtype
        return values.to(device=x.device, dtype=dtype).reshape(shape)


class MatchedBatchNorm(CorrectedLayer):
    """A BatchNorm, frozen or not, whose running statistics are corrected by what it and the dense one get."""

    def __init__(self, name: str, module: Any, dense: Any) -> None:
        super().__init__(name, module, dense, 1)
        self.eps = float(module.eps)
        self.own = _running(module)
        self.target = self.own if dense is None else _running(dense)

    def hooks(self) -> Iterator[RemovableHandle]:
        """Look at the inputs of both."""
        yield self.module.register_forward_pre_hook(self._compressed_call, with_kwargs=True)
        if self.dense is not None:
            yield self.dense.register_forward_pre_hook(self._dense_call, with_kwargs=True)

    def _dense_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        (x,) = (*args, *kwargs.values())
        return (self._normalized(x, self._batch_statistics(self.look(x)), self.target),), {}

    def _compressed_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        (x,) = (*args, *kwargs.values())
        now, before = self.compare(x)
        if before is None:
            statistics = self._batch_statistics(now)
        else:
            statistics = self._matched(now, before, self._batch_statistics(before))
        return (self._normalized(x, statistics, self.own),), {}

    def _batch_statistics(self, now: Moments) -> tuple[Tensor, Tensor]:
        """Mean and variance to normalize by: the batch's, as far as it has enough values to know them."""
        share, (mean, var) = now.confidence, self.target
        return mean + share * (now.mean - mean), var + share * (now.var - var)

    def _matched(self, c: Moments, d: Moments, statistics: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The statistics of the compressed model that do what given ones do in the dense one."""
        mean, var = statistics
        ratio = ((c.var + self.eps) / (d.var + self.eps)) ** c.confidence
        return mean * ratio.sqrt() + c.confidence * (c.mean - d.mean * ratio.sqrt()), var * ratio

    def _normalized(self, x: Tensor, given: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> Tensor:
        """Move x, of the given mean and variance, to the wanted ones."""
        (mean, var), (to_mean, to_var) = given, wanted
        scale = ((to_var + self.eps) / (var + self.eps)).sqrt()
        shift = to_mean - mean * scale
        scale, shift = self.broadcast(scale, x), self.broadcast(shift, x)
        return torch.addcmul(shift, x.to(scale.dtype), scale).to(x.dtype)

    def correct_(self) -> None:
        """Set the running statistics that match those of the dense model."""
        if self.seen is not None and self.seen_dense is not None:
            self.set_(*self._matched(self.seen, self.seen_dense, self.target))

    def set_(self, mean: Tensor, var: Tensor) -> None:
        """Set the running statistics."""
        self.module.running_mean.copy_(mean)
        self.module.running_var.copy_(var)


def _running(module: Any) -> tuple[Tensor, Tensor]:
    """The running mean and variance of a BatchNorm, (channels,) float64 on the CPU."""
    return module.running_mean.detach().cpu().double(), module.running_var.detach().cpu().double()


class CalibratedBatchNorm(MatchedBatchNorm):
    """A BatchNorm without a dense model, whose running statistics move towards the averages that it sees.

    It keeps, per image, p and q: the means over pixels of z and z^2, z = (x - running_mean) / running_std.

    Attributes:
        shares: by which the means and the variances moved.
    """

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module, None)
        self.images: Moments | None = None  # over the images: of p, q and p + q, (3 * channels,)
        self.shares = (0.0, 0.0)

    def compare(self, x: Tensor) -> tuple[Moments, Moments | None]:
        """Take what a call gets, image by image."""
        mean, var = self.own
        std = (var + self.eps).sqrt()
        z = (x.detach().float() - self.broadcast(mean, x)) / self.broadcast(std, x)
        z = z.flatten(2) if z.dim() > 2 else z[..., None]  # (batch, channels, pixels)
        p, q = z.mean(2), z.square().mean(2)
        now = Moments.of(torch.cat([p, q, p + q], 1), 1)
        self.images = now if self.images is None else self.images + now
        return super().compare(x)

    def correct_(self) -> None:
        """Move the running statistics by the shares that can be believed."""
        if self.images is None:
            return
        degrees = max(self.images.count - 1, 1e-9)
        m, q, _ = self.images.mean.chunk(3)
        var_p, var_q, var_sum = self.images.var.chunk(3)
        v = (q - m**2).clamp_min(0) + self.eps / (self.own[1] + self.eps)
        error = (var_q + 4 * m**2 * var_p - 2 * m * (var_sum - var_p - var_q)).clamp_min(0) / v**2
        self.shares = _share(m, var_p / degrees), _share(v.log(), error / degrees)
        mean, var = self.own
        factor = (self.shares[1] * v.log()).exp()
        std = (var + self.eps).sqrt()
        self.set_(mean + self.shares[0] * m * std, ((var + self.eps) * factor - self.eps).clamp_min(0))


def _share(change: Tensor, squared_error: Tensor) -> float:
    """The share of a change, (channels,), that exceeds its standard error by enough."""
    size = change.square().mean()
    return max(0.0, 1 - _STANDARD_ERRORS**2 * (squared_error.mean() / size).item()) if size > 0 else 0.0


class MatchedBias(CorrectedLayer):
    """A compressed layer whose bias is corrected by what it puts out, by a share of the formula."""

    def __init__(self, name: str, module: Any, dense: Any, share: float) -> None:
        super().__init__(name, module, dense, 1 if isinstance(module, CONVOLUTIONS) else -1)
        self.share = share

    def hooks(self) -> Iterator[RemovableHandle]:
        """Look at the outputs of both."""
        yield self.module.register_forward_hook(self._compressed_call)
        yield self.dense.register_forward_hook(self._dense_call)

    def _dense_call(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self.look(output)

    def _compressed_call(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        now, before = self.compare(output)
        if before is None:
            return output
        return (output + self.broadcast(self._shift(now, before), output)).to(output.dtype)

    def _shift(self, c: Moments, d: Moments) -> Tensor:
        # The mean shrinks with the deviation: a mean that stays while the signal fades hides it from the ReLU.
        ratio = torch.where(d.var > 0, c.var / d.var.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
        return self.share * c.confidence * (d.mean * ratio.sqrt() - c.mean)

    def correct_(self) -> None:
        """Shift the bias."""
        if self.seen is not None and self.seen_dense is not None:
            bias = self.module.bias.data
            bias.add_(self._shift(self.seen, self.seen_dense).to(bias))

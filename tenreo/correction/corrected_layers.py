"""Layers whose statistics are corrected: the hooks that measure them, and the formulas of the corrections.

*Matched BatchNorm.* Let m and v be the mean and variance per channel of the input of a BatchNorm, measured on the same
batches in the dense model (d) and in the compressed model (c), from n values per channel:

    ratio = ((v_c + eps) / (v_d + eps)) ^ t,  t = n / (n + 64)
    running_var = dense_var * ratio
    running_mean = dense_mean * sqrt(ratio) + t * (m_c - m_d * sqrt(ratio))

The compressed BatchNorm then transforms its input as the dense one does. The factor t shrinks the correction towards
"no change" when few values were measured. The choice of images cancels out as far as both models respond to them
alike. To that end, every BatchNorm normalizes by its batch during the measurement: its input is scaled and shifted from
the mean and variance of the batch (weighted by t, with weight 1 - t for the running statistics) to the running mean and
variance. Its output then has the mean (beta) and the deviation (gamma) that it has on real data, whatever the images.

*Calibrated BatchNorm.* Without the dense model, the running statistics move towards the measured averages. In each
BatchNorm, the means and the logarithms of the variances each move by a fraction max(0, 1 - 4 * error / change) of the
way. Here change is the mean square over channels of the whole way, and error is the mean square of its standard error,
estimated from the differences between images.

*Matched bias.* A model without BatchNorm has biases: bias += m_d * sqrt(v_c / v_d) - m_c, with m and v measured at the
output of a compressed layer. Without the root this is bias correction: M. Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.2.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenreo.correction.moments import Moments
from tenreo.modules.layer_types import CONVOLUTIONS

_STANDARD_ERRORS = 2.0  # changes below this number of standard errors are taken for noise


class CorrectedLayer(ABC):
    """A layer to correct, its counterpart in the dense model if there is one, and the moments measured at both.

    Both are modules of copies that share the tensors of the models. In the measured tensors, `channel` is the index of
    the channel dimension.
    """

    def __init__(self, name: str, module: Any, dense: Any, channel: int) -> None:
        self.name, self.module, self.dense, self.channel = name, module, dense, channel
        self.dense_calls: deque[Moments] = deque()  # of this batch, that the compressed layer has not made yet
        self.moments: Moments | None = None  # pooled over the calls of the compressed layer
        self.dense_moments: Moments | None = None  # pooled over the same calls of the dense layer

    @abstractmethod
    def register_hooks(self) -> Iterator[RemovableHandle]:
        """Register the hooks that measure the layer, and yield the handles that remove them."""

    @abstractmethod
    def corrected(self) -> dict[str, Tensor]:
        """Return the corrected tensors of the layer by their names in the module; none if no batch reached it."""

    def measure_dense(self, x: Tensor) -> Moments:
        """Return the moments of one call of the dense layer, and queue them for the compressed layer's call."""
        moments = Moments.of(x, self.channel)
        self.dense_calls.append(moments)
        return moments

    def measure(self, x: Tensor) -> tuple[Moments, Moments | None]:
        """Measure one call of the compressed layer.

        Returns:
            Its moments and those of the same call of the dense layer; None if the dense layer did not make the call,
            which is then excluded from the pooled moments.
        """
        moments = Moments.of(x, self.channel)
        if self.dense is not None and not self.dense_calls:
            return moments, None
        self.moments = moments if self.moments is None else self.moments + moments
        if self.dense is None:
            return moments, None
        dense = self.dense_calls.popleft()
        self.dense_moments = dense if self.dense_moments is None else self.dense_moments + dense
        return moments, dense

    def broadcast(self, values: Tensor, x: Tensor) -> Tensor:
        """Reshape (channels,) values to broadcast against x, in x's dtype but at least float32."""
        shape = [-1 if i == self.channel % x.dim() else 1 for i in range(x.dim())]
        dtype = torch.float32 if x.dtype.itemsize < 4 else x.dtype
        return values.to(device=x.device, dtype=dtype).reshape(shape)


class MatchedBatchNorm(CorrectedLayer):
    """A BatchNorm, frozen or not, whose running statistics are matched to those of the dense model."""

    def __init__(self, name: str, module: Any, dense: Any) -> None:
        super().__init__(name, module, dense, 1)
        self.eps = float(module.eps)
        self.running = _running_statistics(module)  # before the correction
        self.dense_running = self.running if dense is None else _running_statistics(dense)

    def register_hooks(self) -> Iterator[RemovableHandle]:
        """Measure and normalize the inputs of both layers."""
        yield self.module.register_forward_pre_hook(self._compressed_call, with_kwargs=True)
        if self.dense is not None:
            yield self.dense.register_forward_pre_hook(self._dense_call, with_kwargs=True)

    def _dense_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        (x,) = (*args, *kwargs.values())
        return (self._normalize(x, self._batch_statistics(self.measure_dense(x)), self.dense_running),), {}

    def _compressed_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        (x,) = (*args, *kwargs.values())
        moments, dense = self.measure(x)
        if dense is None:
            statistics = self._batch_statistics(moments)
        else:
            statistics = self._match(moments, dense, self._batch_statistics(dense))
        return (self._normalize(x, statistics, self.running),), {}

    def _batch_statistics(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Return the batch's mean and variance, shrunk towards the running ones if the batch has few values."""
        t, (mean, var) = moments.confidence, self.dense_running
        return mean + t * (moments.mean - mean), var + t * (moments.var - var)

    def _match(self, c: Moments, d: Moments, dense: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the statistics for the compressed model that correspond to given ones for the dense model."""
        mean, var = dense
        ratio = ((c.var + self.eps) / (d.var + self.eps)) ** c.confidence
        return mean * ratio.sqrt() + c.confidence * (c.mean - d.mean * ratio.sqrt()), var * ratio

    def _normalize(self, x: Tensor, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Scale and shift x from a source mean and variance to a target mean and variance."""
        (mean, var), (target_mean, target_var) = source, target
        scale = ((target_var + self.eps) / (var + self.eps)).sqrt()
        shift = target_mean - mean * scale
        scale, shift = self.broadcast(scale, x), self.broadcast(shift, x)
        return torch.addcmul(shift, x.to(scale.dtype), scale).to(x.dtype)

    def corrected(self) -> dict[str, Tensor]:
        """Return the running statistics that match those of the dense model."""
        if self.moments is None or self.dense_moments is None:
            return {}
        return self._tensors(*self._match(self.moments, self.dense_moments, self.dense_running))

    def _tensors(self, mean: Tensor, var: Tensor) -> dict[str, Tensor]:
        return {"running_mean": mean.to(self.module.running_mean), "running_var": var.to(self.module.running_var)}


def _running_statistics(module: Any) -> tuple[Tensor, Tensor]:
    """Return the running mean and variance of a BatchNorm, (channels,) float64 on the CPU."""
    return module.running_mean.detach().cpu().double(), module.running_var.detach().cpu().double()


class CalibratedBatchNorm(MatchedBatchNorm):
    """A BatchNorm without a dense model, whose running statistics move towards the measured averages.

    Per image, p and q are the means over pixels of z and z^2, with z = (x - running_mean) / running_std.
    """

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module, None)
        self.images: Moments | None = None  # of p, q and p + q over the images, (3 * channels,)
        self.shrinkage = (0.0, 0.0)  # fractions of the way by which the means and the variances moved

    def measure(self, x: Tensor) -> tuple[Moments, Moments | None]:
        """Measure one call, and each of its images."""
        mean, var = self.running
        std = (var + self.eps).sqrt()
        z = (x.detach().float() - self.broadcast(mean, x)) / self.broadcast(std, x)
        z = z.flatten(2) if z.dim() > 2 else z[..., None]  # (batch, channels, pixels)
        p, q = z.mean(2), z.square().mean(2)
        images = Moments.of(torch.cat([p, q, p + q], 1), 1)
        self.images = images if self.images is None else self.images + images
        return super().measure(x)

    def corrected(self) -> dict[str, Tensor]:
        """Return the running statistics, moved by the part of each change that exceeds its standard error."""
        if self.images is None:
            return {}
        degrees = max(self.images.count - 1, 1e-9)
        m, q, _ = self.images.mean.chunk(3)
        var_p, var_q, var_sum = self.images.var.chunk(3)
        v = (q - m**2).clamp_min(0) + self.eps / (self.running[1] + self.eps)
        # Variance of z^2 - 2 m z per image; var(p + q) - var(p) - var(q) is twice the covariance of p and q.
        error = (var_q + 4 * m**2 * var_p - 2 * m * (var_sum - var_p - var_q)).clamp_min(0) / v**2
        self.shrinkage = _shrinkage(m, var_p / degrees), _shrinkage(v.log(), error / degrees)
        mean, var = self.running
        factor = (self.shrinkage[1] * v.log()).exp()
        std = (var + self.eps).sqrt()
        return self._tensors(mean + self.shrinkage[0] * m * std, ((var + self.eps) * factor - self.eps).clamp_min(0))


def _shrinkage(change: Tensor, squared_error: Tensor) -> float:
    """Return the fraction of a change, (channels,), to apply, given its squared standard error."""
    size = change.square().mean()
    return max(0.0, 1 - _STANDARD_ERRORS**2 * (squared_error.mean() / size).item()) if size > 0 else 0.0


class MatchedBias(CorrectedLayer):
    """A compressed layer whose bias is corrected by its output, multiplied by `strength` in [0, 1]."""

    def __init__(self, name: str, module: Any, dense: Any, strength: float) -> None:
        super().__init__(name, module, dense, 1 if isinstance(module, CONVOLUTIONS) else -1)
        self.strength = strength

    def register_hooks(self) -> Iterator[RemovableHandle]:
        """Measure the outputs of both layers, and correct those of the compressed one."""
        yield self.module.register_forward_hook(self._compressed_call)
        yield self.dense.register_forward_hook(self._dense_call)

    def _dense_call(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self.measure_dense(output)

    def _compressed_call(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        moments, dense = self.measure(output)
        if dense is None:
            return output
        return (output + self.broadcast(self._bias_change(moments, dense), output)).to(output.dtype)

    def _bias_change(self, c: Moments, d: Moments) -> Tensor:
        # The mean shrinks with the deviation. With its full mean and a weaker signal, a channel could end up entirely
        # on one side of the ReLU.
        ratio = torch.where(d.var > 0, c.var / d.var.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
        return self.strength * c.confidence * (d.mean * ratio.sqrt() - c.mean)

    def corrected(self) -> dict[str, Tensor]:
        """Return the corrected bias."""
        if self.moments is None or self.dense_moments is None:
            return {}
        bias = self.module.bias.detach()
        return {"bias": bias + self._bias_change(self.moments, self.dense_moments).to(bias)}

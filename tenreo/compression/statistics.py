"""Statistics of a compressed model, corrected without labels: on noise, or on images.

A decoded weight is shrunk and noisy, so the running statistics of the BatchNorm behind it no longer
fit, and the misfit grows layer by layer. A forward pass shows every BatchNorm what it gets, and
corrects it just before it acts, so that those after it see what they will get:

*match*: with m and v, mean and variance of the input of a BatchNorm, of the dense model (d) and the
compressed one (c) on the same inputs,
running_var = dense_var * v_c / v_d; running_mean = m_c + (dense_mean - m_d) * sqrt(v_c / v_d).
The inputs cancel out as far as both models treat them alike: noise does.

*calibrate*: running_var = v_c; running_mean = m_c, on images.

A model without BatchNorm keeps means by its biases, in proportion to what is left of the deviations:
bias += m_d * sqrt(v_c / v_d) - m_c, with m and v those of the output of a compressed layer (without the
root this is bias correction: M. Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", arXiv 1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from tenreo.compression.parametrization import curves
from tenreo.errors import TenreoError
from tenreo.files.records import Correction


def match_(
    compressed: nn.Module,
    dense: nn.Module,
    images: Iterable[Tensor],
    source: str = "images",
    progress: Callable[[int], None] | None = None,
) -> Correction:
    """Make a compressed model's statistics fit its weights, by the dense model's, in place.

    Args:
        compressed: on any device.
        dense: the same model before it was compressed, on the same device.
        images: batches (batch, channels, height, width) of unlabeled inputs.
        source: what the images are, for the report.
        progress: called with the number of images after each batch.

    Returns:
        How much was corrected: the BatchNorms, or where there are none the compressed layers' biases.

    Raises:
        TenreoError: when the models differ, or the images do not fit them.
    """
    return _correct(compressed, dense, images, source, progress)


def calibrate_(
    model: nn.Module,
    images: Iterable[Tensor],
    *,
    source: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Correction:
    """Estimate a model's BatchNorm statistics anew from unlabeled images, in place.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> print(calibrate_(model, [torch.randn(4, 3, 8, 8)], source="pictures"))
    1 BatchNorms, on 4 images of pictures

    Args:
        model: compressed or dense, on any device.
        images: batches (batch, channels, height, width).
        source: what they are, for the report.
        progress: called with the number of images after each batch.

    Returns:
        How many BatchNorms were corrected.
    """
    return _correct(model, None, images, source or "images", progress)


@dataclass
class _Moments:
    """Mean and variance per channel of all that was seen, in float64."""

    count: int = 0
    mean: Any = 0.0  # (channels,) from the first look on
    var: Any = 0.0

    def see(self, x: Tensor, channel: int) -> None:
        rows = x.detach().movedim(channel, 0).flatten(1)  # (channels, all others)
        var, mean = (t.double() for t in torch.var_mean(rows, dim=1, correction=0))
        count = self.count + rows.shape[1]
        share = rows.shape[1] / count
        shift = mean - self.mean
        self.mean = self.mean + share * shift
        self.var = (1 - share) * self.var + share * var + share * (1 - share) * shift**2
        self.count = count


class _BatchNormSite:
    """A BatchNorm whose running statistics are corrected by what it gets."""

    def __init__(self, module: Any, dense: Any) -> None:
        self.module, self.dense = module, dense
        self.seen, self.seen_dense = _Moments(), _Moments()
        like = dense or module
        self.dense_mean, self.dense_var = like.running_mean.double(), like.running_var.double()

    def hooks(self) -> Iterator[RemovableHandle]:
        yield self.module.register_forward_pre_hook(self.correct)
        if self.dense is not None:
            yield self.dense.register_forward_pre_hook(lambda _, inputs: self.seen_dense.see(inputs[0], 1))

    def correct(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen.see(inputs[0], 1)
        mean, var = self.seen.mean, self.seen.var
        if self.dense is not None:
            # A channel that never varies has no ratio; it keeps its own.
            ratio = torch.where(self.seen_dense.var > 0, var / self.seen_dense.var, 1.0)
            mean = mean + (self.dense_mean - self.seen_dense.mean) * ratio.sqrt()
            var = self.dense_var * ratio
        self.module.running_mean.copy_(mean)
        self.module.running_var.copy_(var)


class _BiasSite:
    """A compressed layer whose bias is corrected by what it puts out."""

    def __init__(self, module: Any, dense: Any) -> None:
        self.module, self.dense = module, dense
        self.seen, self.seen_dense = _Moments(), _Moments()
        self.channel = -1 if isinstance(module, nn.Linear) else 1
        self.bias: Tensor = module.bias.detach().clone()

    def hooks(self) -> Iterator[RemovableHandle]:
        yield self.module.register_forward_hook(self.correct)
        yield self.dense.register_forward_hook(lambda _, __, y: self.seen_dense.see(y, self.channel))

    def correct(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        current: Tensor = self.module.bias.detach()
        shape = [-1 if i == self.channel % output.dim() else 1 for i in range(output.dim())]
        plain = output - (current - self.bias).reshape(shape)
        self.seen.see(plain, self.channel)
        # The mean shrinks with the deviation: a mean that stays while the signal fades hides it from the ReLU.
        ratio = torch.where(self.seen_dense.var > 0, self.seen.var / self.seen_dense.var, 1.0)
        shift = (self.seen_dense.mean * ratio.sqrt() - self.seen.mean).to(current.dtype)
        current.copy_(self.bias + shift)
        corrected: Tensor = plain + shift.reshape(shape)
        return corrected


def _sites(model: nn.Module, dense: nn.Module | None) -> list[_BatchNormSite] | list[_BiasSite]:
    twins: dict[str, nn.Module] | None = None if dense is None else dict(dense.named_modules())

    def twin(name: str, module: nn.Module) -> nn.Module | None:
        if twins is None:
            return None
        found = twins.get(name)
        if found is None or not isinstance(module, type(found)):  # a parametrized class derives from its own
            raise TenreoError(
                f"statistics: the dense model has no {type(module).__name__} {name!r}; give the same model"
            )
        return found

    norms = [
        _BatchNormSite(m, twin(n, m))
        for n, m in model.named_modules()
        if isinstance(m, _BatchNorm) and m.running_var is not None
    ]
    if norms or dense is None:
        return norms
    return [_BiasSite(c.layer, twin(c.name, c.layer)) for c in curves(model) if c.layer.bias is not None]


@contextmanager
def _evaluating(*modules: nn.Module | None) -> Iterator[None]:
    modes = [(m, m.training) for module in modules if module is not None for m in module.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad(), parametrize.cached():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _correct(
    model: nn.Module,
    dense: nn.Module | None,
    images: Iterable[Tensor],
    source: str,
    progress: Callable[[int], None] | None,
) -> Correction:
    sites = _sites(model, dense)
    seen, shape = 0, []
    handles = [handle for site in sites for handle in site.hooks()]
    device = next(model.parameters()).device
    try:
        with _evaluating(model, dense):
            for batch in images if sites else ():
                shape = list(batch.shape)
                for each in (dense, model):  # the dense one first: corrections need its moments
                    if each is not None:
                        each(batch.to(device))
                seen += len(batch)
                if progress is not None:
                    progress(len(batch))
    except (RuntimeError, ValueError) as error:
        raise TenreoError(f"statistics: the model does not take images of shape {shape}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    norms = sum(isinstance(site, _BatchNormSite) for site in sites)
    return Correction(source, seen, norms, len(sites) - norms)

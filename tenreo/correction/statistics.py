"""Statistics of a compressed model, corrected without labels: on noise, or on images.

A decoded weight is shrunk and noisy, so the running statistics of the BatchNorm behind it no longer fit, and the misfit
grows layer by layer. What every BatchNorm gets, in the dense model and in the compressed one, says how to correct it;
`tenreo.correction.layers` has the formulas. A layer that runs several times in one forward pass is compared
call by call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.compression.parametrization import curves
from tenreo.correction.layers import (
    CalibratedBatchNorm,
    CorrectedLayer,
    MatchedBatchNorm,
    MatchedBias,
    is_batchnorm,
)
from tenreo.correction.run_model import Forward, batches_of, image_count, run
from tenreo.errors import TenreoError
from tenreo.files.records import Correction


def match_(
    compressed: nn.Module,
    dense: nn.Module,
    images: Any,
    *,
    source: str = "images",
    bias_share: float = 1.0,
    forward: Forward | None = None,
    progress: Callable[[int], None] | None = None,
) -> Correction:
    """Make a compressed model's statistics fit its weights, by the dense model's, in place.

    Args:
        compressed: on any device, in either mode.
        dense: the same model before it was compressed; it stays as it is.
        images: a tensor (batch, channels, height, width), or an iterable of batches: tensors, (images, labels)
            pairs, dictionaries of arguments, lists of images.
        source: what the images are, for the report.
        bias_share: of the correction of biases, in [0, 1].
        forward: runs a model on a batch as it comes, where the model takes its inputs in another way.
        progress: called with the number of images after each batch.

    Returns:
        How much was corrected: the BatchNorms, or where there are none the compressed layers' biases; its
        note says what was not.

    Raises:
        TenreoError: when the models differ, or the batches do not fit them; the model is then as before.
    """
    if compressed is dense:
        raise TenreoError("statistics: the dense model is the compressed one; give a copy made before")
    layers = _matched_layers(compressed, dense, bias_share)
    if not layers:
        return Correction(source, 0, 0, 0, "no BatchNorm, and no compressed layer with a bias")
    # The dense one first: the calls of the compressed one are compared with its calls.
    return _correct([dense, compressed], layers, images, source, forward, progress)


def calibrate_(
    model: nn.Module,
    images: Any,
    *,
    source: str | None = None,
    forward: Forward | None = None,
    progress: Callable[[int], None] | None = None,
) -> Correction:
    """Move a model's BatchNorm statistics towards what unlabeled images show, in place.

    With the dense model at hand, `match_statistics_` on the same images needs far fewer of them.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> calibrate_(model, [torch.randn(4, 3, 8, 8)], source="pictures").batchnorms
    1

    Args:
        model: compressed or dense, on any device, in either mode.
        images: a tensor or an iterable of batches, as `match_statistics_` takes them; some hundreds of images,
            64 or more a batch.
        source: what they are, for the report.
        forward: runs a model on a batch as it comes, where the model takes its inputs in another way.
        progress: called with the number of images after each batch.

    Returns:
        How many BatchNorms were corrected; its note says how far the averages were believed.

    Raises:
        TenreoError: when the batches do not fit the model, which is then as before.
    """
    source = source or "images"
    layers = [CalibratedBatchNorm(name, m) for name, m in model.named_modules() if is_batchnorm(m)]
    if not layers:
        return Correction(source, 0, 0, 0, "no BatchNorm")
    return _correct([model], layers, images, source, forward, progress)


def _matched_layers(model: nn.Module, dense: nn.Module, bias_share: float) -> Sequence[CorrectedLayer]:
    """What can be corrected: BatchNorms, or where there are none the compressed layers' biases."""
    own = dict(dense.named_modules())

    def same(name: str, module: nn.Module) -> nn.Module:
        found: nn.Module | None = own.get(name)
        if found is None or not isinstance(module, type(found)):  # a parametrized class derives from its own
            raise TenreoError(
                f"statistics: the dense model has no {type(module).__name__} {name!r}; give the same model"
            )
        return found

    norms = [MatchedBatchNorm(n, m, same(n, m)) for n, m in model.named_modules() if is_batchnorm(m)]
    if norms:
        return norms
    biased = (c for c in curves(model) if c.tensor == "weight" and isinstance(getattr(c.layer, "bias", None), Tensor))
    return [MatchedBias(c.name, c.layer, same(c.name, c.layer), bias_share) for c in biased]


def _correct(
    models: Sequence[nn.Module],
    layers: Sequence[CorrectedLayer],
    images: Any,
    source: str,
    forward: Forward | None,
    progress: Callable[[int], None] | None,
) -> Correction:
    """Send the batches through the models, one after the other, then correct every layer by what it saw."""
    seen = 0
    with ExitStack() as stack:
        for handle in (handle for layer in layers for handle in layer.hooks()):
            stack.callback(handle.remove)
        stack.enter_context(_evaluating(models))
        for batch in batches_of(images):
            for model in models:
                run(model, batch, forward)
            for layer in layers:
                layer.calls.clear()
            seen += image_count(batch)
            if progress is not None:
                progress(image_count(batch))
    if not seen:
        raise TenreoError(f"statistics: {source} held no batch; an iterator gives its batches only once")
    with torch.no_grad():
        for layer in layers:
            layer.correct_()
    done = sum(layer.seen is not None for layer in layers)
    norms = done if is_batchnorm(layers[0].module) else 0
    return Correction(source, seen, norms, done - norms, _note(layers))


@contextmanager
def _evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the context the models are in evaluation mode, without gradients, and decode each weight once."""
    modes = [(m, m.training) for model in models for m in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad(), parametrize.cached():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _note(layers: Sequence[CorrectedLayer]) -> str:
    """What was not corrected, or not entirely."""
    notes = []
    missed = [layer.name for layer in layers if layer.seen is None]
    if missed:
        notes.append(f"{len(missed)} not reached: {', '.join(missed[:3])}{', ...' if missed[3:] else ''}")
    shares = [layer.shares for layer in layers if isinstance(layer, CalibratedBatchNorm) and layer.seen is not None]
    if shares:
        mean, var = (100 * sum(share) / len(shares) for share in zip(*shares, strict=True))
        notes.append(f"moved by {mean:.0f} % of what the means say, {var:.0f} % of the variances")
    return "; ".join(notes)

"""Correction of a compressed model's statistics without labels: `match_statistics_` and `calibrate_`.

Decoded weights are attenuated and noisy, so the running statistics of the following BatchNorm no longer fit its input,
and the mismatch grows from layer to layer. Both functions run the model on batches, measure the input of every
BatchNorm, and correct its running statistics by the formulas in `tenreo.correction.corrected_layers`. They run copies
that share the tensors of the models, because other threads may use the same dense model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.compression.parametrization import curves
from tenreo.compression.serialization import round_dense_
from tenreo.correction.comparison import harm_of_correction
from tenreo.correction.corrected_layers import CalibratedBatchNorm, CorrectedLayer, MatchedBatchNorm, MatchedBias
from tenreo.correction.noise import noise_batch
from tenreo.correction.run_model import Forward, batches_of, image_count, run_batch
from tenreo.devices import public_function
from tenreo.errors import TenreoError
from tenreo.files.records import Correction
from tenreo.modules.copies import in_use, sharing_copy
from tenreo.modules.inference_tensors import make_trainable_
from tenreo.modules.layer_types import is_batchnorm
from tenreo.modules.ties import check_has_values
from tenreo.modules.wrappers import unwrapped

_NOISE_BIAS_STRENGTH = 0.5  # on noise, full correction of biases can do harm: docs/research/statistics.md, section 4
_COMPARED = 256  # number of images on which the outputs are compared with and without the correction


@public_function()
def match_statistics_(
    compressed: nn.Module,
    dense: nn.Module,
    images: Any = None,
    *,
    size: int | tuple[int, ...] | None = None,
    seed: int = 0,
    source: str | None = None,
    forward: Forward | None = None,
    progress: Callable[[int], None] | None = None,
) -> Correction:
    """Correct the statistics of a compressed model in place by comparing it with the dense model.

    The BatchNorms are corrected or, in a model without any, the biases of the compressed layers. No images are needed:
    by default both models run on noise. If the outputs on the same images move away from those of the dense model,
    nothing is corrected.

    >>> import copy
    >>> from tenreo import Recipe, Uniform, compress_
    >>> layers = nn.Conv2d(3, 64, 4, 4), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64)
    >>> dense = nn.Sequential(*layers).eval()
    >>> model = copy.deepcopy(dense)
    >>> _ = compress_(model, Recipe(4, Uniform(4.0)))
    >>> print(match_statistics_(model, dense, size=32))
    2 BatchNorms, on 512 images of noise

    Args:
        compressed: compressed model, on any device, in either mode.
        dense: the same model before compression, on the same device; it is not changed.
        images: a tensor (batch, channels, height, width), or an iterable of batches: tensors, (images, labels)
            pairs, dictionaries of arguments, or lists of images; None generates a batch of noise.
        size: side length of the noise in pixels, or its shape (channels, height, width), for videos (channels, frames,
            height, width); None takes it from the model's timm configuration or from torchvision.
        seed: seed of the noise.
        source: description of the images for the report.
        forward: function that runs a model on a batch and returns the outputs, for models that need their inputs in
            another form.
        progress: function that is called after each batch with its number of images.

    Returns:
        The number of corrected BatchNorms and biases; the note names the layers that no batch reached, or says why the
        correction is not applied.

    Raises:
        TenreoError: if the models differ, cannot process the batches, or another thread corrects one of them; nothing
            is then changed.
    """
    compressed, dense = unwrapped(compressed), unwrapped(dense)
    _check_pair(compressed, dense)
    for model in (compressed, dense):
        check_has_values(model)
    strength = 1.0
    if images is None:
        images, source, strength = noise_batch(dense, size, seed), "noise", _NOISE_BIAS_STRENGTH
    run = _Run(images, source or "images", forward, progress)
    with in_use(compressed, dense):
        make_trainable_(compressed)
        return _match(compressed, dense, strength, run)


@public_function()
def calibrate_(
    model: nn.Module,
    images: Any,
    *,
    source: str | None = None,
    forward: Forward | None = None,
    progress: Callable[[int], None] | None = None,
) -> Correction:
    """Move a model's BatchNorm statistics in place towards their averages on unlabeled images.

    If the dense model is available, `match_statistics_` needs far fewer images.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> calibrate_(model, [torch.randn(4, 3, 8, 8)], source="pictures").batchnorms
    1

    Args:
        model: compressed or dense model, on any device, in either mode.
        images: a tensor or an iterable of batches, as for `match_statistics_`; several hundred images, in batches of
            at least 64.
        source: description of the images for the report.
        forward: function that runs a model on a batch, for models that need their inputs in another form.
        progress: function that is called after each batch with its number of images.

    Returns:
        The number of corrected BatchNorms; the note contains how far the statistics moved towards the averages.

    Raises:
        TenreoError: if the model cannot process the batches, or another thread corrects it; it is then unchanged.
    """
    run, model = _Run(images, source or "images", forward, progress), unwrapped(model)
    check_has_values(model)
    with in_use(model):
        make_trainable_(model)
        copy = sharing_copy(model)
        layers = [CalibratedBatchNorm(name, m) for name, m in copy.named_modules() if is_batchnorm(m)]
        if not layers:
            return Correction(run.source, 0, 0, 0, "no BatchNorm")
        with _evaluating(copy):
            total, _ = _measure([copy], layers, run)
        return _apply(model, layers, run.source, total)


@dataclass(frozen=True)
class _Run:
    """Batches to run models on, their description, and how to run a model on a batch."""

    images: Any
    source: str
    forward: Forward | None
    progress: Callable[[int], None] | None


def _check_pair(compressed: nn.Module, dense: nn.Module) -> None:
    """Raise if the two models are the same object, or the second one is compressed."""
    if compressed is dense:
        raise TenreoError(
            "statistics: the compressed model and the dense model are the same object; pass a copy that was made "
            "before compressing"
        )
    name = next((curve.name for curve in curves(dense)), None)
    if name is not None:
        swapped = "" if any(curves(compressed)) else ", and the first has none, so the arguments are swapped"
        raise TenreoError(
            f"statistics: the second model has a compressed layer {name!r}{swapped}; call "
            "match_statistics_(compressed, dense) with the dense model as it was before compressing"
        )


def _match(compressed: nn.Module, dense: nn.Module, strength: float, run: _Run) -> Correction:
    """Measure both models, and correct the compressed one if that does no harm to its outputs."""
    small, reference, corrected = sharing_copy(compressed), sharing_copy(dense), sharing_copy(compressed)
    layers = _matched_layers(small, reference, strength)
    if not layers:
        return Correction(run.source, 0, 0, 0, "no BatchNorm, and no compressed layer with a bias")
    with _evaluating(reference, small, corrected):
        # The dense model runs first, because each call of a compressed layer is compared with the dense layer's.
        total, batches = _measure([reference, small], layers, run)
        _set_corrected_(corrected, layers)
        harm = harm_of_correction(reference, small, corrected, batches, run.forward)
    if harm:
        return Correction(run.source, total, 0, 0, f"the correction is not applied, because {harm}")
    return _apply(compressed, layers, run.source, total)


def _matched_layers(model: nn.Module, dense: nn.Module, bias_strength: float) -> Sequence[CorrectedLayer]:
    """Return the BatchNorms or, if there are none, the compressed layers that have a bias."""
    dense_modules = dict(dense.named_modules())

    def counterpart(name: str, module: nn.Module) -> nn.Module:
        """Return the module of the dense model with a name."""
        other: nn.Module | None = dense_modules.get(name)
        if other is None or not isinstance(module, type(other)):  # a parametrized layer's class is a subclass
            raise TenreoError(
                f"statistics: the dense model has no {type(module).__name__} named {name!r}; pass the model that was "
                "compressed"
            )
        return other

    norms = [MatchedBatchNorm(n, m, counterpart(n, m)) for n, m in model.named_modules() if is_batchnorm(m)]
    if norms:
        return norms
    biased = (c for c in curves(model) if c.tensor == "weight" and isinstance(getattr(c.layer, "bias", None), Tensor))
    return [MatchedBias(c.name, c.layer, counterpart(c.name, c.layer), bias_strength) for c in biased]


def _measure(models: Sequence[nn.Module], layers: Sequence[CorrectedLayer], run: _Run) -> tuple[int, list[Any]]:
    """Run the models one after the other on every batch, and measure the layers.

    Returns:
        The number of images, and the batches of the first `_COMPARED` images; only tensors are cut to this number.
    """
    total, kept = 0, []
    with ExitStack() as stack:
        for handle in (handle for layer in layers for handle in layer.register_hooks()):
            stack.callback(handle.remove)
        for batch in batches_of(run.images):
            for model in models:
                run_batch(model, batch, run.forward)
            for layer in layers:
                layer.dense_calls.clear()
            if total < _COMPARED:
                kept.append(batch[: _COMPARED - total] if isinstance(batch, Tensor) else batch)
            total += image_count(batch)
            if run.progress is not None:
                run.progress(image_count(batch))
    if not total:
        raise TenreoError(f"statistics: {run.source} contained no batch; note that an iterator can be used only once")
    return total, kept


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    """Set copies of models to evaluation mode, in which every weight is decoded once, and disable gradients inside."""
    for module in (module for model in models for module in model.modules()):
        module.training = False
    with torch.no_grad():
        yield


def _set_corrected_(model: nn.Module, layers: Sequence[CorrectedLayer]) -> None:
    """Replace the tensors of a model's layers by the corrected ones."""
    for layer in layers:
        module = model.get_submodule(layer.name)
        for name, value in layer.corrected().items():
            is_parameter = isinstance(getattr(module, name), nn.Parameter)
            setattr(module, name, nn.Parameter(value, requires_grad=False) if is_parameter else value)


def _apply(model: nn.Module, layers: Sequence[CorrectedLayer], source: str, total: int) -> Correction:
    """Write the corrected values into the tensors of a model, and describe the correction."""
    with torch.no_grad():
        for layer in layers:
            for name, value in layer.corrected().items():
                getattr(model.get_submodule(layer.name), name).copy_(value)
    round_dense_(model)
    corrected = sum(layer.moments is not None for layer in layers)
    norms = corrected if is_batchnorm(layers[0].module) else 0
    return Correction(source, total, norms, corrected - norms, _note(layers))


def _note(layers: Sequence[CorrectedLayer]) -> str:
    """Describe the layers that no batch reached, and how far calibrated statistics moved."""
    notes = []
    missed = [layer.name for layer in layers if layer.moments is None]
    if missed:
        notes.append(f"{len(missed)} not reached: {', '.join(missed[:3])}{', ...' if missed[3:] else ''}")
    fractions = [x.shrinkage for x in layers if isinstance(x, CalibratedBatchNorm) and x.moments is not None]
    if fractions:
        mean, var = (100 * sum(values) / len(values) for values in zip(*fractions, strict=True))
        notes.append(f"moved by {mean:.0f} % of what the means say, {var:.0f} % of the variances")
    return "; ".join(notes)

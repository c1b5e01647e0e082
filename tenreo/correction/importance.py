"""Importance of the layers: how much an error of a layer's weight changes the outputs of the model.

For a small error e of a weight, the outputs change by J e, where J holds the derivatives of the outputs. If the
elements of e are independent and have the variance d, the squared change is on average d |J|^2. With random signs s,
the gradient of s * outputs has on average the squared norm |J|^2, so that one backward pass measures all layers.

Errors of several layers add up in ways that this does not see, and the correction of the statistics removes a part of
them, more in some layers than in others. The square root of the ratio is the better factor (docs/research/size.md).
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tenreo.correction.noise import noise_batch, use_batch_statistics_
from tenreo.correction.run_model import Forward, batches_of, image_count, run_batch
from tenreo.devices import public_function
from tenreo.errors import TenreoError, raise_if_out_of_memory
from tenreo.modules.copies import in_use, sharing_copy
from tenreo.modules.ties import check_has_values
from tenreo.modules.weights import find_weights
from tenreo.modules.wrappers import unwrapped
from tenreo.planning.layers import find_layers
from tenreo.planning.recipe import Recipe, check_recipe
from tenreo.planning.rules import rule_for, traits_of_model

_POWER = 0.5  # of the ratio of squared errors
_IMAGES = 32  # number that is measured; the gradients of thousands of weights are averaged as well
_AT_ONCE = 8  # images of one backward pass, which bounds the memory
_RANGE = 1e3  # factors beyond this range, in either direction, would leave a layer without bits or with all of them


@public_function()
def measure_importance(
    recipe: Recipe,
    model: nn.Module,
    images: Any = None,
    *,
    size: int | tuple[int, ...] | None = None,
    seed: int = 0,
    forward: Forward | None = None,
) -> Recipe:
    """Return a recipe in which the layers have the importance that is measured on a dense model.

    With a target size, bytes then go to the layers whose errors change the outputs most. No images are needed: by
    default the model runs on noise, with BatchNorms that use the statistics of the noise.

    >>> from tenreo import TargetSize
    >>> model = nn.Sequential(nn.Conv2d(3, 64, 4, 4), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 1)).eval()
    >>> list(measure_importance(Recipe(None, TargetSize(8000)), model, size=32).importance)
    ['2', '3']

    Args:
        recipe: recipe of the compression. Its own patterns of importance replace measured values.
        model: dense model, on any device, in either mode; it is not changed.
        images: batches as for `match_statistics_`, of which the first 32 images are used; None generates noise.
        size: side length of the noise in pixels, or its shape, as for `match_statistics_`.
        seed: seed of the noise and of the random signs.
        forward: function that runs a model on a batch and returns the outputs, for models that need their inputs in
            another form.

    Returns:
        The recipe, with a factor for every weight that it compresses and that the outputs depend on. The geometric
        mean of the factors is 1. The same recipe if it compresses fewer than two weights.

    Raises:
        TenreoError: if the model cannot process the batches, or its outputs have no derivatives.
    """
    check_recipe(recipe)
    model = unwrapped(model)
    check_has_values(model)
    layers = find_layers(recipe, traits_of_model(model), rule_for(model))
    chosen = {layer.name for layer in layers if not layer.why_dense}
    if len(chosen) < 2:  # only ratios between layers count
        return recipe
    noise = images is None
    batches = noise_batch(model, size, seed) if noise else batches_of(images)
    generator = torch.Generator("cpu").manual_seed(seed)
    with in_use(model), torch.inference_mode(False), torch.enable_grad():
        copy = sharing_copy(model).eval()
        if noise:
            use_batch_statistics_(copy)
        weights = _trainable_weights_(copy, chosen)
        ratios = dict.fromkeys(weights, 0.0)
        for part in _parts(batches):
            gradients = _squared_gradients(run_batch(copy, part, forward), list(weights.values()), generator)
            ratios = {name: ratio + g for (name, ratio), g in zip(ratios.items(), gradients, strict=True)}
    return replace(recipe, importance=importance_of(ratios) | recipe.importance)


def _trainable_weights_(model: nn.Module, chosen: Container[str]) -> dict[str, Tensor]:
    """Replace the chosen weights of a copy of a model by parameters that have gradients; return them by layer."""
    weights: dict[str, Tensor] = {}
    for name, weight in find_weights(model).items():
        if name in chosen:
            weights[name] = nn.Parameter(weight.value.clone())
            setattr(weight.module, weight.tensor, weights[name])
    return weights


def _parts(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the first images in parts that are measured one after another; only tensors can be divided."""
    left = _IMAGES
    for batch in batches:
        for part in torch.split(batch[:left], _AT_ONCE) if isinstance(batch, Tensor) else [batch]:
            yield part
            left -= image_count(part)
        if left <= 0:
            return


def _squared_gradients(outputs: Any, weights: Sequence[Tensor], generator: torch.Generator) -> list[float]:
    """Return the mean squared gradient of each weight, for outputs with random signs."""
    results = [x for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.requires_grad]
    if not results:
        raise TenreoError("importance: the outputs of the model have no derivatives; leave the measurement out")
    signs = [(torch.randint(0, 2, x.shape, generator=generator) * 2 - 1).to(x) for x in results]
    try:
        gradients = torch.autograd.grad(results, weights, signs, allow_unused=True)
    except RuntimeError as error:
        raise_if_out_of_memory(error)
        raise TenreoError(f"importance: the outputs of the model have no derivatives: {error}") from error
    return [0.0 if g is None else g.double().square().mean().item() for g in gradients]


def importance_of(ratios: Mapping[str, float]) -> dict[str, float]:
    """Return the importance of layers, rounded to two digits; the geometric mean of all is 1.

    >>> importance_of({"first": 16.0, "second": 1.0})
    {'first': 2.0, 'second': 0.5}

    Args:
        ratios: change of the outputs per squared error of the weight, by layer; layers without one are left out.
    """
    known = {name: math.log(value) for name, value in ratios.items() if 0 < value < math.inf}
    mean = sum(known.values()) / max(1, len(known))
    factors = {name: math.exp(_POWER * (value - mean)) for name, value in known.items()}
    return {name: float(f"{min(max(factor, 1 / _RANGE), _RANGE):.2g}") for name, factor in factors.items()}

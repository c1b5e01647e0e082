"""Compressing to an accuracy: the smallest file whose outputs are near enough to those of the dense model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tenreo.compression.compress_model import compress_
from tenreo.compression.report import Report
from tenreo.correction.noise import noise_images
from tenreo.correction.statistics import match_statistics_
from tenreo.errors import TenreoError
from tenreo.evaluation.agreement import Agreement, compare
from tenreo.files.records import Correction
from tenreo.models.inputs import input_shape
from tenreo.planning.bisection import bisect
from tenreo.planning.plan import Plan, resolve
from tenreo.planning.rates import OutputTarget, TargetKl
from tenreo.planning.recipe import Recipe

_FINEST = math.log(4) * 0.1  # of the logarithm of the price: a tenth of a bit per weight
_WIDEST = math.log(4) * 12  # from where the search begins
_NOISE = 64  # images to judge by, where there are no others
_NOISE_SEED = 1  # not that of the noise that statistics are matched on
_BATCH = 32


@dataclass(frozen=True)
class Reached:
    """What was found.

    Attributes:
        plan: with the price that was found.
        report: of the compression.
        correction: of the statistics.
        agreement: of the outputs with those of the dense model.
        judged_on: images that the outputs were compared on, in words.
    """

    plan: Plan
    report: Report
    correction: Correction
    agreement: Agreement
    judged_on: str


def compress_to_(
    model: nn.Module,
    recipe: Recipe | Plan,
    images: Tensor | None = None,
    *,
    size: int | tuple[int, ...] | None = None,
    jobs: int | None = None,
    source: str = "images",
    progress: Callable[[str], None] = lambda text: None,
) -> Reached:
    """Compress a model in place, as far as the outputs stay as near to those of the dense model as the recipe says.

    Statistics are matched after each trial, as they will be in use.

    Args:
        model: a classifier, dense, in evaluation mode.
        recipe: with the rate `TargetKl` or `TargetAgreement`.
        images: (batch, channels, height, width), to match statistics on and to compare outputs on; None takes noise for
            both, which says less.
        size: side in pixels of the noise.
        jobs: layers encoded at a time.
        source: what the images are, for the report.
        progress: is told of every trial.

    Raises:
        TenreoError: as `resolve`, and when not even the finest encoding reaches the target.
    """
    plan = recipe if isinstance(recipe, Plan) else resolve(recipe, model)
    if not isinstance(plan.recipe.rate, OutputTarget):
        raise TenreoError(f"target: given {plan.recipe}, needs TargetKl or TargetAgreement")
    dense = deepcopy(model).eval()
    shown = noise_images(_NOISE, *_channels_and_size(model, size), seed=_NOISE_SEED) if images is None else images
    shown = shown.to(next(model.parameters()))

    def trial(network: nn.Module, price: float) -> tuple[Report, Correction, Agreement]:
        report = compress_(network, replace(plan, price=price), jobs=jobs)
        correction = match_statistics_(network, dense, images, size=size, source=source)
        found = compare(network, dense, _Unlabeled(shown))
        progress(f"{report.after.bits_per_weight or 0:.2f} bits per weight: KL {found.kl:.4f}, {found.agreement:.1f} %")
        return report, correction, found

    price = _cheapest(lambda price: _holds(plan.recipe, trial(deepcopy(dense), price)[2]), plan.price)
    report, correction, agreement = trial(model.eval(), price)
    where = f"{len(shown)} images of {'noise' if images is None else source}"
    return Reached(replace(plan, price=price), report, correction, agreement, where)


def _channels_and_size(model: nn.Module, size: int | tuple[int, ...] | None) -> tuple[int, int]:
    shape = input_shape(model, size)
    return shape[0], shape[-1]


def _holds(recipe: Recipe, found: Agreement) -> bool:
    rate = recipe.rate
    return found.kl <= rate.kl if isinstance(rate, TargetKl) else found.agreement >= rate.number


def _cheapest(holds: Callable[[float], bool], start: float) -> float:
    """The highest price of a bit at which a target holds, to a tenth of a bit per weight.

    Raises:
        TenreoError: when it holds at none.
    """
    first, step = math.log(start), math.log(4)
    good, bad = (first, math.inf) if holds(start) else (-math.inf, first)
    while not (math.isfinite(good) and math.isfinite(bad)):
        trial = good + step if bad == math.inf else bad - step
        if abs(trial - first) > _WIDEST:
            break
        good, bad = (trial, bad) if holds(math.exp(trial)) else (good, trial)
        step *= 1.5
    if good == -math.inf:
        raise TenreoError("target: not even the finest encoding reaches it; ask for less")
    if bad < math.inf:
        good = bisect(lambda log_price: holds(math.exp(log_price)), bad, good, tolerance=_FINEST)
    return math.exp(good)


class _Unlabeled:
    """Images in batches, as `compare` takes them, without labels."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.device = images, images.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in torch.split(self.images, _BATCH):
            yield batch, torch.full((len(batch),), -1, device=batch.device)

"""Compression to a target accuracy: the smallest file whose outputs agree well enough with the dense model's."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tenreo.compression.compress_model import compress_
from tenreo.compression.report import Report
from tenreo.correction.noise import noise_images
from tenreo.correction.statistics import match_statistics_
from tenreo.devices import public_function
from tenreo.errors import TenreoError, shown
from tenreo.evaluation.agreement import Agreement, compare
from tenreo.files.records import Correction
from tenreo.models.inputs import input_shape
from tenreo.modules.wrappers import unwrapped
from tenreo.planning.bisection import bisect
from tenreo.planning.plan import Plan, resolve
from tenreo.planning.rates import OutputTarget, TargetKl
from tenreo.planning.recipe import Recipe

_LOG_PRICE_OF_BIT = math.log(4)  # one bit per weight divides the squared error, and so the price, by four
_TOLERANCE = 0.1 * _LOG_PRICE_OF_BIT
_MAX_DISTANCE = 12 * _LOG_PRICE_OF_BIT  # from the first price
_NOISE_IMAGES = 64  # number of noise images to compare outputs on if no images are given
_NOISE_SEED = 1  # differs from the seed of the noise that statistics are matched on
_BATCH_SIZE = 32


@dataclass(frozen=True)
class TargetResult:
    """Result of compressing to a target accuracy.

    Attributes:
        plan: plan with the price that reaches the target.
        report: report of the compression.
        correction: correction of the statistics.
        agreement: agreement of the outputs with those of the dense model.
        compared_on: number and kind of the images that the outputs were compared on, for messages.
    """

    plan: Plan
    report: Report
    correction: Correction
    agreement: Agreement
    compared_on: str


@public_function()
def compress_to_(
    model: nn.Module,
    recipe: Recipe | Plan,
    images: Tensor | None = None,
    *,
    size: int | tuple[int, ...] | None = None,
    jobs: int | None = None,
    source: str = "images",
    progress: Callable[[str], None] | None = None,
) -> TargetResult:
    """Compress a model in place as far as its outputs still meet the recipe's target.

    Statistics are corrected in every trial, so that the outputs are those of the finished file.

    Args:
        model: dense classifier in evaluation mode.
        recipe: recipe or plan with the rate `TargetKl` or `TargetAgreement`.
        images: images (batch, channels, height, width) to match statistics and to compare outputs on; None uses noise
            for both, which predicts the agreement on real images less reliably.
        size: side in pixels, or shape, of the noise images.
        jobs: number of layers that are encoded at the same time.
        source: kind of the images, for the report.
        progress: function that is called with a line of text after every trial.

    Returns:
        The plan and the report of the smallest model that meets the target, and its agreement with the dense model.

    Raises:
        TenreoError: as in `resolve`, and if even the finest encoding does not reach the target.
    """
    plan = recipe if isinstance(recipe, Plan) else resolve(recipe, model)
    rate = plan.recipe.rate
    if not isinstance(rate, OutputTarget):
        raise TenreoError(f"target: given {plan.recipe}, needs TargetKl or TargetAgreement")
    dense, inputs = deepcopy(model).eval(), _inputs(model, images, size)
    batches = torch.split(inputs, _BATCH_SIZE)

    def trial(network: nn.Module, price: float) -> tuple[Report, Correction, Agreement]:
        """Compress, correct and compare a network at a price."""
        report = compress_(network, replace(plan, price=price), jobs=jobs)
        correction = match_statistics_(network, dense, images, size=size, source=source)
        agreement = compare(network, dense, batches)
        if progress is not None:
            bits = report.after.bits_per_weight or 0
            progress(f"{bits:.2f} bits per weight: KL {agreement.kl:.4f}, {agreement.agreement:.1f} %")
        return report, correction, agreement

    def holds(price: float) -> bool:
        agreement = trial(deepcopy(dense), price)[2]
        return agreement.kl <= rate.kl if isinstance(rate, TargetKl) else agreement.agreement >= rate.number

    price = _highest_price(holds, plan.price)
    report, correction, agreement = trial(model.eval(), price)
    compared_on = f"{len(inputs)} images of {'noise' if images is None else source}"
    return TargetResult(replace(plan, price=price), report, correction, agreement, compared_on)


def _inputs(model: nn.Module, images: Tensor | None, size: int | tuple[int, ...] | None) -> Tensor:
    """Return images, or noise, with the device and dtype of a model."""
    if not isinstance(images, Tensor | None):
        raise TenreoError(f"images: given {shown(images)}, needs a tensor (batch, channels, height, width), or None")
    if images is None:
        channels, *_, side = input_shape(unwrapped(model), size)
        images = noise_images(_NOISE_IMAGES, channels, side, seed=_NOISE_SEED)
    return images.to(next(model.parameters()))


def _highest_price(holds: Callable[[float], bool], start: float) -> float:
    """Return the highest price per bit at which a target holds, to a tenth of a bit per weight.

    Args:
        holds: whether the target holds at a price; true up to some price.
        start: first price to try. Growing steps from there bracket the boundary, which bisection then narrows.

    Raises:
        TenreoError: when the target holds at no price.
    """
    first, step = math.log(start), _LOG_PRICE_OF_BIT
    good, bad = (first, math.inf) if holds(start) else (-math.inf, first)
    while not (math.isfinite(good) and math.isfinite(bad)):
        trial = good + step if bad == math.inf else bad - step
        if abs(trial - first) > _MAX_DISTANCE:
            break
        good, bad = (trial, bad) if holds(math.exp(trial)) else (good, trial)
        step *= 1.5
    if good == -math.inf:
        raise TenreoError("target: not even the finest encoding reaches it; ask for less")
    if bad < math.inf:
        good = bisect(lambda log_price: holds(math.exp(log_price)), bad, good, tolerance=_TOLERANCE)
    return math.exp(good)

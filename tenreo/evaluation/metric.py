"""A measure of a model's outputs that the user defines."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tenreo.correction.run_model import image_count, run_batch
from tenreo.errors import TenreoError, raise_if_out_of_memory
from tenreo.modules.copies import evaluating

_RESAMPLES = 1000  # of the bootstrap

Metric = Callable[[Any, Any], Any]  # (outputs, batch) -> one number per example, or one number


@dataclass(frozen=True)
class Measurement:
    """A metric of one model.

    Attributes:
        value: mean over the examples.
        interval: 95 % confidence interval of the mean, by bootstrap.
        examples: number of examples.
    """

    value: float
    interval: tuple[float, float]
    examples: int

    def to_dict(self) -> dict[str, Any]:
        """Return values that can be written as JSON."""
        return {**asdict(self), "interval": list(self.interval)}


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    metric: Metric,
    name: str,
    *,
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Return the mean of a metric over all examples.

    Args:
        model: model in either mode.
        batches: batches as for `match_statistics_`; they may contain more than the model takes, such as targets.
        metric: function of the outputs of the model and of the batch, which returns one number per example, or one for
            the batch.
        name: name of the metric for messages.
        progress: function that is called with the number of examples of every batch.

    Raises:
        TenreoError: if the model or the metric fails on a batch, or the metric returns anything else.
    """
    model = evaluating(model)
    values, weights = [], []
    with torch.no_grad():
        for batch in batches:
            count = image_count(batch)
            numbers = _numbers(metric, name, run_batch(model, batch), batch)
            values.append(numbers)
            weights.append(np.full(len(numbers), count / len(numbers)))
            if progress is not None:
                progress(count)
    if not values:
        raise TenreoError("inputs: there is no batch to evaluate on; give at least one")
    value, weight = np.concatenate(values), np.concatenate(weights)
    return Measurement(float(np.average(value, weights=weight)), bootstrap_interval(value, weight), round(weight.sum()))


def bootstrap_interval(values: Any, weights: Any) -> tuple[float, float]:
    """Return the 95 % percentile interval of a weighted mean (B. Efron, Annals of Statistics 7, 1979, 1-26).

    >>> bootstrap_interval(np.ones(5), np.ones(5))
    (1.0, 1.0)

    Args:
        values: (n,) one number per example or batch.
        weights: (n,) their numbers of examples.
    """
    generator, means = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        drawn = generator.integers(0, len(values), len(values))
        means.append(np.average(values[drawn], weights=weights[drawn]))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _numbers(metric: Metric, name: str, outputs: Any, batch: Any) -> Any:
    """Return what a metric says about a batch, as an array of finite numbers."""
    try:
        result = metric(outputs, batch)
        values = np.asarray(result.detach().cpu() if isinstance(result, Tensor) else result, dtype=np.float64).ravel()
    except Exception as error:  # the function is the user's
        raise_if_out_of_memory(error)
        raise TenreoError(
            f"metric: {name} fails: {type(error).__name__}: {error}; it is called as metric(outputs, batch)"
        ) from error
    if len(values) not in (1, image_count(batch)) or not np.isfinite(values).all():
        raise TenreoError(f"metric: {name} returned {len(values)} numbers, needs a finite one per example, or one")
    return values

"""A recipe for the bytes of an analyzed model, tried by compressing the dense model with it."""

from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from tenreo.cli.run.compression import Compression
from tenreo.cli.terminal.console import note
from tenreo.cli.terminal.tables import precise
from tenreo.errors import TenreoError
from tenreo.evaluation.analysis import Analysis
from tenreo.evaluation.sensitivity import compare_outputs
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.models.names import is_safe
from tenreo.planning.recipe_yaml import recipe_yaml
from tenreo.sizes import byte_count


class Pair(NamedTuple):
    """A compressed model, its dense model, and their description."""

    name: str  # path of the file, or name of the model
    compressed: nn.Module
    dense: nn.Module
    info: ModelInfo
    weights: str | None  # of the dense model: a path or a name
    bytes: int | None  # of the file, if there is one


class Trial(NamedTuple):
    """A recipe of as many bytes as an analyzed model, and what it led to."""

    yaml: str
    analysis: Analysis  # of the model that was to become better
    bytes: int
    kl: float  # on the same inputs, nats

    @property
    def helps(self) -> bool:
        """Whether the outputs came nearer to those of the dense model."""
        return self.kl < self.analysis.whole.kl

    def __str__(self) -> str:
        before = self.analysis
        return (
            f"KL {precise(self.kl)} nats at {byte_count(self.bytes)}, instead of {precise(before.whole.kl)} at "
            f"{byte_count(before.bytes_after)}, on {before.compared_on}"
        )


def try_better(result: Analysis, pair: Pair, job: Compression, images: Any) -> Trial | None:
    """Compress a copy of the dense model with the better recipe of an analysis, and measure its outputs.

    Args:
        result: the analysis.
        pair: the models that were analyzed.
        job: compression whose statistics are corrected as those of the analyzed model; its model is replaced.
        images: batches of the analysis; None for noise.

    Returns:
        The trial; None, after a note with the reason, if there is no other recipe.
    """
    try:
        recipe = result.better_recipe()
        job = replace(job, model=deepcopy(pair.dense))
        done = job.compress_(job.plan(recipe))
    except TenreoError as error:
        note(f"no other recipe was tried: {error}")
        return None
    found = compare_outputs(done.model, pair.dense, images, size=job.noise)
    return Trial(_yaml(result, pair), result, done.report.after.bytes, found.kl)


def _yaml(result: Analysis, pair: Pair) -> str:
    """Return a YAML file for `tenreo compress --config`: the same model and bytes, with measured importance."""
    info, model = pair.info, {}
    model["arch" if info.arch else "model"] = info.arch or info.builder
    if pair.weights is not None:
        model["weights"] = pair.weights
    if info.builder is not None and not is_safe(info.builder) and info.preprocess != Preprocess():
        crop = info.preprocess.crop
        model |= {
            "input": f"{info.preprocess.channels}x{crop}x{crop}",
            "mean": ",".join(map(str, info.preprocess.mean)), "std": ",".join(map(str, info.preprocess.std)),
        }  # fmt: skip
    return recipe_yaml(result.better_recipe(), {**model, "measure_importance": False})

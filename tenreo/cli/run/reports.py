"""Analysis of a compressed model next to its dense model, for `analyze` and for the pages of other commands."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from tenreo.cli.terminal.console import note
from tenreo.cli.terminal.page import Part, write_page
from tenreo.cli.terminal.progress import progress_bar
from tenreo.compression.parametrization import curves
from tenreo.correction.run_model import image_count
from tenreo.errors import TenreoError
from tenreo.evaluation.analysis import Analysis
from tenreo.evaluation.sensitivity import analyze
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.models.names import is_safe
from tenreo.planning.recipe_yaml import recipe_yaml

ANALYZED = 64  # of the images or inputs of a command that every layer is measured on


class Pair(NamedTuple):
    """A compressed model, its dense model, and their description."""

    name: str  # path of the file, or name of the model
    compressed: nn.Module
    dense: nn.Module
    info: ModelInfo
    weights: str | None  # of the dense model: a path or a name
    bytes: int | None  # of the file, if there is one


def analyze_with_progress(
    pair: Pair, device: torch.device, images: Any, size: int | tuple[int, ...], source: str | None
) -> Analysis:
    """Analyze a pair of models on a device, with a progress bar."""
    small, large = pair.compressed.to(device), pair.dense.to(device)
    total = 2 * sum(1 for _ in curves(small))
    with progress_bar("measurements", total) as advance:
        result = analyze(
            small, large, images, size=size, info=pair.info, source=source or "images",
            progress=lambda name: advance(1, name),
        )  # fmt: skip
    return result if pair.bytes is None else replace(result, bytes_after=pair.bytes)


def check_classifier(name: object, info: ModelInfo) -> None:
    """Raise TenreoError unless a model takes images and returns one number per image and class."""
    if info.classes is None:
        raise TenreoError(
            f"{name}: the model does not take images, or its outputs are not one number per image and class; analyze "
            "it in Python: tenreo.analyze(compressed, dense, inputs, forward=...)"
        )


def first_examples(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the first batches, until they have 64 examples."""
    left = ANALYZED
    for batch in batches:
        yield batch
        left -= image_count(batch)
        if left <= 0:
            return


def part_of_page(title: str, result: Analysis, pair: Pair) -> Part:
    """Return what a page says about one compressed model."""
    harms = any(layer.alone.kl > 0 for layer in result.layers)
    return Part(title, result, better_yaml(result, pair) if harms else None)


def write_report(path: Path, pair: Pair, device: torch.device, images: Any, size: Any, source: str | None) -> None:
    """Analyze a compressed model, and write the page.

    Args:
        path: path of the HTML page.
        pair: the compressed model and its dense model.
        device: device to run both on.
        images: batches of images or inputs, of which the first 64 examples are used; None for noise.
        size: side or shape of the noise.
        source: description of the images for the page.
    """
    batches = None if images is None else list(first_examples(images))
    result = analyze_with_progress(pair, device, batches, size, source)
    write_page(path, pair.name, [part_of_page("", result, pair)])
    note(f"wrote {path}")


def better_yaml(result: Analysis, pair: Pair) -> str:
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

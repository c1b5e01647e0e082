"""Analysis of a compressed model next to its dense model, for `analyze` and for the pages of other commands."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tenreo.cli.run.better import Pair, Trial, try_better
from tenreo.cli.run.compression import Compression
from tenreo.cli.terminal.console import note
from tenreo.cli.terminal.page import Part, write_page
from tenreo.cli.terminal.progress import progress_bar
from tenreo.compression.parametrization import curves
from tenreo.correction.run_model import image_count
from tenreo.errors import TenreoError
from tenreo.evaluation.analysis import Analysis
from tenreo.evaluation.sensitivity import analyze
from tenreo.files.records import ModelInfo

ANALYZED = 64  # of the images or inputs of a command that every layer is measured on


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


def write_report(path: Path, pair: Pair, job: Compression, device: torch.device) -> None:
    """Analyze a compressed model, try a better recipe, and write the page.

    Args:
        path: path of the HTML page.
        pair: the compressed model and its dense model.
        job: its compression; of its images, the first 64 examples are used.
        device: device to run the models on.
    """
    batches = None if job.images is None else list(first_examples(job.images))
    result = analyze_with_progress(pair, device, batches, job.noise, job.source)
    write_page(path, pair.name, [part_of_page(result, try_better(result, pair, job, batches))])
    note(f"wrote {path}")


def part_of_page(result: Analysis, trial: Trial | None) -> Part:
    """Return what a page says about one compressed model: a better recipe only if it was better when it was tried."""
    if trial is None:
        return Part("", result)
    return Part("", result, trial.yaml if trial.helps else None, str(trial))

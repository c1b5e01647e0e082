"""Body of `tenreo sweep`."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tenreo.cli.commands.sweep import SweepData, SweepOutput
from tenreo.cli.exits import usage
from tenreo.cli.run.better import Pair
from tenreo.cli.run.models import open_model
from tenreo.cli.run.reports import ANALYZED, analyze_with_progress, check_classifier
from tenreo.cli.shared_options import DenseModel, Encoding, Layout, choose_workers
from tenreo.cli.terminal.console import note, note_images, show, show_json
from tenreo.cli.terminal.page import Part, write_page
from tenreo.cli.terminal.pictures import plot_sweep
from tenreo.cli.terminal.progress import progress_bar
from tenreo.cli.terminal.tables import number, table
from tenreo.codec.distortion import finite
from tenreo.compression.compress_model import compress_
from tenreo.compression.layer_encoding import Orders
from tenreo.compression.parametrization import expand_
from tenreo.compression.serialization import written_size
from tenreo.correction.statistics import match_statistics_
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images, open_optionally_labeled
from tenreo.data.label_files import LabelFiles
from tenreo.data.layouts import DIGITS
from tenreo.data.workers import explain_worker_loss
from tenreo.devices import choose_device, explain_out_of_memory
from tenreo.evaluation.agreement import compare
from tenreo.files.counts import Counts
from tenreo.files.records import ModelInfo
from tenreo.planning.plan import Plan, resolve
from tenreo.planning.recipe import Recipe
from tenreo.sizes import byte_count, quantity

Row = dict[str, Any]


def sweep_recipes(
    dense: DenseModel, recipes: list[Recipe], data: SweepData, layout: Layout, encoding: Encoding, output: SweepOutput
) -> None:
    """Compress the model with every recipe and print a row of results for each."""
    with usage():
        device = choose_device(encoding.device, fixed_shapes=True)
    model, info = open_model(dense, values=not output.dry_run)
    if output.dry_run:
        _show(list(_counted(model, recipes)), dense, output.json)
        return
    with usage():
        if output.report is not None:
            check_classifier(dense.name, info)
        images = _images(data, layout, info)
        plans = [resolve(recipe, model, info) for recipe in recipes]  # all checks come before anything slow
    if images is not None and images.doubt:
        note(images.doubt)
    loading = Loading(data.batch_size, choose_workers(None, data.data or DIGITS), data.skip_broken)
    job = _Sweep(dense, model.to(device), info, images, loading, data, encoding.jobs, output.report is not None)
    rows = job.rows(plans)
    note_images(job.broken, job.warned)
    if output.plot is not None:
        plot_sweep(rows, job.name, _rate_in_words(recipes[0]), output.plot)
    if output.report is not None:
        write_page(output.report, job.name, job.parts, _table(rows))
    _show(rows, dense, output.json)
    if output.files:
        note("wrote " + ", ".join(map(str, output.files)))


def _rate_in_words(recipe: Recipe) -> str:
    """Return what the number of a recipe's rate is."""
    return {"uniform": "rate r", "progressive": "growth r'"}.get(recipe.rate.name, recipe.rate.name.replace("_", " "))


def _images(data: SweepData, layout: Layout, info: ModelInfo) -> Images | None:
    """Open the images of `--data`; None without it."""
    if not data.data:
        return None
    images = open_optionally_labeled(
        data.data, info.preprocess, info.classes, info.class_names, split=layout.split,
        label_files=LabelFiles(layout.labels, layout.class_map),
    )  # fmt: skip
    return images.limited(data.limit)


def _counted(model: nn.Module, recipes: list[Recipe]) -> Iterator[Row]:
    """Yield rows of counts without compressing anything; the first row is the dense model."""
    with usage():
        plans = [resolve(recipe, model) for recipe in recipes]
    yield _row(None, plans[0].before, plans[0].before.bytes)
    for plan in plans:
        yield _row(plan.recipe, plan.after, plan.after.bytes)


def _row(recipe: Recipe | None, counts: Counts, size: int, **measured: Any) -> Row:
    setting = {"groups": recipe and recipe.groups, "rate": recipe and recipe.rate.number}
    shown = ("parameters", "paper_trainable", "bits_per_weight")
    return {**setting, **{key: getattr(counts, key) for key in shown}, "bytes": size, **measured}


@dataclass
class _Sweep:
    """A dense model and the settings with which its compressed copies are evaluated."""

    given: DenseModel
    model: nn.Module
    info: ModelInfo
    images: Images | None
    loading: Loading
    data: SweepData
    jobs: int | None
    analyzes: bool  # whether every layer of every setting is measured
    parts: list[Part] = field(default_factory=list)  # of the page
    orders: Orders = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    warned: set[tuple[str, str]] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.given.model or self.given.require_arch()

    def rows(self, plans: list[Plan]) -> list[Row]:
        """Return a row for the dense model, followed by one per plan."""
        size = written_size(self.model, self.info)
        rows = [_row(None, plans[0].before, size, snr=None, **self._measured(self.model))]
        with progress_bar("settings", len(plans)) as advance:
            for plan in plans:
                rows.append(self._compressed(plan))
                advance(1, f"g = {plan.recipe.groups}, {plan.recipe.rate.number:g}")
        return rows

    def _compressed(self, plan: Plan) -> Row:
        small = deepcopy(self.model)
        report = compress_(small, plan, jobs=self.jobs, orders=self.orders)
        size = written_size(small, self.info, plan.recipe)
        if (self.images is not None or self.analyzes) and self.data.match_statistics:
            match_statistics_(small, self.model, size=self.info.preprocess.crop)
        if self.analyzes:
            self.parts.append(self._analyzed(small, plan, size))
        return _row(plan.recipe, report.after, size, snr=finite(report.snr), **self._measured(expand_(small)))

    def _analyzed(self, small: nn.Module, plan: Plan, size: int) -> Part:
        """Measure every layer, on the first images of `--data` or on noise."""
        device: torch.device = next(small.parameters()).device
        batches = None if self.images is None else Batches(self.images.limited(ANALYZED), self.loading, device)
        pair = Pair(self.name, small, self.model, self.info, self.given.weights, size)
        with explain_out_of_memory(self.loading.batch_size), explain_worker_loss():
            result = analyze_with_progress(pair, device, batches, self.info.preprocess.crop, self.data.data)
        return Part(str(plan.recipe), result)

    def _measured(self, model: nn.Module) -> dict[str, float | None]:
        """Compare a model with the dense model; top-1 is included if the images have labels."""
        if self.images is None:
            return {}
        device: torch.device = next(model.parameters()).device
        batches = Batches(self.images, self.loading, device)
        with explain_out_of_memory(self.loading.batch_size), explain_worker_loss():
            agreement = compare(model, self.model, batches)
        self.broken |= batches.broken
        self.warned |= batches.warnings
        top1 = {"top1": agreement.top1} if self.images.labeled else {}
        return {**top1, "agreement": agreement.agreement, "kl": agreement.kl}


_COLUMNS = {
    "parameters": ("para-\nmeters", quantity), "paper_trainable": ("train-\nable", quantity),
    "bytes": ("bytes", byte_count), "bits_per_weight": ("bits/\nweight", number), "snr": ("SNR\nin dB", number),
    "top1": ("top-1\n%", number), "agreement": ("agree-\nment %", number),
    "kl": ("KL\nin nats", lambda value: number(value, 4)),
}  # fmt: skip


def _show(rows: list[Row], dense: DenseModel, json: bool) -> None:
    """Print the rows as JSON, or as a table of the columns that they contain."""
    if json:
        arch = dense.require_arch() if dense.model is None else None
        show_json("sweep", {"arch": arch, "model": dense.model, "rows": rows})
        return
    show(dense.model or dense.require_arch(), table("", *_table(rows)))


def _table(rows: list[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the headings and the cells of the columns that rows contain."""
    shown = {name: column for name, column in _COLUMNS.items() if name in rows[-1]}
    cells = [
        ("dense" if row["rate"] is None else f"{row['groups'] or 'chosen'}, {row['rate']:g}",
         *(text(row[name]) for name, (_, text) in shown.items()))
        for row in rows
    ]  # fmt: skip
    return ("groups,\nrate", *(heading for heading, _ in shown.values())), cells

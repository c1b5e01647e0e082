"""`tenreo compress`."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from torch import nn

from tenreo.cli.checks import choose_workers
from tenreo.cli.command import usage
from tenreo.cli.console import note, note_images, progress_bar, show, show_json
from tenreo.cli.options import DenseModel, Encoding, Output, Statistics
from tenreo.cli.outputs import default_name
from tenreo.cli.tables import counts_table, layers_table, table
from tenreo.codec.chain import on_compile
from tenreo.compression.compress import compress_
from tenreo.compression.report import Report
from tenreo.files.records import Correction, ModelInfo
from tenreo.planning.plan import Plan, resolve
from tenreo.planning.recipe import Recipe
from tenreo.vision.architectures import build, default_info
from tenreo.vision.batches import Loading, Unlabeled, lost_workers_named, unlabeled
from tenreo.vision.evaluation import choose_device
from tenreo.vision.images import open_pictures
from tenreo.vision.models import save
from tenreo.vision.recalibration import match_statistics_
from tenreo.vision.weights import check_weights, with_weights


def run(dense: DenseModel, recipe: Recipe, statistics: Statistics, encoding: Encoding, output: Output) -> None:
    """Plan, compress, correct the statistics, write and show."""
    with usage():
        arch = dense.require_arch()
        info = default_info(arch)
        check_weights(arch, dense.weights)
        device = choose_device(encoding.device)
        images = _images(statistics, info, dense.seed)
    if output.dry_run and dense.weights in (None, "none"):
        model = build(arch, info.classes or 1000, device="meta")
    else:
        model, info = with_weights(arch, dense.weights, dense.seed)
    with usage():
        plan = resolve(recipe, model, info.class_names)
    if output.dry_run:
        show_plan(plan, output.json)
        return
    path = output.out or Path(default_name(arch, recipe))
    report, corrections = _compress(model.to(device), plan, statistics, images, info, encoding.jobs)
    if images is not None:
        note_images(images.batches.broken, images.batches.warned)
    info = replace(info, corrections=corrections)
    save(model, path, info, plan.recipe)
    _show_report(report, plan, path, info, output.json)


def _images(statistics: Statistics, info: ModelInfo, seed: int) -> Unlabeled | None:
    """The batches to calibrate on, if any."""
    if statistics.calibrate is None:
        return None
    opened = open_pictures(statistics.calibrate, "train", info.preprocess)
    loading = Loading(64, choose_workers(None, statistics.calibrate), statistics.skip_broken)
    return unlabeled(opened, statistics.calibrate_batches, loading, seed)


def _compress(
    model: nn.Module,
    plan: Plan,
    statistics: Statistics,
    images: Unlabeled | None,
    info: ModelInfo,
    jobs: int | None,
) -> tuple[Report, tuple[Correction, ...]]:
    """Compress a model in place and correct its statistics."""
    dense = deepcopy(model) if statistics.match_statistics or images is not None else None
    report = compress_shown(model, plan, jobs)
    with lost_workers_named(), progress_bar("statistics, images", None) as advance:
        if dense is None:
            return report, ()
        return report, (
            match_statistics_(
                model, dense, images, size=info.preprocess.crop, source=statistics.calibrate, progress=advance
            ),
        )


def compress_shown(model: nn.Module, plan: Plan, jobs: int | None) -> Report:
    """Compress a model in place with a live bar, and say so when compiled code has to be made first."""
    total = 2 * sum(layer.columns for layer in plan.compressed)  # each is ordered, then encoded
    with (
        on_compile(lambda: note("compiling the chain, once per machine: some 15 seconds")),
        progress_bar("columns", total) as advance,
    ):
        return compress_(model, plan, jobs=jobs, progress=lambda layer: advance(layer.columns, layer.name))


def show_plan(plan: Plan, json: bool) -> None:
    """Print a plan as tables or JSON."""
    if json:
        show_json("compress", plan.to_dict())
        return
    show(layers_table((layer.name, layer.record) for layer in plan.compressed))
    dense = [(x.name, "x".join(map(str, x.shape)), x.why_dense) for x in plan.layers if x.why_dense]
    if dense:
        show(table("Left dense", ("layer", "shape", "why"), dense, text=3))
    show(counts_table(plan.before, plan.after))
    show(f"recipe: {plan.recipe}")


def _show_report(report: Report, plan: Plan, path: Path, info: ModelInfo, json: bool) -> None:
    size = path.stat().st_size
    if json:
        corrections = [vars(correction) for correction in info.corrections]
        show_json(
            "compress",
            {"file": str(path), "bytes": size, "recipe": plan.recipe.to_dict(), **report.to_dict(),
             "corrections": corrections},
        )  # fmt: skip
        return
    show(layers_table((layer.name, layer.record) for layer in report.layers))
    show(counts_table(report.before, report.after, (report.snr_unrefined, report.snr), size))
    show(f"recipe: {plan.recipe}")
    for correction in info.corrections:
        show(f"statistics: {correction}")
    show(f"wrote {path}")

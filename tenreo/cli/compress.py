"""`tenreo compress`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenreo.cli.common import (
    Device,
    Force,
    Json,
    choose_workers,
    note,
    progress_bar,
    refuse_existing,
    show,
    show_json,
)
from tenreo.errors import TenreoError
from tenreo.recipe import RATES, ROUNDS, Config, Recipe, read_config

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tenreo.header import ModelCard
    from tenreo.plan import Plan
    from tenreo.report import Correction, Report


def compress(
    arch: Annotated[str | None, typer.Option("--arch", "-a", help="Classification architecture of torchvision.")] = None,
    groups: Annotated[int | None, typer.Option("--groups", "-g", help="Rows of the reshaped weight, g.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", "-r", help="Rate r >= 1, or growth r' > 0 with --progressive.")] = None,
    progressive: Annotated[bool, typer.Option("--progressive", help="The rate grows with the layer's size.")] = False,
    weights: Annotated[str | None, typer.Option(metavar="ENUM|PATH|none", help="Default: IMAGENET1K_V1; none: random.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="YAML", help="Defaults for all of these options.")] = None,
    include: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Compress these layers instead of the rule's.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Leave these layers dense.")] = None,
    target_size: Annotated[str | None, typer.Option(metavar="SIZE", help="The best file of at most so many bytes, such as 2.5MB, instead of -r.")] = None,
    target_params: Annotated[str | None, typer.Option(metavar="NUMBER", help="The gentlest rate with so many parameters, such as 2.0M, instead of -r.")] = None,
    allocate: Annotated[bool | None, typer.Option("--allocate", help="Spread the coefficients over the layers by their spectra.")] = None,
    position_bits: Annotated[int | None, typer.Option(metavar="B", help="Curves of at most 2^B samples, B bits per position.")] = None,
    coefficients: Annotated[str | None, typer.Option(metavar="float32|float16|bfloat16|int8|int6", help="Their precision in the file.")] = None,
    other: Annotated[str | None, typer.Option(metavar="float32|float16|bfloat16", help="Precision in the file of what is left dense.")] = None,
    refine: Annotated[int | None, typer.Option(min=0, metavar="ROUNDS", help=f"Rounds of refinement, by default {ROUNDS}; 0 is the paper.")] = None,
    match_statistics: Annotated[bool, typer.Option(help="Correct BatchNorm (or biases) on noise, by the dense model.")] = True,
    calibrate: Annotated[str | None, typer.Option(metavar="DIR|digits", help="Estimate BatchNorm on unlabelled training images instead.")] = None,
    calibrate_batches: Annotated[int, typer.Option(min=1, metavar="N", help="Batches of 64 images to calibrate on.")] = 4,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output file.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Layers at a time; by default one per core.")] = None,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; write nothing.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Compress a model and write it to a file."""
    given = {"groups": groups, "include": include, "exclude": exclude, "refine": refine, "allocate": allocate,
             "position_bits": position_bits, "coefficients": coefficients, "other": other,
             "target_size": target_size, "target_params": target_params}  # fmt: skip
    chosen = _merge(config, arch, weights, rate, progressive, given)
    recipe = chosen.recipe()
    if chosen.arch is None:
        raise TenreoError("arch: not given; say --arch resnet50, or arch: resnet50 in the configuration")
    target = out or Path(default_name(chosen.arch, recipe))
    if not dry_run:
        refuse_existing(target, force)

    from copy import deepcopy

    from tenreo import models
    from tenreo.data import open_images, unlabelled
    from tenreo.evaluation import choose_device
    from tenreo.plan import resolve

    if dry_run and chosen.weights in (None, "none"):
        card = models.default_card(chosen.arch)
        model = models.build(chosen.arch, card.classes or 1000)
    else:
        model, card = models.with_weights(chosen.arch, chosen.weights, seed)
    plan = resolve(recipe, model)
    if dry_run:
        show_json(plan.to_dict()) if json else _show_plan(plan)
        return
    model.to(choose_device(device))
    dense = deepcopy(model) if match_statistics and not calibrate else None
    images = None
    if calibrate is not None:
        opened = open_images(calibrate, "train", card.preprocess, None)
        images = unlabelled(opened, calibrate_batches, 64, choose_workers(None, calibrate), seed)
    report = run_plan(model, plan, jobs)
    correction = _correct(model, dense, images, calibrate, card)
    if correction is not None:
        card = replace(card, corrections=(correction,))
    models.save(model, target, card, plan.recipe)
    if json:
        show_json(
            {
                "file": str(target),
                "bytes": target.stat().st_size,
                "recipe": plan.recipe.to_dict(),
                **report.to_dict(),
                "corrections": [vars(c) for c in card.corrections],
            }
        )
    else:
        _show_report(report, plan, target, card)


def _merge(
    config: Path | None, arch: str | None, weights: str | None, rate: float | None, progressive: bool,
    given: dict[str, Any],
) -> Config:  # fmt: skip
    """A configuration file's values, with the options that were given in their place."""
    base = read_config(config) if config else Config()
    values = dict(base.values)
    given = {name: value for name, value in given.items() if value not in (None, [])}
    if rate is not None:
        given["progressive" if progressive or values.get("progressive") is not None else "uniform"] = rate
    elif progressive and {"target_size", "target_params"} & set(given):
        raise TenreoError("--progressive: goes with -r; a target finds its rates itself")
    elif progressive and not set(RATES) & set(given) and values.get("progressive") is None:
        raise TenreoError("--progressive: needs the growth r'; say for example -r 0.5 --progressive")
    if set(RATES) & set(given):
        values = {name: value for name, value in values.items() if name not in RATES}
    return Config(arch or base.arch, weights or base.weights, {**values, **given})


def default_name(arch: str, recipe: Recipe) -> str:
    """The reference implementation's name for its output, as safetensors."""
    strength = recipe.strength if recipe.mode.startswith("target") else float(recipe.strength)
    groups = f"-{recipe.groups}" if recipe.groups else ""
    return f"compressed-{arch}-{recipe.mode}{groups}-{strength}.safetensors"


def run_plan(model: nn.Module, plan: Plan, jobs: int | None) -> Report:
    """Compress a model in place with a live bar, and say so when the chain has to be compiled."""
    from tenreo.compression import compress_
    from tenreo.core.chain import on_compile

    def compiling() -> None:
        note("compiling the chain, once per machine: some 15 seconds")

    total = 2 * sum(layer.columns for layer in plan.compressed)  # each is threaded, then encoded
    with on_compile(compiling), progress_bar("columns", total) as advance:
        return compress_(model, plan, jobs=jobs, progress=lambda layer: advance(layer.columns, layer.name))


def _correct(
    model: nn.Module,
    dense: nn.Module | None,
    images: Iterable[Tensor] | None,
    source: str | None,
    card: ModelCard,
) -> Correction | None:
    from tenreo.statistics import calibrate_, match_statistics_

    with progress_bar("statistics, images", None) as advance:
        if images is not None:
            return calibrate_(model, images, source=source, progress=advance)
        if dense is not None:
            return match_statistics_(model, dense, size=card.preprocess.crop, progress=advance)
    return None


def _show_plan(plan: Plan) -> None:
    from tenreo.tables import counts_table, layers_table, table

    dense = [(x.name, "x".join(map(str, x.shape)), x.why_dense) for x in plan.layers if x.why_dense]
    rows = ((x.name, x.shape, x.groups, x.length, x.kept, x.precision, None, None) for x in plan.compressed)
    show(layers_table(rows))
    if dense:
        show(table("Left dense", ("layer", "shape", "why"), dense, text=3))
    show(counts_table(plan.before, plan.after))
    show(f"recipe: {plan.recipe}")


def _show_report(report: Report, plan: Plan, target: Path, card: ModelCard) -> None:
    from tenreo.tables import counts_table, layers_table

    rows = (
        (x.name, x.shape, x.groups, x.length, x.kept, x.precision, x.snr_unrefined, x.snr)
        for x in report.layers
    )
    show(layers_table(rows))
    ratios = report.snr_unrefined, report.snr
    show(counts_table(report.before, report.after, ratios, target.stat().st_size))
    show(f"recipe: {plan.recipe}")
    for correction in card.corrections:
        show(f"statistics: {correction}")
    show(f"wrote {target}")

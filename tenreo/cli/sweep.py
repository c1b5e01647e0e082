"""`tenreo sweep`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from tenreo.cli.common import (
    Device,
    Force,
    Json,
    Workers,
    choose_workers,
    note,
    progress_bar,
    refuse_existing,
    show,
    show_json,
)
from tenreo.errors import TenreoError
from tenreo.recipe import ROUNDS, Config, Recipe

if TYPE_CHECKING:
    from torch import nn

    from tenreo.data import Images
    from tenreo.header import ModelCard


class ManyValues(TyperCommand):
    """A command whose -g and -r take several values, one after the other: -g 4 8."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Say the option again before each of its further values."""
        many = ""
        repeated: list[str] = []
        for word in args:
            if word.startswith("-"):
                many = word if word in ("-g", "--groups", "-r", "--rate") else ""
            elif many and repeated[-1] != many:
                repeated.append(many)
            repeated.append(word)
        return super().parse_args(ctx, repeated)


def sweep(
    arch: Annotated[str, typer.Option("--arch", "-a", help="Classification architecture of torchvision.")],
    groups: Annotated[list[int], typer.Option("--groups", "-g", metavar="G ...", help="Rows of the reshaped weight.")],
    rate: Annotated[list[float], typer.Option("--rate", "-r", metavar="R ...", help="Growths r', or with --uniform rates r.")],
    uniform: Annotated[bool, typer.Option("--uniform", help="The same rate for every layer.")] = False,
    weights: Annotated[str | None, typer.Option(metavar="ENUM|PATH|none", help="Default: IMAGENET1K_V1; none: random.")] = None,
    data: Annotated[str | None, typer.Option(metavar="DIR|digits", help="Measure top-1 on its val/ as well.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images, spread over all.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at a time.")] = 256,
    refine: Annotated[int, typer.Option(min=0, metavar="ROUNDS", help="Rounds of refinement; 0 is the paper.")] = ROUNDS,
    match_statistics: Annotated[bool, typer.Option(help="Correct BatchNorm (or biases) on noise, where top-1 is measured.")] = True,
    allocate: Annotated[bool, typer.Option("--allocate", help="Spread the coefficients over the layers by their spectra.")] = False,
    position_bits: Annotated[int | None, typer.Option(metavar="B", help="Curves of at most 2^B samples.")] = None,
    coefficients: Annotated[str | None, typer.Option(metavar="float32|float16|bfloat16|int8|int6", help="Their precision in a file.")] = None,
    other: Annotated[str, typer.Option(metavar="float32|float16|bfloat16", help="Precision in a file of what is left dense.")] = "float32",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Counts alone: nothing is compressed, no weights are needed.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw the table.")] = None,
    workers: Workers = None,
    device: Device = "auto",
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Layers at a time; by default one per core.")] = None,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    force: Force = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Compare settings: every -g with every -r, the chain of a layer found once per -g."""
    rate_name = "uniform" if uniform else "progressive"
    common = {"refine": refine, "allocate": allocate, "position_bits": position_bits,
              "coefficients": coefficients, "other": other}  # fmt: skip
    recipes = [
        Config(values={"groups": g, rate_name: r, **common}).recipe()
        for g, r in product(dict.fromkeys(groups), dict.fromkeys(rate))
    ]
    if dry_run and (plot or data):
        raise TenreoError("dry-run: measures nothing; leave out --plot and --data, or --dry-run")
    if plot is not None:
        from tenreo.plotting import require_plotting

        require_plotting()
        refuse_existing(plot, force)
    from tenreo import models

    if dry_run:
        random = weights in (None, "none")
        dense = models.build(arch, device="meta") if random else models.with_weights(arch, weights)[0]
        show_rows([*_counted(dense, recipes)], arch, json)
        return
    from tenreo.evaluation import choose_device

    model, card = models.with_weights(arch, weights, seed)
    images = _images(data, card, limit)
    job = _Sweep(model.to(choose_device(device)), card, images, batch_size, choose_workers(workers, data or "digits"),
                 match_statistics, jobs)  # fmt: skip
    rows = job.rows(recipes)
    if plot is not None:
        from tenreo.plotting import plot_sweep

        plot_sweep(rows, plot)
    show_rows(rows, arch, json)
    if plot is not None:
        note(f"drew {plot}")


def _images(data: str | None, card: ModelCard, limit: int | None) -> Images | None:
    from tenreo.data import open_images

    return open_images(data, "val", card.preprocess, card.classes).limited(limit) if data else None


def _counted(model: nn.Module, recipes: list[Recipe]) -> Iterator[dict[str, Any]]:
    """Rows of counts alone, the dense model first."""
    from tenreo.plan import file_size, resolve

    plans = [resolve(recipe, model) for recipe in recipes]
    yield _row(None, plans[0].before.to_dict(), plans[0].before.bytes)
    for plan in plans:
        yield _row(plan.recipe, plan.after.to_dict(), file_size(plan, model))


def _row(recipe: Recipe | None, counts: dict[str, Any], size: int, **measured: Any) -> dict[str, Any]:
    setting = {"groups": recipe and recipe.groups, "rate": recipe and recipe.strength}
    shown = ("parameters", "trainable", "bits_per_weight")
    return {**setting, **{key: counts[key] for key in shown}, "bytes": size, **measured}


class _Sweep:
    """A dense model, and what is measured of its compressed copies."""

    def __init__(
        self, model: nn.Module, card: ModelCard, images: Images | None, batch_size: int, workers: int,
        match_statistics: bool, jobs: int | None,
    ) -> None:  # fmt: skip
        self.model, self.card, self.images, self.batch_size = model, card, images, batch_size
        self.workers, self.match_statistics, self.jobs = workers, match_statistics, jobs
        self.orders: dict[tuple[str, int], Any] = {}

    def rows(self, recipes: list[Recipe]) -> list[dict[str, Any]]:
        """One per recipe, after one for the dense model."""
        from tenreo.plan import resolve

        plans = [resolve(recipe, self.model) for recipe in recipes]  # every check before anything slow
        before = plans[0].before.to_dict()
        rows = [_row(None, before, self._size(self.model, None), snr=None, **self._top1(self.model))]
        with progress_bar("settings", len(plans)) as advance:
            for plan in plans:
                rows.append(self._compressed(plan))
                advance(1, f"g = {plan.recipe.groups}, {plan.recipe.strength:g}")
        return rows

    def _compressed(self, plan: Any) -> dict[str, Any]:
        from copy import deepcopy

        from tenreo.compression import compress_, expand_
        from tenreo.report import finite
        from tenreo.statistics import match_statistics_

        small = deepcopy(self.model)
        report = compress_(small, plan, jobs=self.jobs, orders=self.orders)
        size = self._size(small, plan.recipe)
        if self.images is not None and self.match_statistics:
            match_statistics_(small, self.model, size=self.card.preprocess.crop)
        top1 = self._top1(expand_(small))
        return _row(plan.recipe, report.after.to_dict(), size, snr=finite(report.snr), **top1)

    def _size(self, model: nn.Module, recipe: Recipe | None) -> int:
        """The bytes of the file that the model would be."""
        from tenreo import models

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            models.save(model, path, self.card, recipe)
            return path.stat().st_size

    def _top1(self, model: nn.Module) -> dict[str, float]:
        from tenreo import evaluation
        from tenreo.data import Batches

        if self.images is None:
            return {}
        where = next(model.parameters()).device
        with evaluation.naming_batch_size(self.batch_size):
            measured = evaluation.evaluate(model, Batches(self.images, self.batch_size, where, self.workers))
        return {"top1": measured.top1}


def show_rows(rows: list[dict[str, Any]], arch: str, json: bool) -> None:
    """Print the rows as JSON or as a table of the columns that they have."""
    if json:
        show_json({"arch": arch, "rows": rows})
        return
    from tenreo.tables import megabytes, millions, number, table

    columns = {"parameters": millions, "trainable": millions, "bytes": megabytes, "bits_per_weight": number,
               "snr": number, "top1": number}  # fmt: skip
    names = {
        "parameters": "para-\nmeters",
        "bits_per_weight": "bits per\nweight",
        "snr": "SNR dB",
        "top1": "top-1 %",
    }
    shown = [name for name in columns if name in rows[-1]]
    cells = [
        (
            f"{row['groups']}, {row['rate']:g}" if row["groups"] else "dense",
            *(columns[c](row[c]) for c in shown),
        )
        for row in rows
    ]
    show(table(arch, ("g, rate", *(names.get(c, c) for c in shown)), cells, text=1))

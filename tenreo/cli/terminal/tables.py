"""Rich tables of plans, reports, headers and results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tenreo.errors import printable
from tenreo.files.counts import Counts
from tenreo.files.records import LayerRecord

if TYPE_CHECKING:  # these import torch, and `inspect` must not
    from tenreo.evaluation.accuracy import Evaluation
    from tenreo.evaluation.agreement import Agreement
    from tenreo.evaluation.predictions import ClassAccuracy
    from tenreo.planning.layers import LayerPlan

LARGE = 4096  # elements from which on a weight that is left dense has a row of its own


def number(value: float | None, digits: int = 2) -> str:
    """Format a number for a table: a dash for None and NaN, and "exact" for an infinite ratio."""
    if value is None or not math.isfinite(value):
        return "exact" if value == math.inf else "-"
    return f"{value:.{digits}f}"


def millions(value: int) -> str:
    """Format a count in millions, with one more digit than the paper."""
    return f"{value / 1e6:.2f} M"


def megabytes(value: int) -> str:
    """Format a number of bytes in MB (10^6 bytes)."""
    return f"{value / 1e6:.2f} MB"


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1, last_text: bool = False
) -> Table:
    """Make a table.

    Args:
        title: title or "" for none; like the cells, it may contain any characters.
        columns: headings.
        rows: cells of the rows.
        text: number of columns on the left that contain text and are aligned left; all others contain numbers.
        last_text: whether the last column contains text as well.
    """
    result = Table(
        title=printable(title) or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for i, column in enumerate(columns):
        words = i < text or (last_text and i == len(columns) - 1)
        result.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in rows:
        result.add_row(*map(printable, row))
    return result


def table_of_models(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str | Table]:
    """Return a title, a table of models, and if it would be wider than the terminal, a numbered list of their names.

    The first column contains the names.
    """
    whole, console = table("", columns, rows), Console()
    if whole.__rich_measure__(console, console.options.update(max_width=10**6)).maximum <= console.width:
        return [title, whole]
    numbered = [(str(i), *row[1:]) for i, row in enumerate(rows, 1)]
    return [title, table("", columns, numbered), *(f"{columns[0]} {i}: {row[0]}" for i, row in enumerate(rows, 1))]


def counts_table(before: Counts, after: Counts, snr: tuple[float | None, float | None] | None = None) -> Table:
    """Make the table of counts and bytes of the dense and the compressed model.

    Args:
        before: counts of the dense model.
        after: counts of the compressed model.
        snr: SNR of all compressed weights together in dB, before refinement and after encoding; None leaves a row out.
    """
    covered = number(100 * after.weights / max(1, before.dense_parameters), 1)
    statistics = millions(before.batchnorm_statistics), millions(after.batchnorm_statistics)
    rows = [
        ("parameters (paper)", millions(before.parameters), millions(after.parameters)),
        ("  positions", "-", millions(after.positions)),
        ("  coefficients", "-", millions(after.coefficients)),
        *([("  scales of coefficients", "-", millions(after.scales))] if after.scales else []),
        ("  left dense", millions(before.dense_parameters), millions(after.dense_parameters)),
        ("  BatchNorm statistics", *statistics),
        *([("  weights covered", "-", f"{covered} %")] if after.weights else []),
        ("trainable (paper)", millions(before.paper_trainable), millions(after.paper_trainable)),
        ("trainable (requires_grad)", millions(before.requires_grad), millions(after.requires_grad)),
        ("bytes on disk", megabytes(before.bytes), megabytes(after.bytes)),
    ]
    if after.bits_per_weight is not None:
        rows.append(("bits per compressed weight", "-", number(after.bits_per_weight)))
    for name, value in zip(("SNR before refinement", "SNR of compressed weights"), snr or (), strict=False):
        if value is not None:
            rows.append((name, "-", f"{number(value)} dB"))
    return table("Totals", ("", "dense", "compressed"), rows)


def dense_table(layers: Iterable[LayerPlan]) -> Table:
    """Make the table of the weights of a plan that are left dense; small ones with the same reason share a row."""
    rows = []
    small: dict[str, list[LayerPlan]] = {}
    for layer in layers:
        if layer.why_dense and layer.numel >= LARGE:
            rows.append((layer.name, "x".join(map(str, layer.shape)), f"{layer.numel:,}", layer.why_dense))
        elif layer.why_dense:
            small.setdefault(layer.why_dense, []).append(layer)
    for why, members in small.items():
        names = ", ".join(member.name for member in members[:2])
        name = names if len(members) < 3 else f"{names} and {len(members) - 2} more"
        rows.append((name, "small", f"{sum(member.numel for member in members):,}", why))
    return table("Left dense", ("layer", "shape", "elements", "reason"), rows, text=2, last_text=True)


def layers_table(layers: Iterable[tuple[str, LayerRecord]]) -> Table:
    """Make the table of compressed layers, given by name and record."""
    rows = [
        (
            name, "x".join(map(str, layer.shape)), f"{layer.curve.groups} x {layer.curve.length}",
            f"{layer.curve.coefficients_per_row}/{layer.curve.precision.bits}",
            f"{layer.columns / layer.curve.coefficients_per_row:.4g}",
            number(None if layer.curve.memory else layer.errors.snr_unrefined), number(layer.errors.snr),
        )
        for name, layer in layers
    ]  # fmt: skip
    columns = ("layer", "shape", "groups x\nsamples", "coeffs\n/bits", "rate", "paper\nSNR dB", "SNR\ndB")
    return table("Layers", columns, rows, text=2)


def evaluations_table(title: str, measured: Iterable[tuple[str, Evaluation]]) -> list[str | Table]:
    """Make the table of evaluations: accuracy with its 95 % confidence interval, loss, speed and memory."""
    columns = (
        "model", "top-1\n%", "95 % inter-\nval of top-1", "top-5\n%", "loss", "images", "images/s",
        "images/s\nwithout\nreading", "peak\nmemory",
    )  # fmt: skip
    rows = [
        (name, number(e.top1), "{:.2f} - {:.2f}".format(*e.top1_interval), number(e.top5), number(e.loss, 4),
         str(e.images), number(e.images_per_second, 1), number(e.model_images_per_second, 1),
         f"{e.peak_memory / 1e6:.0f} MB")
        for name, e in measured
    ]  # fmt: skip
    return table_of_models(title, columns, rows)


def agreement_table(title: str, compared: Iterable[tuple[str, Agreement]]) -> list[str | Table]:
    """Make the table of models compared with the reference model that the title names."""
    columns = ("model", "agreement\nof top-1 %", "KL\nin nats", "images", "top-1 %", "top-1 % of\nthe reference")
    rows = [
        (name, number(a.agreement), number(a.kl, 4), str(a.images), number(a.top1), number(a.reference_top1))
        for name, a in compared
    ]
    return table_of_models(title, columns, rows)


def classes_table(classes: Sequence[ClassAccuracy]) -> Table:
    """Make the table of the five classes with the lowest accuracy, the worst first."""
    worst = sorted(classes, key=lambda each: (each.top1, -each.images))[:5]
    rows = [(each.name, each.mistaken_for or "-", number(each.top1), str(each.images)) for each in worst]
    return table("Worst classes", ("class", "most often predicted as", "top-1 %", "images"), rows, text=2)

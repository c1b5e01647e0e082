"""Rich tables of plans, reports, headers and results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from tenreo.cli.terminal.console import output_console
from tenreo.codec.shape import Basis, Precision
from tenreo.errors import printable
from tenreo.files.counts import Counts
from tenreo.files.records import LayerRecord
from tenreo.sizes import byte_count, quantity

if TYPE_CHECKING:  # these import torch, and `inspect` must not
    from tenreo.evaluation.accuracy import Evaluation
    from tenreo.evaluation.agreement import Agreement
    from tenreo.evaluation.analysis import LayerAnalysis
    from tenreo.evaluation.predictions import ClassAccuracy
    from tenreo.planning.layers import LayerPlan

LARGE = 4096  # elements from which on a weight that is left dense has a row of its own
_SHORTEST_NAME, _NARROWEST_TEXT = 12, 24  # characters of a shortened name, and of a line of wrapped text
_ENDING = ".safetensors"


def number(value: float | None, digits: int = 2) -> str:
    """Format a number for a table: a dash for None and NaN, and "exact" for an infinite ratio."""
    if value is None or not math.isfinite(value):
        return "exact" if value == math.inf else "-"
    return f"{value:.{digits}f}"


def precise(value: float) -> str:
    """Format a number of any size with two digits that count.

    >>> precise(0.0123), precise(0.000031), precise(1.5), precise(0.0)
    ('0.012', '3.1e-05', '1.5', '0')
    """
    return f"{value:.2g}"


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1, last_text: bool = False
) -> Table:
    """Make a table that fits into the terminal: long names are shortened in the middle, and a last text is wrapped.

    Args:
        title: title or "" for none; like the cells, it may contain any characters.
        columns: headings.
        rows: cells of the rows.
        text: number of columns on the left that contain text and are aligned left; all others contain numbers.
        last_text: whether the last column contains text as well.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    names = range(min(text, len(columns)))
    excess = _width(_table(title, columns, cells, text, last_text)) - output_console().width
    while excess > 0:
        widths = {i: max((len(row[i]) for row in cells), default=0) for i in names}
        longest = max(names, key=lambda i: widths[i], default=0)
        target = max(_SHORTEST_NAME, widths.get(longest, 0) - excess)
        if target >= widths.get(longest, 0):
            break  # the last column is wrapped
        for row, name in zip(cells, distinct([row[longest] for row in cells], target), strict=True):
            row[longest] = name
        left = _width(_table(title, columns, cells, text, last_text)) - output_console().width
        if left == excess:
            break  # the heading is as wide
        excess = left
    return _table(title, columns, cells, text, last_text)


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters, in which dots replace the middle of a longer one.

    >>> shortened("features.17.conv.0.weight", 13)
    'featur…weight'
    """
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def distinct(names: Sequence[str], most: int) -> list[str]:
    """Shorten names in the middle, or where that makes two of them equal, at the start or outside of what differs.

    >>> distinct(["features.3.expand", "features.4.expand"], 9)
    ['…3.expand', '…4.expand']
    >>> distinct(["features.3.expansion", "features.4.expansion"], 9)
    ['…res.3.e…', '…res.4.e…']
    """
    begin = max(0, len(commonprefix(names)) - most // 2)  # noqa: RUF071 - of characters
    middle = [shortened(name, most) for name in names]
    start = [name if len(name) <= most else f"…{name[len(name) - most + 1 :]}" for name in names]
    around = [name if len(name) <= most else f"…{name[begin : begin + most - 2]}…" for name in names]
    return next((each for each in (middle, start, around) if len(set(each)) == len(set(names))), middle)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text: int, last_text: bool) -> Table:
    result = Table(
        title=printable(title) or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for i, column in enumerate(columns):
        is_last_text = last_text and i == len(columns) - 1
        words = i < text or is_last_text
        # rich would measure every cell twice, which takes seconds in tables with thousands of rows.
        width = None if is_last_text else _longest([column, *(row[i] for row in rows)])
        result.add_column(
            column, justify="left" if words else "right", overflow="fold", no_wrap=not is_last_text, width=width
        )
    for row in rows:
        result.add_row(*row)
    return result


def _longest(cells: Iterable[str]) -> int:
    """Return the width of the longest line of cells."""
    return max(cell_len(line) for cell in cells for line in cell.split("\n"))


def _width(whole: Table) -> int:
    """Return the width of a table that nothing shortens."""
    console = output_console()
    last = whole.columns[-1]
    if not last.no_wrap:  # a text that is wrapped needs a few words per line only
        last.min_width = last.width = min(_NARROWEST_TEXT, max((len(str(cell)) for cell in last.cells), default=1))
    return whole.__rich_measure__(console, console.options.update(max_width=10**6)).maximum


def table_of_models(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str | Table]:
    """Return a title and a table of models, whose names are in the first column.

    If the names are too long for the terminal, they lose their common ending, and are then shortened in the middle. If
    that makes two of them equal, the table has numbers instead, and a list of the names follows.
    """
    names, others = [printable(row[0]) for row in rows], [row[1:] for row in rows]
    room = output_console().width - _width(_table("", columns, [("", *row) for row in others], 1, False))
    room += len(columns[0])
    if max(map(len, names), default=0) > room and any(name.endswith(_ENDING) for name in names):
        names = [name.removesuffix(_ENDING) for name in names]
    short = [shortened(name, max(_SHORTEST_NAME, room)) for name in names]
    if len(set(short)) == len(set(names)) and max(map(len, short), default=0) <= room:
        return [title, table("", columns, [(name, *row) for name, row in zip(names, others, strict=True)])]
    numbered = [(str(i), *row) for i, row in enumerate(others, 1)]
    return [title, table("", columns, numbered), *(f"{columns[0]} {i}: {row[0]}" for i, row in enumerate(rows, 1))]


def counts_table(before: Counts, after: Counts, snr: tuple[float | None, float | None] | None = None) -> Table:
    """Make the table of counts and bytes of the dense and the compressed model.

    Args:
        before: counts of the dense model.
        after: counts of the compressed model.
        snr: SNR of all compressed weights together in dB, before refinement and after encoding; None leaves a row out.
    """
    covered = number(100 * after.weights / max(1, before.dense_parameters), 1)
    statistics = quantity(before.batchnorm_statistics), quantity(after.batchnorm_statistics)
    rows = [
        ("parameters (paper)", quantity(before.parameters), quantity(after.parameters)),
        ("  positions", "-", quantity(after.positions)),
        ("  coefficients", "-", quantity(after.coefficients)),
        *([("  scales of coefficients", "-", quantity(after.scales))] if after.scales else []),
        ("  left dense", quantity(before.dense_parameters), quantity(after.dense_parameters)),
        ("  BatchNorm statistics", *statistics),
        *([("  weights covered", "-", f"{covered} %")] if after.weights else []),
        ("trainable (paper)", quantity(before.paper_trainable), quantity(after.paper_trainable)),
        ("trainable (requires_grad)", quantity(before.requires_grad), quantity(after.requires_grad)),
        ("bytes on disk", byte_count(before.bytes), byte_count(after.bytes)),
    ]
    if after.bits_per_weight is not None:
        rows.append(("bits per compressed weight", "-", number(after.bits_per_weight)))
    unrefined, refined = snr or (None, None)
    if unrefined not in (None, refined):
        rows.append(("SNR before refinement", "-", f"{number(unrefined)} dB"))
    if refined is not None:
        rows.append(("SNR of compressed weights", "-", f"{number(refined)} dB"))
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


def layers_table(layers: Iterable[tuple[str, LayerRecord]], sizes: Mapping[str, int] | None = None) -> Table:
    """Make the table of compressed layers; columns that say nothing about these layers are left out.

    Args:
        layers: names and records of the layers.
        sizes: bytes of positions, coefficients and scales by layer, where they are known.
    """
    sizes, known = sizes or {}, list(layers)
    columns = {"layer": [name for name, _ in known], "shape": ["x".join(map(str, x.shape)) for _, x in known]}
    curves = [x.curve for _, x in known]
    if any(curve.basis is not Basis.RAMP for curve in curves):
        columns["groups"] = [str(curve.groups) for curve in curves]
        columns["rate"] = [f"{x.columns / x.curve.coefficients_per_row:.4g}" for _, x in known]
    if any(x.curve.length != x.columns for _, x in known):
        columns["samples"] = [f"{curve.length:,}" for curve in curves]
    if any(curve.precision is not Precision.FLOAT32 for curve in curves):
        columns["number\nformat"] = [str(curve.precision) for curve in curves]
    columns["bits/\nweight"] = [number(8 * sizes[name] / x.numel if name in sizes else None) for name, x in known]
    columns["SNR\nin dB"] = [number(x.errors.snr) for _, x in known]
    shown = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    return table("Layers", tuple(shown), list(zip(*shown.values(), strict=True)), text=2)


def evaluations_table(title: str, measured: Iterable[tuple[str, Evaluation]]) -> list[str | Table]:
    """Make the table of evaluations: accuracy with its 95 % confidence interval, loss, speed and memory.

    The number of images is part of the title if it is the same for all models.
    """
    given = list(measured)
    columns = {
        "top-1\n%": [number(e.top1) for _, e in given],
        "95 %\ninterval": ["{:.2f}-{:.2f}".format(*e.top1_interval) for _, e in given],
        "top-5\n%": [number(e.top5) for _, e in given],
        "loss": [number(e.loss, 4) for _, e in given],
        "images": [f"{e.images:,}" for _, e in given],
        "images/s": [number(e.images_per_second, 0) for _, e in given],
        "without\nreading": [number(e.model_images_per_second, 0) for _, e in given],
        "peak\nmemory": [f"{e.peak_memory / 1e6:.0f} MB" for _, e in given],
    }
    if len(set(columns["images"])) == 1:
        title = f"{title}, {columns.pop('images')[0]} images"
    shown = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    rows = [(name, *cells) for (name, _), *cells in zip(given, *shown.values(), strict=True)]
    return table_of_models(title, ("model", *shown), rows)


def agreement_table(title: str, compared: Iterable[tuple[str, Agreement]]) -> list[str | Table]:
    """Make the table of models compared with the reference model that the title names."""
    columns = ("model", "agreement\nof top-1 %", "KL\nin nats", "images", "top-1 %", "top-1 % of\nthe reference")
    rows = [
        (name, number(a.agreement), number(a.kl, 4), str(a.images), number(a.top1), number(a.reference_top1))
        for name, a in compared
    ]
    return table_of_models(title, columns, rows)


def analysis_table(layers: Sequence[LayerAnalysis]) -> Table:
    """Make the table of analyzed layers: bytes, error, and the outputs with a layer alone compressed or restored."""
    columns = ("layer", "bytes", "bits/\nweight", "SNR\nin dB", "KL if\ncompressed\nalone", "agree-\nment %",
               "KL if\nrestored\nalone", "agree-\nment %")  # fmt: skip
    return table("Layers by harm", columns, analysis_rows(layers))


def analysis_rows(layers: Sequence[LayerAnalysis]) -> list[tuple[str, ...]]:
    """Return the cells of the table of analyzed layers."""
    return [
        (x.name, byte_count(x.bytes_after), number(x.bits_per_weight), number(x.snr, 1), precise(x.alone.kl),
         number(x.alone.agreement, 1), precise(x.restored.kl), number(x.restored.agreement, 1))
        for x in layers
    ]  # fmt: skip


def classes_table(classes: Sequence[ClassAccuracy]) -> Table:
    """Make the table of the five classes with the lowest accuracy, the worst first."""
    worst = sorted(classes, key=lambda each: (each.top1, -each.images))[:5]
    rows = [(each.name, each.mistaken_for or "-", number(each.top1), str(each.images)) for each in worst]
    return table("Worst classes", ("class", "most often predicted as", "top-1 %", "images"), rows, text=2)

"""Plots of results, written as PNG files with matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tenreo.cli.checks import require_plotting
from tenreo.cli.terminal.tables import distinct, shortened
from tenreo.errors import printable
from tenreo.files.atomic import atomic_write
from tenreo.training.log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tenreo.evaluation.analysis import Analysis
    from tenreo.evaluation.predictions import Confusion

_MAX_LABELS, _LONGEST_NAME = 8, 44  # layers that a picture names, and characters of their names
_SPLITS = {  # in words; the two losses are not the same quantity
    "train": "training images, running mean, with label smoothing and augmentation if set",
    "val": "validation images, without either",
}
_MAX_NAMED, _MAX_COUNTED = 40, 15  # classes of the largest confusion matrices with legible names, and legible counts


@contextmanager
def _saved_figure(picture: Path, width: float, height: float, option: str = "plot") -> Iterator[Figure]:
    """Yield an empty figure of the given size in inches, and write it to a PNG file at the end of the context."""
    require_plotting(option)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    with atomic_write(picture) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # characters of a name that the font lacks are drawn as boxes
        figure.savefig(temporary, format="png", dpi=110)


def plot_sweep(rows: list[dict[str, Any]], name: str, rate: str, picture: Path) -> None:
    """Plot the SNR of a sweep, and top-1 or else the agreement if it was measured, against the size of the file.

    Args:
        rows: rows of `tenreo sweep`; the first one is the dense model.
        name: name of the model, for the title.
        rate: what the numbers at the points are.
        picture: path of the PNG file.
    """
    texts = {
        "snr": "SNR of the weights in dB",
        "top1": "top-1 in %",
        "agreement": "agreement with the dense model in %",
    }
    keys = [key for key in texts if key in rows[-1]][:2]
    dense, *others = rows
    with _saved_figure(picture, 4.8 * len(keys), 4.2) as figure:
        for axis, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
            for g in dict.fromkeys(row["groups"] for row in others):
                line = sorted((r["bytes"] / 1e6, r[key], r["rate"]) for r in others if r["groups"] == g)
                label = "groups chosen by layer" if g is None else f"{g} groups"
                axis.plot([p[0] for p in line], [p[1] for p in line], marker="o", label=label)
                for point in line:
                    axis.annotate(f"{point[2]:g}", point[:2], (3, -9), textcoords="offset points", fontsize=7)
            if dense.get(key) is not None:
                axis.axhline(dense[key], color="gray", linestyle=":", label=f"dense, {dense['bytes'] / 1e6:.2f} MB")
            axis.set(xlabel="size of the file in MB", ylabel=texts[key])
            axis.grid(alpha=0.3)
            if key != "snr":
                _limit_percent(axis, [row[key] for row in rows])
        figure.suptitle(f"{_literal(name, 60)}; at the points: {rate}", fontsize="medium")
        figure.legend(*figure.axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def _limit_percent(axis: Any, values: Iterable[float]) -> None:
    """Show at least 10 percentage points and none above 100, so that a single image makes no cliff."""
    given = list(values)
    low, high = min(given), max(given)
    missing = max(0.0, 10 - (high - low))
    top = min(100, high + missing / 2 + 1)
    bottom = max(0, min(low - 1, top - 10))
    axis.set_ylim(bottom, top + 0.04 * (top - bottom))  # a marker at 100 is drawn whole


def plot_analysis(analysis: Analysis, name: str, picture: Path) -> None:
    """Plot the layers of an analysis: the KL divergence of the outputs against the bytes of the layer.

    Args:
        analysis: the analysis.
        name: name of the model, for the title.
        picture: path of the PNG file.
    """
    layers = [x for x in analysis.by_harm if x.alone.kl > 0]
    with _saved_figure(picture, 7.2, 5.4) as figure:
        axis = figure.subplots()
        axis.set_title(_literal(Path(name).name, 60))
        if not layers:
            axis.text(0.5, 0.5, "no layer changes the outputs", transform=axis.transAxes, ha="center")
            axis.set_axis_off()
            return
        axis.set(xscale="log", yscale="log", xlabel="size of the layer in kB",
                 ylabel="KL of the outputs in nats\nif this layer alone is compressed")  # fmt: skip
        axis.scatter([x.bytes_after / 1e3 for x in layers], [x.alone.kl for x in layers], s=22, alpha=0.75)
        if analysis.whole.kl > 0:
            axis.axhline(analysis.whole.kl, color="gray", linestyle=":", label="all layers compressed")
        names = distinct([x.name for x in layers[:_MAX_LABELS]], _LONGEST_NAME)
        for i, (x, label) in enumerate(zip(layers, names, strict=False), 1):
            point = x.bytes_after / 1e3, x.alone.kl
            axis.annotate(str(i), point, (4, 3), textcoords="offset points", fontsize=8)
            style: dict[str, Any] = {"linestyle": "none", "marker": f"${i}$", "color": "black", "markeredgewidth": 0}
            axis.plot([], [], label=_literal(label, _LONGEST_NAME), **style)
        for each in (axis.xaxis, axis.yaxis):
            _write_plain_numbers(each)
        axis.margins(0.08)
        axis.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, fontsize="small")


def _write_plain_numbers(axis: Any) -> None:
    """Write 0.002 instead of 2 times a power of ten at the ticks of a logarithmic axis."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain())


def plot_confusion(confusion: Confusion, name: str, picture: Path) -> None:
    """Plot a confusion matrix: for each class, the fraction of its images per predicted class.

    Args:
        confusion: the matrix; names and counts are left out if there are many classes.
        name: name of the model, for the title.
        picture: path of the PNG file.
    """
    counts = confusion.counts.double()
    fractions = (counts / counts.sum(1, keepdim=True)).numpy()
    rows, columns = fractions.shape
    side = 3.2 + 0.25 * min(max(rows, columns), _MAX_NAMED)
    with _saved_figure(picture, side, side, "confusion") as figure:
        axis = figure.subplots()
        image = axis.imshow(fractions, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        figure.colorbar(image, label="fraction of the images of a class")
        axis.set(xlabel="predicted class", ylabel="label", title=_literal(name, 36))
        if max(rows, columns) <= _MAX_NAMED:
            axis.set_xticks(range(columns), [_literal(name) for name in confusion.predicted], rotation=90, fontsize=7)
            axis.set_yticks(range(rows), [_literal(name) for name in confusion.labels], fontsize=7)
        if max(rows, columns) <= _MAX_COUNTED:
            for (i, j), fraction in np.ndenumerate(fractions):
                color = "white" if fraction > 0.5 else "black"
                axis.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=7, color=color)


def _literal(name: str, most: int = 24) -> str:
    """Shorten a name for an axis and escape $, which starts a formula in matplotlib."""
    return printable(shortened(name, most)).replace("$", r"\$")


def plot_logs(logs: dict[str, Path], picture: Path) -> None:
    """Plot loss and top-1 over the epochs: evaluations as points, and the steps of a single run as a line.

    Args:
        logs: paths of the logs by the names of the runs.
        picture: path of the PNG file.
    """
    alone = len(logs) == 1
    with _saved_figure(picture, 9, 4.2) as figure:
        axes = figure.subplots(1, 2)
        shown: dict[str, list[float]] = {"loss": [], "top1": []}
        for i, (name, path) in enumerate(logs.items()):
            log = read_log(path)
            for axis, column in zip(axes, shown, strict=True):
                for split in ("train", "val") if alone else ("val",):
                    rows = [row for row in log if row["split"] == split]
                    values = [float(row[column]) for row in rows]
                    style = {"alpha": 0.5, "linewidth": 0.8} if split == "train" else {"marker": "o"}
                    values = _smoothed(values) if split == "train" else values
                    label = _SPLITS[split] if alone else _literal(name, _LONGEST_NAME)
                    axis.plot([_epochs_done(row) for row in rows], values, color=f"C{i}", label=label, **style)
                    shown[column] += values
        for axis, text in zip(axes, ("loss in nats", "top-1 in %"), strict=True):
            axis.set(xlabel="epochs", ylabel=text)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
        _limit_percent(axes[1], shown["top1"] or [0.0])
        figure.suptitle(_literal(next(iter(logs)), 60) if alone else _SPLITS["val"], fontsize="medium")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _epochs_done(row: dict[str, str]) -> float:
    """Return the number of epochs completed at a row of a log, a fraction within an epoch; 0 at the start."""
    epoch, step, steps = (int(row[name]) for name in ("epoch", "step", "steps"))
    return epoch - 1 + step / steps if steps else float(epoch)


def _smoothed(values: list[float]) -> list[float]:
    """Return an exponential moving average with a time constant of a fiftieth of the run."""
    weight = min(1.0, 50 / max(1, len(values)))
    result: list[float] = []
    for value in values:
        result.append(value if not result else result[-1] + weight * (value - result[-1]))
    return result

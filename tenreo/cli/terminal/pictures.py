"""Plots of results, written as PNG files with matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tenreo.cli.checks import require_plotting
from tenreo.cli.terminal.tables import shortened
from tenreo.errors import printable
from tenreo.files.atomic import atomic_write
from tenreo.training.log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tenreo.evaluation.analysis import Analysis
    from tenreo.evaluation.predictions import Confusion

_MAX_LABELS = 8  # layers whose names a picture shows
_MAX_NAMED, _MAX_COUNTED = 40, 15  # classes of the largest confusion matrices with legible names, and legible counts


@contextmanager
def _saved_figure(picture: Path, width: float, height: float, option: str = "plot") -> Iterator[Figure]:
    """Yield an empty figure of the given size in inches, and write it to a PNG file at the end of the context."""
    require_plotting(option)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    with atomic_write(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def plot_sweep(rows: list[dict[str, Any]], picture: Path) -> None:
    """Plot the SNR of a sweep, and top-1 if it was measured, against the size of the file.

    Args:
        rows: rows of `tenreo sweep`; the first one is the dense model.
        picture: path of the PNG file.
    """
    keys = [(key, text) for key, text in (("snr", "SNR in dB"), ("top1", "top-1 in %")) if key in rows[-1]]
    with _saved_figure(picture, 4.8 * len(keys), 3.6) as figure:
        for axis, (key, text) in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
            for g in dict.fromkeys(row["groups"] for row in rows[1:]):
                line = sorted((r["bytes"] / 1e6, r[key], r["rate"]) for r in rows[1:] if r["groups"] == g)
                axis.plot([p[0] for p in line], [p[1] for p in line], marker="o", label=f"g = {g}")
                for point in line:
                    axis.annotate(f"{point[2]:g}", point[:2], (3, -9), textcoords="offset points", fontsize=7)
            if rows[0].get(key) is not None:
                axis.axhline(rows[0][key], color="gray", linestyle=":", label=f"dense, {rows[0]['bytes'] / 1e6:.1f} MB")
            axis.set(xlabel="MB on disk", ylabel=text)
            axis.grid(alpha=0.3)
            axis.legend(fontsize="small")


def plot_analysis(analysis: Analysis, name: str, picture: Path) -> None:
    """Plot the layers of an analysis: the KL divergence of the outputs against the bytes of the layer.

    Args:
        analysis: the analysis.
        name: name of the model, for the title.
        picture: path of the PNG file.
    """
    layers = [x for x in analysis.by_harm if x.alone.kl > 0]
    with _saved_figure(picture, 7.2, 4.8) as figure:
        from matplotlib.ticker import LogFormatter

        axis = figure.subplots()
        axis.set(
            xscale="log", yscale="log", xlabel="size of the layer in kB",
            ylabel="KL of the outputs in nats\nif this layer alone is compressed",
            title=_literal(Path(name).name, 60),
        )  # fmt: skip
        axis.scatter([x.bytes_after / 1e3 for x in layers], [x.alone.kl for x in layers], s=22, alpha=0.75)
        axis.axhline(analysis.whole.kl, color="gray", linestyle=":", label="all layers compressed")
        for x in layers[:_MAX_LABELS]:
            axis.annotate(
                _literal(x.name), (x.bytes_after / 1e3, x.alone.kl), (5, 3), textcoords="offset points", fontsize=7
            )
        for each in (axis.xaxis, axis.yaxis):  # 0.002 instead of 2 times a power of ten
            each.set_major_formatter(LogFormatter())
            each.set_minor_formatter(LogFormatter())
        axis.margins(0.12)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", loc="lower right")


def plot_confusion(confusion: Confusion, picture: Path) -> None:
    """Plot a confusion matrix: for each class, the fraction of its images per predicted class.

    Args:
        confusion: the matrix; names and counts are left out if there are many classes.
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
        axis.set(xlabel="predicted", ylabel="label")
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
    splits = ("train", "val") if len(logs) == 1 else ("val",)
    with _saved_figure(picture, 9, 3.6) as figure:
        axes = figure.subplots(1, 2)
        for i, (name, path) in enumerate(logs.items()):
            log = read_log(path)
            for axis, column in zip(axes, ("loss", "top1"), strict=True):
                for split in splits:
                    rows = [row for row in log if row["split"] == split]
                    values = [float(row[column]) for row in rows]
                    style = {"alpha": 0.35, "linewidth": 0.8} if split == "train" else {"marker": "o"}
                    label = f"{name}: {split}" if len(logs) == 1 else name
                    values = _smoothed(values) if split == "train" else values
                    axis.plot([_epochs_done(row) for row in rows], values, color=f"C{i}", label=label, **style)
        for axis, text in zip(axes, ("loss in nats", "top-1 in %"), strict=True):
            axis.set(xlabel="epochs", ylabel=text)
            axis.grid(alpha=0.3)
        axes[1].legend(fontsize="small")


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

"""The page of one or more analyses: an HTML file with inline SVG, which needs neither a network nor scripts."""

import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from tenreo.cli.checks import require_pages
from tenreo.cli.terminal.tables import analysis_rows, number, precise
from tenreo.errors import printable
from tenreo.evaluation.analysis import Analysis
from tenreo.files.atomic import write_text
from tenreo.sizes import byte_count

_BARS, _LABELS = 20, 12  # layers with a bar, and with a number in the picture
_LONGEST = 160  # characters of a name next to a bar
_AREA = ((80.0, 790.0), (330.0, 10.0))  # of the picture: left and right, bottom and top
_HEADINGS = ("layer", "bytes", "bits per weight", "SNR in dB", "KL if compressed alone", "agreement %",
             "KL if restored alone", "agreement %")  # fmt: skip


class Part(NamedTuple):
    """What a page says about one compressed model."""

    title: str  # empty on a page about a single model
    analysis: Analysis
    yaml: str | None = None  # better settings for the same bytes
    tried: str = ""  # what such settings led to, whether better or not


def write_page(
    path: Path, name: str, parts: Sequence[Part], settings: tuple[Sequence[str], Iterable[Sequence[str]]] | None = None
) -> None:
    """Write the page of the analyses of one model.

    Args:
        path: path of the HTML file.
        name: name of the model or file.
        parts: analyses.
        settings: headings and rows of a table that compares the parts, or None.

    Raises:
        TenreoError: if jinja2 is not installed, or the file cannot be written.
    """
    require_pages()
    from jinja2 import Environment, StrictUndefined

    # Names come from files, so everything is escaped.
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(files("tenreo.cli.terminal").joinpath("page.html").read_text("utf-8"))
    # Headings of a table in a terminal are broken, and divided by hyphens.
    table = settings and ([x.replace("-\n", "").replace("\n", " ") for x in settings[0]], _printable(settings[1]))
    text = template.render(
        name=printable(name), settings=table, headings=_HEADINGS, parts=[_described(part) for part in parts]
    )
    write_text(path, text)


def _described(part: Part) -> dict[str, Any]:
    """Return the values of the template for one analysis."""
    analysis = part.analysis
    return {
        "title": printable(part.title), "facts": _facts(analysis), "bars": _bars(analysis),
        "rows": _printable(analysis_rows(analysis.by_harm)), "yaml": part.yaml,
        "tried": printable(part.tried), **_points(analysis),
    }  # fmt: skip


def _printable(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [list(map(printable, row)) for row in rows]


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    """Return the lines about the whole model."""
    whole, before, after = analysis.whole, analysis.bytes_before, analysis.bytes_after
    low, high = analysis.agreement_interval
    facts = [
        ("size", f"{byte_count(before)} dense, {byte_count(after)} compressed ({before / after:.1f} times smaller)"),
        ("recipe", printable(str(analysis.recipe)) if analysis.recipe else "unknown"),
        ("compared on", printable(analysis.compared_on)),
        ("agreement", f"{number(whole.agreement, 1)} % (95 % interval {number(low, 1)} to {number(high, 1)} %)"),
        ("KL", f"{precise(whole.kl)} nats (95 % interval {' to '.join(map(precise, analysis.kl_interval))})"),
    ]
    if whole.top1 is not None:
        facts.append(("top-1", f"{number(whole.top1, 1)} %, dense {number(whole.reference_top1, 1)} %"))
    return facts


def _bars(analysis: Analysis) -> list[dict[str, Any]]:
    """Return the bars of the largest layers, of the other layers together, and of the rest of the file."""
    layers = sorted(analysis.layers, key=lambda x: -x.bytes_after)
    known = [(x.name, x.bytes_after, False) for x in layers[:_BARS]]
    if others := layers[_BARS:]:
        known.append((f"{len(others)} other layers", sum(x.bytes_after for x in others), True))
    rest = analysis.bytes_after - sum(x.bytes_after for x in layers)
    known.append(("other tensors and header", max(rest, 0), True))
    most = max(size for _, size, _ in known)
    share = 100 / max(1, analysis.bytes_after)
    return [
        {"name": printable(name, _LONGEST), "width": round(100 * size / max(1, most), 1), "rest": is_rest,
         "text": f"{byte_count(size)}, {number(size * share, 1)} %"}
        for name, size, is_rest in known
    ]  # fmt: skip


def _points(analysis: Analysis) -> dict[str, Any]:
    """Return the circles of the layers that change the outputs, and the ticks of both axes."""
    layers = [x for x in analysis.by_harm if x.alone.kl > 0 and x.bytes_after > 0]
    sizes, harms = [math.log10(x.bytes_after) for x in layers], [math.log10(x.alone.kl) for x in layers]
    points = [
        {"x": _place(size, sizes, _AREA[0]), "y": _place(harm, harms, _AREA[1]),
         "label": i + 1 if i < _LABELS else "",
         "title": f"{printable(x.name)}: {byte_count(x.bytes_after)}, KL {precise(x.alone.kl)}"}
        for i, (x, size, harm) in enumerate(zip(layers, sizes, harms, strict=True))
    ]  # fmt: skip
    x = [(_place(e, sizes, _AREA[0]), byte_count(round(10**e))) for e in _decades(sizes)]
    y = [(_place(e, harms, _AREA[1]), precise(10**e)) for e in _decades(harms)]
    return {"points": points, "ticks_x": x, "ticks_y": y}


def _place(value: float, values: Sequence[float], ends: tuple[float, float]) -> float:
    """Return the coordinate of a value; all values lie in the inner 84 % of the axis."""
    low, span = min(values), max(max(values) - min(values), 1e-9)
    return round(ends[0] + (ends[1] - ends[0]) * (0.08 + 0.84 * (value - low) / span), 1)


def _decades(values: Sequence[float]) -> list[float]:
    """Return logarithms of round numbers between the smallest and the largest value."""
    if not values:
        return []
    steps = (0.0,) if max(values) - min(values) > 2 else (0.0, math.log10(2), math.log10(5))
    marks = [e + step for e in range(math.floor(min(values)), math.ceil(max(values)) + 1) for step in steps]
    return [mark for mark in marks if min(values) <= mark <= max(values)]

"""Pictures of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenreo.checkpoint import replacing
from tenreo.errors import TenreoError


def require_plotting() -> None:
    """Raise unless `plot` can draw.

    Raises:
        TenreoError: when matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise TenreoError("plot: needs matplotlib; install tenreo[plot], or leave --plot out") from error


def plot_sweep(rows: list[dict[str, Any]], picture: Path) -> None:
    """Draw the settings of a sweep: SNR and, where it was measured, top-1 against the bytes of the file.

    Args:
        rows: of `tenreo sweep`, the dense model first.
        picture: PNG to write.

    Raises:
        TenreoError: when matplotlib is not installed, or the picture can not be written.
    """
    require_plotting()
    from matplotlib.figure import Figure

    shown = [(key, text) for key, text in (("snr", "SNR in dB"), ("top1", "top-1 in %")) if key in rows[-1]]
    figure = Figure(figsize=(4.8 * len(shown), 3.6), layout="constrained")
    for axis, (key, text) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for g in dict.fromkeys(row["groups"] for row in rows[1:]):
            line = sorted((r["bytes"] / 1e6, r[key], r["rate"]) for r in rows[1:] if r["groups"] == g)
            axis.plot([p[0] for p in line], [p[1] for p in line], marker="o", label=f"g = {g}")
            for point in line:
                axis.annotate(f"{point[2]:g}", point[:2], (3, -9), textcoords="offset points", fontsize=7)
        if rows[0].get(key) is not None:
            axis.axhline(
                rows[0][key], color="gray", linestyle=":", label=f"dense, {rows[0]['bytes'] / 1e6:.1f} MB"
            )
        axis.set(xlabel="MB on disk", ylabel=text)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)

"""Plans, reports and headers as rich tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tenreo.report import Counts
from tenreo.sizes import PRECISIONS


def number(value: float | None, digits: int = 2) -> str:
    """A figure for a table; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-" if value is None or value < 0 else "exact"
    return f"{value:.{digits}f}"


def millions(value: int) -> str:
    """A count as the paper prints it, in millions, with a digit more."""
    return f"{value / 1e6:.2f} M"


def megabytes(value: int) -> str:
    """Bytes in MB of a million bytes."""
    return f"{value / 1e6:.2f} MB"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> Table:
    """A table whose first `text` columns hold words and all others figures."""
    result = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, column in enumerate(columns):
        result.add_column(column, justify="left" if i < text else "right", overflow="fold", no_wrap=i >= text)
    for row in rows:
        result.add_row(*row)
    return result


def counts_table(
    before: Counts,
    after: Counts,
    snr: tuple[float | None, float | None] | None = None,
    size: int | None = None,
) -> Table:
    """The paper's two columns, what an optimiser changes, and bytes: dense beside compressed.

    Args:
        before: of the dense model.
        after: of the compressed one.
        snr: of all compressed layers in dB: before refinement, and as they are.
        size: of the file on disk.
    """
    rows = [
        ("parameters (paper)", millions(before.parameters), millions(after.parameters)),
        ("  positions", "-", millions(after.positions)),
        ("  coefficients", "-", millions(after.coefficients)),
        *([("  their scales", "-", millions(after.scales))] if after.scales else []),
        ("  left dense", millions(before.other_parameters), millions(after.other_parameters)),
        (
            "  BatchNorm statistics",
            millions(before.batchnorm_statistics),
            millions(after.batchnorm_statistics),
        ),
        ("trainable (paper)", millions(before.trainable), millions(after.trainable)),
        ("requires_grad", millions(before.requires_grad), millions(after.requires_grad)),
        ("bytes of all tensors", megabytes(before.bytes), megabytes(after.bytes)),
    ]
    if after.bits_per_weight is not None:
        rows.append(("bits per compressed weight", "-", number(after.bits_per_weight)))
    if size is not None:
        rows.append(("bytes on disk", "-", megabytes(size)))
    if snr is not None:
        for name, value in zip(("SNR before refinement", "SNR of compressed weights"), snr, strict=True):
            rows.append((name, "-", f"{number(value)} dB"))
    return table("Totals", ("", "dense", "compressed"), rows)


def layers_table(
    layers: Iterable[tuple[str, Sequence[int], int, int, int, str, float | None, float | None]],
) -> Table:
    """One row per compressed layer.

    Args:
        layers: name, shape, groups, length, kept, precision, SNR in dB before and after refinement.
    """
    rows = []
    for name, shape, groups, length, kept, precision, before, after in layers:
        rate = math.prod(shape) / groups / kept
        bits = PRECISIONS[precision]
        cells = (
            str(groups),
            str(length),
            f"{kept}/{bits}",
            f"{rate:.4g}",
            number(before),
            number(after),
        )
        rows.append((name, "x".join(map(str, shape)), *cells))
    columns = ("layer", "shape", "g", "samples", "kept\n/bits", "rate", "paper\ndB", "SNR\ndB")
    return table("Layers", columns, rows, text=2)

"""`tenreo inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tenreo.cli.common import Json, show, show_json
from tenreo.header import Header, is_pickle, read_header


def inspect(
    file: Annotated[
        Path, typer.Argument(help="A file of tenreo, dense safetensors, or a .pth of the reference.")
    ],
    layers: Annotated[bool, typer.Option(help="The table of layers.")] = True,
    json: Json = False,
) -> None:
    """Show what a file holds, from its header alone."""
    header = _read(file)
    if json:
        show_json(_to_dict(header, layers))
        return
    from tenreo.tables import counts_table, layers_table

    card = header.card
    show(f"{file}: {header.kind}, {card.arch or 'architecture not named'}, "
         f"{card.classes or 'unknown'} classes, weights {card.weights or 'not named'}")  # fmt: skip
    if header.recipe is not None:
        show(f"recipe: {header.recipe}")
    for correction in card.corrections:
        show(f"statistics: {correction}")
    if layers and header.layers:
        rows = (
            (n, x.shape, x.groups, x.length, x.kept, x.precision, x.snr_unrefined, x.snr)
            for n, x in header.layers.items()
        )
        show(layers_table(rows))
    elif layers:
        from tenreo.tables import table

        tensors = [
            (n, dtype, "x".join(map(str, shape)) or "1") for n, (dtype, shape) in header.tensors.items()
        ]
        show(table("Tensors", ("name", "dtype", "shape"), tensors, text=3))
    ratios = (header.snr_unrefined, header.snr) if header.layers else None
    show(counts_table(header.dense_counts(), header.counts(), ratios, header.size))


def _read(file: Path) -> Header:
    if is_pickle(file):
        from tenreo.models import read_reference

        return read_reference(file)[0]
    return read_header(file)


def _to_dict(header: Header, layers: bool) -> dict[str, Any]:
    result: dict[str, Any] = {
        "file": str(header.path),
        "kind": header.kind,
        "model": header.card.to_dict(),
        "recipe": header.recipe.to_dict() if header.recipe else None,
        "before": header.dense_counts().to_dict(),
        "after": header.counts().to_dict(),
        "bytes": header.size,
        "snr": header.snr,
        "snr_unrefined": header.snr_unrefined,
    }
    if layers:
        result["layers"] = {name: vars(entry) for name, entry in header.layers.items()}
    return result

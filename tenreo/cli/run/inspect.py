"""Body of `tenreo inspect`; it imports torch only for .pth files."""

from pathlib import Path
from typing import Any

from tenreo.cli.commands.inspect import Inspected
from tenreo.cli.shared_options import File
from tenreo.cli.terminal.console import show, show_json
from tenreo.cli.terminal.tables import counts_table, layers_table, table
from tenreo.files.counts import Counts
from tenreo.files.header import Header, is_pickle, read_header
from tenreo.planning.recipe import recipe_of


def inspect_file(file: File, shown: Inspected) -> None:
    """Read the header of a file and print it."""
    header = _read(file.file)
    recipe = recipe_of(header)
    before = header.dense_counts(recipe.dense_dtype) if recipe is not None else header.dense_counts()
    if shown.json:
        show_json("inspect", _to_dict(header, before, shown.layers))
        return
    info = header.info
    show(f"{file.file}: {header.kind}, {info.name or 'architecture not named'}, "
         f"{info.classes or 'unknown'} classes, weights {info.weights or 'not named'}")  # fmt: skip
    if recipe is not None:
        show(f"recipe: {recipe}")
    for correction in info.corrections:
        show(f"statistics: {correction}")
    if shown.layers and header.layers:
        show(layers_table(header.layers.items()))
    elif shown.layers:
        tensors = [(n, t.dtype, "x".join(map(str, t.shape)) or "1") for n, t in header.tensors.items()]
        show(table("Tensors", ("name", "dtype", "shape"), tensors, text=3))
    ratios = (header.snr_unrefined, header.snr) if header.layers else None
    show(counts_table(before, header.counts(), ratios))


def _read(path: Path) -> Header:
    if is_pickle(path):
        from tenreo.models.reference import read_reference  # imports torch

        return read_reference(path)[0]
    return read_header(path)


def _to_dict(header: Header, before: Counts, layers: bool) -> dict[str, Any]:
    rows = [
        {"name": name, "shape": list(r.shape), **vars(r.curve), "columns": r.columns, **vars(r.errors)}
        for name, r in header.layers.items()
    ]
    return {
        "file": str(header.path), "kind": header.kind, "bytes": header.size, "model": header.info.to_dict(),
        "recipe": header.recipe, "before": before.to_dict(), "after": header.counts().to_dict(), "snr": header.snr,
        "snr_unrefined": header.snr_unrefined, **({"layers": rows} if layers else {}),
    }  # fmt: skip

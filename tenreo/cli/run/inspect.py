"""Body of `tenreo inspect`; it imports torch only for .pth files."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from tenreo.cli.commands.inspect import Inspected
from tenreo.cli.shared_options import Checkpoint
from tenreo.cli.terminal.console import show, show_json
from tenreo.cli.terminal.tables import counts_table, layers_table, number, table
from tenreo.files.checkpoints import find_files
from tenreo.files.counts import Counts
from tenreo.files.header import HEADER, Header, is_pickle, read_header
from tenreo.files.layout import DENSE
from tenreo.files.records import Preprocess
from tenreo.planning.recipe import recipe_of


def inspect_file(checkpoint: Checkpoint, shown: Inspected) -> None:
    """Read the headers of a file or of all files of a folder, and print them."""
    headers = [_read(path) for path in find_files(checkpoint.file).weights]
    header = headers[0]
    recipe = recipe_of(header)
    dense = [each.dense_counts(recipe.dense_dtype) if recipe is not None else each.dense_counts() for each in headers]
    before, after = sum(dense, Counts()), sum((each.counts() for each in headers), Counts())
    merged = replace(
        header, path=checkpoint.file, layers={name: x for each in headers for name, x in each.layers.items()},
        size=sum(each.size for each in headers),
    )  # fmt: skip
    tensors = [row for each in headers for row in _tensors(each)]
    if shown.json:
        show_json("inspect", _to_dict(merged, (before, after), tensors, shown.layers))
        return
    info, layers = header.info, merged.layers
    more = f", {len(headers):,} files" if len(headers) > 1 else ""
    show(f"{checkpoint.file}: {merged.kind}, {info.name or 'architecture not named'}, "
         f"{info.classes or 'unknown'} classes, weights {info.weights or 'not named'}{more}")  # fmt: skip
    if info.source is not None and (info.classes is not None or info.preprocess != Preprocess()):
        p = info.preprocess
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (p.mean, p.std))
        show(f"input: {p.channels}x{p.crop}x{p.crop}, mean {mean}, std {std}")
    if header.source is not None:
        show("source: " + ", ".join(f"{key} {value}" for key, value in header.source.to_dict().items()))
    if recipe is not None:
        show(f"recipe: {recipe}")
    for correction in info.corrections:
        show(f"statistics: {correction}")
    if shown.layers and layers:
        show(layers_table(layers.items()))
    if shown.layers:
        show(_bytes_table(_one_header(tensors), merged.size))
    show(counts_table(before, after, (merged.snr_unrefined, merged.snr) if layers else None))


def _tensors(header: Header) -> list[dict[str, Any]]:
    """Return the name, dtype, shape, bytes and bits per element of every tensor, and of the rest of the file."""
    dense = header.dense_tensors()
    coded = sum(each.numel for each in header.coded.values())
    rows = []
    for name, size in header.stored_bytes().items():
        known = dense.get(name)
        numel = known.numel if known else coded if name == DENSE else 0
        rows.append({
            "name": name, "dtype": known.dtype if known else None, "shape": list(known.shape) if known else None,
            "bytes": size, "bits_per_weight": 8 * size / numel if numel else None, "file": header.path.name,
        })  # fmt: skip
    return rows


def _one_header(tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with one for the headers of all files together."""
    rows = [row for row in tensors if row["name"] != HEADER]
    headers = [row for row in tensors if row["name"] == HEADER]
    return [*rows, {**headers[0], "bytes": sum(row["bytes"] for row in headers)}]


def _bytes_table(tensors: Iterable[dict[str, Any]], total: int) -> Table:
    names = {DENSE: "coded tensors"}
    cells = [
        (names.get(x["name"], x["name"]), x["dtype"] or "", "x".join(map(str, x["shape"] or ())) or "",
         f"{x['bytes']:,}", number(x["bits_per_weight"]), number(100 * x["bytes"] / max(1, total), 1))
        for x in tensors
    ]  # fmt: skip
    return table("Bytes", ("tensor", "dtype", "shape", "bytes", "bits per\nweight", "% of\nall"), cells, text=3)


def _read(path: Path) -> Header:
    if is_pickle(path):
        from tenreo.models.reference import read_reference  # imports torch

        return read_reference(path)[0]
    return read_header(path)


def _to_dict(
    header: Header, counts: tuple[Counts, Counts], tensors: list[dict[str, Any]], layers: bool
) -> dict[str, Any]:
    rows = [
        {"name": name, "shape": list(r.shape), **vars(r.curve), "columns": r.columns, **vars(r.errors)}
        for name, r in header.layers.items()
    ]
    return {
        "file": str(header.path), "kind": header.kind, "bytes": header.size, "model": header.info.to_dict(),
        "source": None if header.source is None else header.source.to_dict(), "recipe": header.recipe,
        "before": counts[0].to_dict(), "after": counts[1].to_dict(), "snr": header.snr,
        "snr_unrefined": header.snr_unrefined, **({"layers": rows, "tensors": tensors} if layers else {}),
    }  # fmt: skip

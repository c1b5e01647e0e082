"""`tenreo compress` of files without a model."""

from pathlib import Path
from typing import Any

import torch

from tenreo.checkpoints.compress import Written, compress_tensors
from tenreo.checkpoints.plan import resolve_tensors
from tenreo.checkpoints.sources import Source, open_source
from tenreo.cli.commands.compress import CompressedFiles, Output
from tenreo.cli.exits import usage
from tenreo.cli.run.plans import note_dense_layers
from tenreo.cli.terminal.console import note, show, show_command, show_json
from tenreo.cli.terminal.progress import note_compiling, progress_bar
from tenreo.cli.terminal.results import comparison, next_command, summary
from tenreo.cli.terminal.tables import counts_table, layers_table
from tenreo.codec.jit import on_compile
from tenreo.distributed import ProcessGroup, process_group
from tenreo.files.checkpoints import Output as Target
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import Plan
from tenreo.planning.recipe import Recipe


def resolve_files(path: Path, recipe: Recipe) -> Plan:
    """Return the plan of a file or folder."""
    source = open_source(path)
    with usage():
        return resolve_tensors(recipe, source)


def compress_files(files: CompressedFiles, recipe: Recipe, output: Output, jobs: int | None) -> None:
    """Compress the tensors of a file or folder, write the files, and print the report."""
    with process_group(torch.device("cpu")) as group:
        source = open_source(files.path)
        with usage():
            plan = resolve_tensors(recipe, source)
            target = files.target(recipe, output, jobs)
        if group.is_main and any(name.endswith(".running_mean") for name in source.tensors):
            note("BatchNorm statistics are not corrected, since nothing runs without the model's code; see --model")
        note_dense_layers(plan)
        written = _compress_with_progress(source, plan, target, group)
        if group.is_main:
            _show(written, files.path, target.path, output)


def _compress_with_progress(source: Source, plan: Plan, target: Target, group: ProcessGroup) -> Written:
    total = sum(layer.numel for layer in plan.compressed) // group.size
    encoded: set[str] = set()
    with (
        on_compile(note_compiling),
        progress_bar("weights", total, group.is_main) as advance,
    ):

        def progress(layer: LayerPlan) -> None:
            advance(layer.numel if layer.name not in encoded else 0, layer.name)  # a few are encoded a second time
            encoded.add(layer.name)

        return compress_tensors(source, plan, target, group, progress)


def _show(written: Written, source: Path, path: Path, output: Output) -> None:
    plan, after = written.plan, written.after
    if output.json:
        show_json("compress", {"file": str(path), "bytes": after.bytes, **written_values(written)})
        return
    if output.layers_:
        show(layers_table(written.layers.items()), counts_table(plan.before, after, (None, written.snr)))
    show(*summary(plan.recipe, plan.before, after, written.snr))
    show(f"wrote {path}{f': {len(written.files)} files' if len(written.files) > 1 else ''}")
    show(comparison(plan.before, after))
    show_command(next_command("verify", path, "--against", source))


def written_values(written: Written) -> dict[str, Any]:
    """Return what a compression without a model wrote, as plain values for JSON."""
    plan = written.plan
    layers = [
        {"name": name, "shape": list(x.shape), **vars(x.curve), "columns": x.columns, **vars(x.errors)}
        for name, x in written.layers.items()
    ]
    return {
        "recipe": plan.recipe.to_dict(), "coverage": plan.coverage, "before": plan.before.to_dict(),
        "after": written.after.to_dict(), "snr": written.snr, "snr_unrefined": None, "layers": layers,
        "corrections": [],
    }  # fmt: skip

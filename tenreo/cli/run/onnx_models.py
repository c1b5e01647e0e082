"""`tenreo compress` of an ONNX model."""

from dataclasses import replace

from rich.table import Table

from tenreo.cli.commands.compress import CompressedFiles, Output, Statistics
from tenreo.cli.exits import usage
from tenreo.cli.run.checkpoints import written_values
from tenreo.cli.run.plans import show_plan
from tenreo.cli.terminal.console import note, show, show_json
from tenreo.cli.terminal.progress import note_compiling, progress_bar
from tenreo.cli.terminal.results import comparison, summary
from tenreo.cli.terminal.tables import counts_table, layers_table, number, table
from tenreo.codec.jit import on_compile
from tenreo.exporting.compress_onnx import CompressedOnnx, compress_onnx
from tenreo.exporting.dense_onnx import open_onnx, resolve_onnx
from tenreo.planning.layers import LayerPlan
from tenreo.planning.recipe import Recipe


def compress_onnx_model(
    files: CompressedFiles, recipe: Recipe, statistics: Statistics, output: Output, jobs: int | None
) -> None:
    """Compress an ONNX model, write it, and print how its outputs differ from those of the dense model."""
    with usage():
        target = files.onnx_target(recipe, output)
    if output.dry_run:
        dense = open_onnx(files.path)
        with usage():
            plan = resolve_onnx(dense, recipe)
        show_plan(plan, output.json)
        return
    with (
        on_compile(note_compiling),
        progress_bar("weights", None) as advance,
    ):

        def progress(layer: LayerPlan) -> None:
            advance(layer.numel, layer.name)

        done = compress_onnx(
            files.path, target, recipe, statistics.inputs, match_statistics=statistics.match_statistics, jobs=jobs,
            progress=progress, note=note,
        )  # fmt: skip
    _show(done, output)


def _show(done: CompressedOnnx, output: Output) -> None:
    written = done.written
    if output.json:
        show_json("compress", {**written_values(written), **done.to_dict()})
        return
    before, after = replace(written.plan.before, bytes=done.bytes_before), replace(written.after, bytes=done.bytes)
    if output.layers_:
        show(layers_table(written.layers.items()), counts_table(before, after, (None, written.snr)))
    show(*summary(written.plan.recipe, before, after, written.snr))
    if done.outputs:
        show(_outputs_table(done))
    show(f"wrote {done.path}", comparison(before, after))


def _outputs_table(done: CompressedOnnx) -> Table:
    cells = [
        (each.name, "x".join(map(str, each.shape)), f"{100 * each.relative:.2f}", number(each.kl, 4),
         number(each.agreement, 1))
        for each in done.outputs
    ]  # fmt: skip
    columns = ("output", "shape", "difference\nin %", "KL in nats", "same largest\nentry in %")
    return table(f"Outputs on {done.compared_on}", columns, cells, text=2)

"""Body of `tenreo compress`."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tenreo.cli import checks
from tenreo.cli.commands.compress import CompressedFiles, Output, Statistics, default_name
from tenreo.cli.exits import WrongUsageError, usage
from tenreo.cli.run.better import Pair
from tenreo.cli.run.checkpoints import compress_files, resolve_files
from tenreo.cli.run.compression import Compression
from tenreo.cli.run.models import open_inputs, open_model
from tenreo.cli.run.onnx_models import compress_onnx_model
from tenreo.cli.run.plans import note_dense_layers, show_plan
from tenreo.cli.run.reports import check_classifier, write_report
from tenreo.cli.shared_options import DenseModel, Encoding, choose_workers
from tenreo.cli.terminal.console import note, note_images, show, show_command, show_json
from tenreo.cli.terminal.progress import doing
from tenreo.cli.terminal.results import comparison, next_command, summary
from tenreo.cli.terminal.tables import counts_table, layers_table
from tenreo.compression.report import Report
from tenreo.data.batches import Loading, UnlabeledBatches
from tenreo.data.images import open_unlabeled
from tenreo.data.workers import explain_worker_loss
from tenreo.devices import choose_device
from tenreo.errors import TenreoError
from tenreo.evaluation.sensitivity import check_outputs
from tenreo.exporting.formats import Deployment
from tenreo.files.atomic import make_folder
from tenreo.files.checkpoints import SINGLE
from tenreo.files.records import ModelInfo
from tenreo.hub.folders import describe_folder
from tenreo.models.dense_weights import rename_weights
from tenreo.models.model_files import save
from tenreo.models.names import RANDOM, is_safe
from tenreo.planning.plan import Plan
from tenreo.planning.rates import TargetSize
from tenreo.planning.recipe import Recipe

_NEARLY = 0.98  # of the target size: a smaller file needs an explanation
_PRECISE = 80.0  # dB


def compress_and_save(
    dense: DenseModel, recipe: Recipe, statistics: Statistics, encoding: Encoding, output: Output,
    files: CompressedFiles,
) -> None:  # fmt: skip
    """Plan the compression, compress the model or files, correct statistics, write the file and print the report."""
    if files.is_onnx:
        compress_onnx_model(files, recipe, statistics, output, encoding.jobs)
        return
    if files.source is not None:
        if output.dry_run:
            show_plan(resolve_files(files.source, recipe), output.json)
        else:
            compress_files(files, recipe, output, encoding.jobs)
        return
    with usage():
        device = choose_device(encoding.device)
    model, info = open_model(dense, not output.dry_run, bool(statistics.given))
    noise = dense.shape or info.preprocess.crop
    with usage():
        images = _images(statistics, info, model, dense.seed)
        if output.report is not None and images is None:
            check_classifier(dense.name, info)
        path = output.out or Path(default_name(dense.name, recipe))
        folder = path if checks.is_folder(path) else None
        path = path if folder is None else folder / SINGLE
        info = rename_weights(info, Path(), path.parent)
        info = replace(info, license=files.license or info.license)
        job = Compression(model, info, noise, statistics, images, encoding.jobs)
        plan = job.plan(recipe)
    if output.dry_run:
        show_plan(plan, output.json)
        return
    if output.report is not None and images is not None:
        _check_report(model, images)
    _note_random_weights(info)
    note_dense_layers(plan)
    job = replace(job, model=model.to(device))
    original = None if output.report is None else deepcopy(job.model)
    plan = job.with_importance(plan)
    done = job.compress_for_onnx(plan.recipe) if output.for_ is Deployment.ONNX else job.compress_(plan)
    if isinstance(images, UnlabeledBatches):
        note_images(images.batches.broken, images.batches.warnings)
    doing(f"writing {path}")
    info, plan = replace(info, corrections=done.corrections), done.plan
    if folder is not None:
        make_folder(folder)
    save(done.model, path, info, plan.recipe)
    if folder is not None:
        describe_folder(folder)
    report = replace(done.report, after=replace(done.report.after, bytes=path.stat().st_size))
    _note_unused_bytes(report, plan.recipe)
    if output.report is not None and original is not None:
        pair = Pair(str(path), done.model, original, info, dense.weights, report.after.bytes)
        write_report(output.report, pair, job, device)
    _show_report(report, plan, path, info, statistics, output)


def _check_report(model: nn.Module, images: Iterable[Any]) -> None:
    """Raise an error unless the outputs of a model can be analyzed, which otherwise shows after the compression."""
    try:
        with explain_worker_loss():
            check_outputs(model, images)
    except TenreoError as error:
        subject, _, problem = str(error).partition(": ")
        if subject != "analyze":  # the images are at fault
            raise
        raise WrongUsageError(f"report: {problem}") from error


def _note_random_weights(info: ModelInfo) -> None:
    """Say so if the weights of a model are not trained, or perhaps not."""
    if info.weights == RANDOM:
        note("the weights are random (--weights none): only sizes can be learned from the result")
    elif info.weights is None and info.builder is not None and not is_safe(info.builder):
        note(f"without --weights, the weights are those that {info.builder} returns; they are random if it loads none")


def _images(statistics: Statistics, info: ModelInfo, model: nn.Module, seed: int) -> Iterable[Any] | None:
    """Return the batches of `--calibrate`, `--inputs` or `--loader`; None without them."""
    inputs = open_inputs(statistics, limit=64 * statistics.calibrate_batches)
    if inputs is not None:
        return inputs.of(model)
    if statistics.calibrate is None:
        return None
    opened = open_unlabeled(statistics.calibrate, "train", info.preprocess)
    loading = Loading(64, choose_workers(None, statistics.calibrate), statistics.skip_broken)
    return UnlabeledBatches(opened, statistics.calibrate_batches, loading, seed)


def _note_unused_bytes(report: Report, recipe: Recipe) -> None:
    """Say so if a file is smaller than its target because no more precise encoding is of use."""
    used = report.after.bytes
    if isinstance(recipe.rate, TargetSize) and used < _NEARLY * recipe.rate.bytes:
        reason = "the weights have no encoding between this size and the target"
        if report.snr > _PRECISE:
            reason = f"more bytes would not help, since the weights have an SNR of {report.snr:.0f} dB already"
        note(f"the file has {used:,} bytes instead of {recipe.rate.bytes:,}: {reason}")


def _show_report(
    report: Report, plan: Plan, path: Path, info: ModelInfo, statistics: Statistics, output: Output
) -> None:
    if output.json:
        corrections = [vars(correction) for correction in info.corrections]
        show_json(
            "compress",
            {"file": str(path), "bytes": report.after.bytes, "recipe": plan.recipe.to_dict(), "coverage": plan.coverage,
             **report.to_dict(), "corrections": corrections},
        )  # fmt: skip
        return
    if output.layers_:
        sizes = {layer.name: layer.bytes_after for layer in report.layers}
        show(layers_table(((layer.name, layer.record) for layer in report.layers), sizes))
        show(counts_table(report.before, report.after, (report.snr_unrefined, report.snr)))
    show(*summary(plan.recipe, report.before, report.after, report.snr))
    for correction in info.corrections:
        show(f"statistics: {correction}")
    show(f"wrote {path}", comparison(report.before, report.after))
    show_command(_next_command(path, info, statistics))


def _next_command(path: Path, info: ModelInfo, statistics: Statistics) -> str:
    """Return the command that shows what the compression did to the outputs, or that shows the file."""
    against = () if info.weights is None else ("--against", "dense")
    own = [(f"--{name}", getattr(statistics, name)) for name in statistics.given]
    if info.weights == RANDOM or not (info.classes or (own and against)):
        return next_command("inspect", path)
    model = () if info.builder is None or is_safe(info.builder) else ("--model", info.builder)
    data = own[0] if own and against else ("--data", "DIR")
    return next_command("evaluate", path, *model, *against, *data)

"""Body of `tenreo compress`."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.cli import checks
from tenreo.cli.commands.compress import CompressedFiles, Output, Statistics, default_name
from tenreo.cli.exits import usage
from tenreo.cli.run.checkpoints import compress_files, resolve_files
from tenreo.cli.run.models import open_inputs, open_model
from tenreo.cli.run.onnx_models import compress_onnx_model
from tenreo.cli.run.plans import show_plan
from tenreo.cli.run.reports import Pair, check_classifier, write_report
from tenreo.cli.shared_options import DenseModel, Encoding, choose_workers
from tenreo.cli.terminal.console import note, note_images, progress_bar, show, show_command, show_json
from tenreo.cli.terminal.results import comparison, next_command, summary
from tenreo.cli.terminal.tables import counts_table, layers_table
from tenreo.codec.jit import on_compile
from tenreo.compression.compress_model import compress_
from tenreo.compression.parametrization import quantized_coefficients
from tenreo.compression.report import Report
from tenreo.correction.importance import measure_importance
from tenreo.correction.statistics import match_statistics_
from tenreo.data.batches import Loading, UnlabeledBatches
from tenreo.data.images import open_unlabeled
from tenreo.data.workers import explain_worker_loss
from tenreo.devices import choose_device
from tenreo.errors import OutOfMemoryError, TenreoError
from tenreo.evaluation.targets import compress_to_
from tenreo.exporting.export import example_inputs, export
from tenreo.exporting.formats import Deployment
from tenreo.exporting.onnx_size import compress_for_onnx
from tenreo.files.atomic import make_folder
from tenreo.files.checkpoints import SINGLE
from tenreo.files.records import Correction, ModelInfo
from tenreo.hub.folders import describe_folder
from tenreo.models.dense_weights import rename_weights
from tenreo.models.model_files import save
from tenreo.models.names import RANDOM, is_safe
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import Plan, resolve
from tenreo.planning.rates import OutputTarget, TargetSize
from tenreo.planning.recipe import Recipe, Strategy

_NEARLY = 0.98  # of the target size: a smaller file needs an explanation
_PRECISE = 80.0  # dB
_CORRECTED = (9999, 999, 0)  # numbers of images, BatchNorms and biases with as many digits as most corrections have


def compress_and_save(
    dense: DenseModel, recipe: Recipe, statistics: Statistics, encoding: Encoding, output: Output,
    files: CompressedFiles,
) -> None:  # fmt: skip
    """Plan the compression, compress the model or files, correct statistics, write the file and print the report."""
    if files.is_onnx:
        compress_onnx_model(files, recipe, statistics.inputs, output, encoding.jobs)
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
    with usage():
        images = _images(statistics, info, model, dense.seed)
        if output.report is not None and images is None:
            check_classifier(dense.name, info)
        path = output.out or Path(default_name(dense.name, recipe))
        folder = path if checks.is_folder(path) else None
        path = path if folder is None else folder / SINGLE
        info = rename_weights(info, Path(), path.parent)
        info = replace(info, license=files.license or info.license)
        plan = resolve(recipe, model, _with_correction(info, statistics))
    if output.dry_run:
        show_plan(plan, output.json)
        return
    _note_random_weights(info)
    for layer in plan.skipped:
        note(f"{layer.name} is left dense: {layer.why_dense}")
    noise, model = dense.shape or info.preprocess.crop, model.to(device)
    original = None if output.report is None else deepcopy(model)
    recipe, plan = _with_measured_importance(recipe, plan, model, info, statistics, images, noise)
    if output.for_ is Deployment.ONNX:
        model, plan, report, corrections = _compress_for_onnx(model, info, recipe, statistics, images, noise, encoding)
    else:
        plan, report, corrections = _compress(model, plan, statistics, images, noise, encoding.jobs)
    if isinstance(images, UnlabeledBatches):
        note_images(images.batches.broken, images.batches.warnings)
    info = replace(info, corrections=corrections)
    if folder is not None:
        make_folder(folder)
    save(model, path, info, plan.recipe)
    if folder is not None:
        describe_folder(folder)
    report = replace(report, after=replace(report.after, bytes=path.stat().st_size))
    _note_unused_bytes(report, plan.recipe)
    if output.report is not None and original is not None:
        pair = Pair(str(path), model, original, info, dense.weights, report.after.bytes)
        write_report(output.report, pair, device, images, noise, _source(statistics))
    _show_report(report, plan, path, info, statistics, output)


def compress_in_memory(
    model: nn.Module, info: ModelInfo, recipe: Recipe, noise: int | tuple[int, ...], jobs: int | None
) -> tuple[Plan, Report, tuple[Correction, ...]]:
    """Compress a model in place as `tenreo compress` does by default, without writing a file.

    Args:
        model: dense model on its device.
        info: its description.
        recipe: recipe of the compression.
        noise: side or shape of the noise images.
        jobs: number of layers that are encoded at the same time.
    """
    statistics = Statistics()
    with usage():
        plan = resolve(recipe, model, _with_correction(info, statistics))
    recipe, plan = _with_measured_importance(recipe, plan, model, info, statistics, None, noise)
    return _compress(model, plan, statistics, None, noise, jobs)


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


def _with_measured_importance(
    recipe: Recipe, plan: Plan, model: nn.Module, info: ModelInfo, statistics: Statistics,
    images: Iterable[Any] | None, noise: int | tuple[int, ...],
) -> tuple[Recipe, Plan]:  # fmt: skip
    """Return a recipe and its plan, with measured importance if it distributes bits at one price."""
    if (
        not statistics.measure_importance
        or plan.strategy is not Strategy.PRICE
        or isinstance(recipe.rate, OutputTarget)
    ):
        return recipe, plan
    recipe = _with_importance(recipe, model, images, noise)
    return recipe, resolve(recipe, model, _with_correction(info, statistics))


def _with_importance(
    recipe: Recipe, model: nn.Module, images: Iterable[Any] | None, noise: int | tuple[int, ...]
) -> Recipe:
    """Return a recipe with measured importance; without images, the same recipe if the model does not run on noise."""
    try:
        with explain_worker_loss():
            return measure_importance(recipe, model, images, size=noise)
    except TenreoError as error:
        if images is not None:
            raise
        note(f"all layers have the same importance: {error}")
        return recipe


def _with_correction(info: ModelInfo, statistics: Statistics) -> ModelInfo:
    """Return the info with a placeholder of the correction that the file will state, so that its size counts."""
    if not statistics.match_statistics and _source(statistics) is None:
        return info
    return replace(info, corrections=(Correction(_source(statistics) or "noise", *_CORRECTED),))


def _source(statistics: Statistics) -> str | None:
    """Return the name of the inputs that statistics are corrected on; None for noise."""
    path = statistics.inputs
    return statistics.calibrate or statistics.loader or (None if path is None else str(path))


def _compress(
    model: nn.Module,
    plan: Plan,
    statistics: Statistics,
    images: Iterable[Any] | None,
    noise: int | tuple[int, ...],
    jobs: int | None,
) -> tuple[Plan, Report, tuple[Correction, ...]]:
    """Compress a model in place and correct its statistics; return the plan, which a target for outputs changes."""
    if isinstance(plan.recipe.rate, OutputTarget):
        with explain_worker_loss():
            batches = None if images is None else _joined(images)
        source = _source(statistics) or "noise"
        reached = compress_to_(model, plan, batches, size=noise, jobs=jobs, source=source, progress=note)
        agreement = reached.agreement
        note(f"on {reached.compared_on}: KL {agreement.kl:.4f} nats, agreement {agreement.agreement:.2f} %")
        return reached.plan, reached.report, (reached.correction,)
    dense = deepcopy(model) if statistics.match_statistics or images is not None else None
    report = _compress_with_progress(model, plan, jobs)
    with explain_worker_loss(), progress_bar("statistics, images", None) as advance:
        if dense is None:
            return plan, report, ()
        try:
            correction = match_statistics_(
                model, dense, images, size=noise, source=_source(statistics), progress=advance
            )
        except TenreoError as error:
            if images is not None or isinstance(error, OutOfMemoryError):
                raise
            note(f"statistics are not corrected: {error}")  # a model may have inputs that are not images
            return plan, report, ()
        return plan, report, (correction,)


def _joined(batches: Iterable[Any]) -> Tensor:
    """Return all batches of images as one tensor."""
    parts = list(batches)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TenreoError("target: the inputs have several arguments, but a target for the outputs needs one array")
    return torch.cat(parts)


def _compress_for_onnx(
    model: nn.Module,
    info: ModelInfo,
    recipe: Recipe,
    statistics: Statistics,
    images: Iterable[Any] | None,
    noise: int | tuple[int, ...],
    encoding: Encoding,
) -> tuple[nn.Module, Plan, Report, tuple[Correction, ...]]:
    """Compress a copy of a model so that its small ONNX model has the target size of the recipe."""
    given = open_inputs(statistics)
    inputs = example_inputs(model, noise) if given is None else given.first(model, 2)

    def attempt(trial: Recipe) -> tuple[int, tuple[nn.Module, Plan, Report, tuple[Correction, ...]]]:
        own = deepcopy(model)
        plan = resolve(trial, own, _with_correction(info, statistics))
        plan, report, corrections = _compress(own, plan, statistics, images, noise, encoding.jobs)
        with TemporaryDirectory() as folder, quantized_coefficients(own), torch.no_grad():
            size = export(own, Path(folder) / "model.onnx", inputs=inputs, info=info, small=True).bytes
        note(f"a file of {report.after.bytes:,} bytes leads to an ONNX model of {size:,} bytes")
        return size, (own, plan, report, corrections)

    return compress_for_onnx(recipe, attempt)


def _compress_with_progress(model: nn.Module, plan: Plan, jobs: int | None) -> Report:
    """Compress a model in place with a progress bar, and note when code has to be compiled first."""
    total = 2 * sum(layer.columns for layer in plan.compressed)  # every column is ordered and then encoded
    with (
        on_compile(lambda: note("compiling the chain, once per machine: about 15 seconds")),
        progress_bar("columns", total) as advance,
    ):
        shown: dict[str, int] = {}  # columns per layer that the bar has counted

        def within(layer: LayerPlan, fraction: float) -> None:
            columns = int(fraction * layer.columns)
            advance(columns - shown.get(layer.name, 0), layer.name)
            shown[layer.name] = columns

        def progress(layer: LayerPlan) -> None:
            advance(layer.columns - shown.pop(layer.name, 0), layer.name)

        return compress_(model, plan, jobs=jobs, progress=progress, within=within)


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

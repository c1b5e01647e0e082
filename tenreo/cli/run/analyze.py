"""Body of `tenreo analyze`."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch

from tenreo.cli.commands.analyze import AnalysisOutput, AnalyzedData, CompressedFile
from tenreo.cli.commands.compress import Statistics
from tenreo.cli.exits import usage
from tenreo.cli.run.better import Pair, Trial, try_better
from tenreo.cli.run.compression import Compression
from tenreo.cli.run.models import named_dense, open_file, open_model
from tenreo.cli.run.reports import analyze_with_progress, check_classifier, part_of_page
from tenreo.cli.shared_options import DenseModel, Encoding, Layout, ModelFile, choose_workers
from tenreo.cli.terminal.console import note, note_images, show, show_command, show_json
from tenreo.cli.terminal.page import write_page
from tenreo.cli.terminal.pictures import plot_analysis
from tenreo.cli.terminal.results import next_command
from tenreo.cli.terminal.tables import analysis_table, number, precise
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images, open_optionally_labeled
from tenreo.data.label_files import LabelFiles
from tenreo.data.workers import explain_worker_loss
from tenreo.devices import choose_device, explain_out_of_memory
from tenreo.evaluation.analysis import Analysis
from tenreo.files.atomic import write_text
from tenreo.models.dense_weights import open_dense
from tenreo.models.inputs import check_input
from tenreo.planning.rates import TargetBits
from tenreo.planning.recipe import Recipe
from tenreo.sizes import byte_count

DEFAULT_RATE = TargetBits(4)


def analyze_model(
    dense: DenseModel, recipe: Recipe | None, data: AnalyzedData, layout: Layout, encoding: Encoding,
    output: AnalysisOutput, file: CompressedFile,
) -> None:  # fmt: skip
    """Analyze a file, or a model that is compressed in memory, and print and write the results."""
    with usage():
        device = choose_device(encoding.device, fixed_shapes=True)
    if file.source is not None:
        pair = _open_pair(ModelFile(file.source, dense.model), file)
    else:
        pair = _compress_pair(dense, recipe, encoding, device)
    batches, images = _batches(data, layout, pair, device)
    size = dense.shape or pair.info.preprocess.crop
    with explain_out_of_memory(data.batch_size), explain_worker_loss():
        result = analyze_with_progress(pair, device, batches, size, data.data)
    if batches is not None:
        note_images(batches.broken, batches.warnings)
        if images is not None and images.doubt:
            note(images.doubt)
    trial = None
    if output.html is not None or output.better is not None:
        corrected = Statistics(match_statistics=bool(pair.info.corrections))
        job = Compression(pair.dense, pair.info, size, corrected, jobs=encoding.jobs)
        trial = try_better(result, pair, job, batches)
    _write(result, pair, trial, output)
    _show(result, pair, trial, output)


def _open_pair(file: ModelFile, given: CompressedFile) -> Pair:
    """Open the model of a file, and its dense model."""
    with usage():
        weights = named_dense(file, given.given_dense)
    model, header = open_file(file)
    with usage():
        check_classifier(file.file, header.info)
    reference = open_dense(header, given.given_dense, trust_builder=file.model is not None)
    return Pair(str(file.file), model, reference, header.info, weights, header.size)


def _compress_pair(dense: DenseModel, recipe: Recipe | None, encoding: Encoding, device: torch.device) -> Pair:
    """Compress the model that the options name, in memory."""
    model, info = open_model(dense)
    name = dense.model or dense.require_arch()
    with usage():
        check_classifier(name, info)
    if recipe is None:
        recipe = Recipe(None, DEFAULT_RATE)
        note(f"without a rate or size, the model is compressed to {DEFAULT_RATE.bits:g} bits per weight (--bits)")
    compressed = model.to(device)
    reference = deepcopy(compressed)
    noise = dense.shape or info.preprocess.crop
    job = Compression(compressed, info, noise, jobs=encoding.jobs)
    with usage():
        plan = job.plan(recipe)
    done = job.compress_(job.with_importance(plan))
    return Pair(name, compressed, reference, replace(info, corrections=done.corrections), dense.weights, None)


def _batches(
    data: AnalyzedData, layout: Layout, pair: Pair, device: torch.device
) -> tuple[Batches | None, Images | None]:
    """Open the images of `--data`; None without it."""
    if data.data is None:
        return None, None
    info = pair.info
    with usage():
        check_input(pair.compressed, info.preprocess)
        images = open_optionally_labeled(
            data.data, info.preprocess, info.classes, info.class_names, split=layout.split,
            label_files=LabelFiles(layout.labels, layout.class_map),
        ).limited(data.limit)  # fmt: skip
    loading = Loading(min(data.batch_size, len(images)), choose_workers(None, data.data), data.skip_broken)
    return Batches(images, loading, device), images


def _write(result: Analysis, pair: Pair, trial: Trial | None, output: AnalysisOutput) -> None:
    """Write the requested files; `--better` only if there is another recipe."""
    written = dict(output.files)
    if output.plot is not None:
        plot_analysis(result, pair.name, output.plot)
    if output.html is not None:
        write_page(output.html, pair.name, [part_of_page(result, trial)])
    if output.better is not None and trial is None:
        del written["better"]
    elif output.better is not None and trial is not None:
        write_text(output.better, f"# {trial}\n{trial.yaml}")
    if written:
        note("wrote " + ", ".join(map(str, written.values())))


def _show(result: Analysis, pair: Pair, trial: Trial | None, output: AnalysisOutput) -> None:
    if output.json:
        tried = None if trial is None else {"bytes": trial.bytes, "kl": trial.kl}
        show_json("analyze", {"name": pair.name, **result.to_dict(), "better": tried})
        return
    whole, interval = result.whole, result.kl_interval
    show(analysis_table(result.by_harm))
    show(
        f"the whole model, on {result.compared_on}: KL {precise(whole.kl)} nats "
        f"(95 % interval {precise(interval[0])} to {precise(interval[1])}), "
        f"agreement {number(whole.agreement, 1)} % ({number(result.agreement_interval[0], 1)} to "
        f"{number(result.agreement_interval[1], 1)})"
    )
    if whole.top1 is not None:
        show(f"top-1 {number(whole.top1, 1)} %, dense {number(whole.reference_top1, 1)} %")
    layers = sum(layer.bytes_after for layer in result.layers)
    show(f"{pair.name}: {byte_count(result.bytes_after)}, of which {byte_count(layers)} are for these "
         f"{len(result.layers)} layers")  # fmt: skip
    if output.better is not None and trial is not None:
        show(f"{output.better} is {'better' if trial.helps else 'no better'}: {trial}")
        if trial.helps:
            show_command(
                next_command("compress", "--config", output.better, "-o", Path(output.better).stem + ".safetensors")
            )

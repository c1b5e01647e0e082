"""Body of `tenreo evaluate`."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from tenreo.cli.commands.evaluate import Evaluated, EvaluatedInputs, EvaluatedOutput, Files, needs_labels
from tenreo.cli.commands.gates import FAILED, Gates
from tenreo.cli.exits import usage
from tenreo.cli.run.evaluate_inputs import check_single_process, evaluate_inputs, measured, metric_columns, metric_dict
from tenreo.cli.run.models import named_dense, open_classifier, open_inputs, open_reference
from tenreo.cli.shared_options import Computing, Layout, ModelFile, choose_workers
from tenreo.cli.terminal.console import note, note_images, show, show_json
from tenreo.cli.terminal.pictures import plot_confusion
from tenreo.cli.terminal.progress import progress_bar
from tenreo.cli.terminal.results import command_line
from tenreo.cli.terminal.tables import agreement_table, classes_table, evaluations_table, number, table_of_models
from tenreo.compression.parametrization import expand_
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images, open_images, open_optionally_labeled
from tenreo.data.label_files import LabelFiles
from tenreo.data.workers import explain_worker_loss
from tenreo.devices import choose_device, explain_out_of_memory
from tenreo.distributed import ProcessGroup, local_device, process_group
from tenreo.evaluation.accuracy import Evaluation, evaluate
from tenreo.evaluation.agreement import Agreement, compare
from tenreo.evaluation.metric import Measurement
from tenreo.evaluation.predictions import Predictions, predict
from tenreo.files.header import Header
from tenreo.files.records import ModelInfo
from tenreo.hub.results import digest
from tenreo.models.builders import find_function


def evaluate_files(
    files: Files, data: Evaluated, inputs: EvaluatedInputs, layout: Layout, gates: Gates, computing: Computing,
    output: EvaluatedOutput,
) -> None:  # fmt: skip
    """Evaluate the models of all files and their references, and print the results."""
    with usage():
        device = choose_device(local_device(computing.device), fixed_shapes=not inputs.given)
    opened = open_inputs(inputs, data.batch_size, data.limit)
    with usage():  # before the first model is evaluated, which takes minutes
        if data.against == "dense":
            for file in files.each:
                named_dense(file)
        if inputs.metric is not None:
            find_function(inputs.metric, "metric")
    with process_group(device) as group, explain_out_of_memory(data.batch_size), explain_worker_loss():
        if opened is not None:
            check_single_process(inputs.given[0], group.size)
            results = evaluate_inputs(files, data, opened, inputs, output, device)
            _check_gates(gates, {each.file: each.limited for each in results})
            return
        loading = Loading(data.batch_size, choose_workers(computing.workers, str(data.data)), data.skip_broken)
        if inputs.metric is not None:
            check_single_process("metric", group.size)
        job = _Job(data, inputs, layout, output, device, loading, group)
        for file in files.each:
            job.measure(file)
    if group.is_main:
        _report(job)
        _check_gates(gates, {result.file: result.limited for result in job.given})


def _check_gates(gates: Gates, results: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print every limit that a model misses, and exit with 3 if there is one."""
    missed = [text for file, values in results.items() for text in gates.missed(Path(file).name, values)]
    for text in missed:
        note(f"failed: {text}")
    if missed:
        raise typer.Exit(FAILED)


@dataclass
class _Result:
    """The results of one model; those that need labels are None without them."""

    file: str
    name: str
    is_reference: bool
    evaluation: Evaluation | None = None
    metric: Measurement | None = None
    against: Agreement | None = None
    predictions: Predictions | None = None

    @property
    def limited(self) -> dict[str, float | None]:
        """The results that limits can be given for, by name."""
        return {
            "top1": None if self.evaluation is None else self.evaluation.top1,
            "agreement": None if self.against is None else self.against.agreement,
            "kl": None if self.against is None else self.against.kl,
            "metric": None if self.metric is None else self.metric.value,
        }


@dataclass
class _Job:
    """The images and settings of an evaluation, and the results so far."""

    data: Evaluated
    inputs: EvaluatedInputs
    layout: Layout
    output: EvaluatedOutput
    device: torch.device
    loading: Loading
    group: ProcessGroup
    results: list[_Result] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    warned: set[tuple[str, str]] = field(default_factory=set)
    references: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def given(self) -> list[_Result]:
        """The results of the files, without those of the models that they are compared with."""
        return [result for result in self.results if not result.is_reference]

    def measure(self, file: ModelFile) -> None:
        """Evaluate the model of a file, after its reference if that has not been evaluated yet."""
        path = file.file
        model, header = open_classifier(file)
        key, reference = open_reference(self.data.against, header, file.model, self.references)
        images = self._images(header.info)
        if reference is not None and key not in self.references:
            self.references[key] = reference.to(self.device).eval()
            if images.labeled or self.inputs.metric is not None:
                self._evaluate(reference, images, _Result(key, f"{Path(key).name}", True), header)
        result = _Result(str(path), path.name, False)
        self._evaluate(expand_(model), images, result, header)
        if reference is not None:
            batches = self._batches(images)
            with self._progress(f"compare {path.name}", batches) as advance:
                result.against = compare(model, reference, batches, self.data.amp, progress=advance, group=self.group)
            self._collect_warnings(batches)

    def _evaluate(self, model: nn.Module, images: Images, result: _Result, header: Header) -> None:
        """Move a model to the device, evaluate it, and append its result."""
        model.to(self.device).eval()
        batches = self._batches(images)
        predictions = Predictions(batches, images.class_names or header.info.class_names)
        with self._progress(f"evaluate {result.name}", batches) as advance:
            if images.labeled:
                result.evaluation = evaluate(
                    model, batches, self.data.amp, progress=advance, each=predictions.add, group=self.group
                )
                result.predictions = predictions
            elif self.output.predictions is not None:
                predict(model, predictions, self.data.amp, progress=advance)
                result.predictions = predictions
        predictions.gather(self.group)
        result.metric = measured(self.inputs.metric, model, self._batches(images), result.name)
        self._collect_warnings(batches)
        self.results.append(result)

    def _batches(self, images: Images) -> Batches:
        """Return the batches of this process."""
        return Batches(images, self.loading, self.device, rank=self.group.rank, world_size=self.group.size)

    def _progress(self, title: str, batches: Batches) -> AbstractContextManager[Callable[..., None]]:
        return progress_bar(title, batches.image_count, self.group.is_main)

    def _collect_warnings(self, batches: Batches) -> None:
        self.broken |= self.group.union(batches.broken)
        self.warned |= self.group.union(batches.warnings)

    def _images(self, info: ModelInfo) -> Images:
        """Open the images; they need no class folders if no label is needed."""
        split, label_files = self.layout.split, LabelFiles(self.layout.labels, self.layout.class_map)
        data, names, preprocess = str(self.data.data), info.class_names, info.preprocess
        with usage():
            if needs_labels(self.data, self.inputs, self.output):
                images = open_images(data, split, preprocess, info.classes, class_names=names, label_files=label_files)
            else:
                images = open_optionally_labeled(
                    data, preprocess, info.classes, names, split=split, label_files=label_files
                )
        if images.doubt and not self.results and self.group.is_main:
            note(images.doubt)
        return images.limited(self.data.limit)


def _report(job: _Job) -> None:
    """Write the files and print the results."""
    data, output = job.data, job.output
    note_images(job.broken, job.warned)
    given = job.given
    _write(given[0], output)
    if output.json:
        common = {"data": data.data, "device": str(job.device), "skipped": sorted(job.broken)}
        first, *others = (_to_dict(result, data.against, job.inputs.metric) for result in given)
        common["command_line"] = command_line()
        show_json("evaluate", {**first, **common, "others": others})
        return
    _show(f"{data.data} ({job.device})", data.against, job.results, given)
    if job.inputs.metric is not None:
        text, columns = metric_columns(job.inputs, [each.metric for each in job.results])
        rows = zip([each.name for each in job.results], *columns.values(), strict=True)
        show(*table_of_models(text, ("model", *columns), list(rows)))


def _write(result: _Result, output: EvaluatedOutput) -> None:
    """Write the requested predictions and confusion matrices."""
    if result.predictions is None:
        return
    if output.predictions is not None:
        result.predictions.write_csv(output.predictions)
    for path in map(Path, output.confusion):
        if path.suffix.lower() == ".png":
            plot_confusion(result.predictions.confusion(), result.name, path)
        else:
            result.predictions.confusion().write_csv(path)
    if output.files:
        note("wrote " + ", ".join(map(str, output.files)))


def _to_dict(result: _Result, against: str | None, metric: str | None) -> dict[str, Any]:
    """Return the JSON object of one model."""
    accuracy: dict[str, Any] = {}
    if result.evaluation is not None and result.predictions is not None:
        accuracy = {**result.evaluation.to_dict(), "classes": [asdict(c) for c in result.predictions.classes()]}
    compared = None if result.against is None else {"model": against, **vars(result.against)}
    own = {} if metric is None else {"metric": metric_dict(metric, result.metric)}
    return {"file": result.file, "sha256": digest(Path(result.file)), **accuracy, **own, "against": compared}


def _show(title: str, against: str | None, results: list[_Result], given: list[_Result]) -> None:
    """Print the results of all models, and for a single given model its classes with the lowest accuracy."""
    measured = [(each.name, each.evaluation) for each in results if each.evaluation is not None]
    if measured:
        show(*evaluations_table(title, measured))
    compared = [(each.name, each.against) for each in results if each.against is not None]
    if compared:
        show(*agreement_table(f"Agreement with {'the dense model' if against == 'dense' else against}", compared))
    if len(given) == 1 and measured and given[0].predictions is not None:
        classes = given[0].predictions.classes()
        if len(classes) > 1:
            show(classes_table(classes))
            mean = sum(each.top1 for each in classes) / len(classes)
            show(f"mean top-1 of the {len(classes)} classes: {number(mean)} %")

"""Body of `tenreo evaluate`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tenreo.cli.commands.evaluate import Evaluated, EvaluatedOutput, Files
from tenreo.cli.exits import usage
from tenreo.cli.run.models import open_classifier, read_named_header
from tenreo.cli.shared_options import Computing, Layout, ModelFile, choose_workers
from tenreo.cli.terminal.console import note, note_images, progress_bar, show, show_json
from tenreo.cli.terminal.pictures import plot_confusion
from tenreo.cli.terminal.tables import agreement_table, classes_table, evaluations_table, number
from tenreo.compression.parametrization import expand_
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images, open_images, open_optionally_labeled
from tenreo.data.label_files import LabelFiles
from tenreo.data.workers import explain_worker_loss
from tenreo.devices import choose_device, explain_out_of_memory
from tenreo.distributed import ProcessGroup, local_device, process_group
from tenreo.evaluation.accuracy import Evaluation, evaluate
from tenreo.evaluation.agreement import Agreement, compare
from tenreo.evaluation.predictions import Predictions, predict
from tenreo.files.header import Header, is_pickle, read_header
from tenreo.files.records import ModelInfo
from tenreo.models.dense_weights import dense_weights, open_dense
from tenreo.models.model_files import open_model


def evaluate_files(
    files: Files, data: Evaluated, layout: Layout, computing: Computing, output: EvaluatedOutput
) -> None:
    """Evaluate the models of all files and their references, and print the results."""
    with usage():
        device = choose_device(local_device(computing.device))
    loading = Loading(data.batch_size, choose_workers(computing.workers, data.data), data.skip_broken)
    if data.against == "dense":
        with usage():  # before the first model is evaluated, which takes minutes
            for file in files.each:
                dense_weights(read_named_header(file))
    with process_group(device) as group, explain_out_of_memory(data.batch_size), explain_worker_loss():
        job = _Job(data, layout, output, device, loading, group)
        for file in files.each:
            job.measure(file)
    if group.is_main:
        _report(job)


@dataclass
class _Result:
    """The results of one model; those that need labels are None without them."""

    file: str
    name: str
    is_reference: bool
    evaluation: Evaluation | None = None
    against: Agreement | None = None
    predictions: Predictions | None = None


@dataclass
class _Job:
    """The images and settings of an evaluation, and the results so far."""

    data: Evaluated
    layout: Layout
    output: EvaluatedOutput
    device: torch.device
    loading: Loading
    group: ProcessGroup
    results: list[_Result] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    warned: set[tuple[str, str]] = field(default_factory=set)
    references: dict[str, nn.Module] = field(default_factory=dict)

    def measure(self, file: ModelFile) -> None:
        """Evaluate the model of a file, after its reference if that has not been evaluated yet."""
        path = file.file
        model, header = open_classifier(file)
        key, reference = self._reference(header, file.model)
        images = self._images(header.info)
        if reference is not None and key not in self.references:
            self.references[key] = reference.to(self.device).eval()
            if images.labeled:
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
        data, names, preprocess = self.data.data, info.class_names, info.preprocess
        with usage():
            if self.data.against is not None or self.output.predictions is not None:
                images = open_optionally_labeled(
                    data, preprocess, info.classes, names, split=split, label_files=label_files
                )
            else:
                images = open_images(data, split, preprocess, info.classes, class_names=names, label_files=label_files)
        if images.doubt and not self.results and self.group.is_main:
            note(images.doubt)
        return images.limited(self.data.limit)

    def _reference(self, header: Header, builder: str | None) -> tuple[str, nn.Module | None]:
        """Return the name and the expanded model to compare with: the dense model, or that of another file."""
        against = self.data.against
        if against is None:
            return "", None
        key = against
        if against == "dense":
            key = dense_weights(header) or "dense"
        if key not in self.references:
            if against == "dense":
                return key, open_dense(header, trust_builder=builder is not None)
            named = None if is_pickle(Path(against)) else read_header(Path(against)).info.name
            other = open_model(Path(against), builder=builder if named in (None, builder) else None)[0]
            return key, expand_(other)
        return key, self.references[key]


def _report(job: _Job) -> None:
    """Write the files and print the results."""
    data, output = job.data, job.output
    note_images(job.broken, job.warned)
    given = [result for result in job.results if not result.is_reference]
    _write(given[0], output)
    if output.json:
        common = {"data": data.data, "device": str(job.device), "skipped": sorted(job.broken)}
        first, *others = (_to_dict(result, data.against) for result in given)
        show_json("evaluate", {**first, **common, "others": others})
        return
    _show(f"{data.data} ({job.device})", data.against, job.results, given)


def _write(result: _Result, output: EvaluatedOutput) -> None:
    """Write the requested predictions and confusion matrices."""
    if result.predictions is None:
        return
    if output.predictions is not None:
        result.predictions.write_csv(output.predictions)
    for path in map(Path, output.confusion):
        if path.suffix.lower() == ".png":
            plot_confusion(result.predictions.confusion(), path)
        else:
            result.predictions.confusion().write_csv(path)
    if output.files:
        note("wrote " + ", ".join(map(str, output.files)))


def _to_dict(result: _Result, against: str | None) -> dict[str, Any]:
    """Return the JSON object of one model."""
    measured: dict[str, Any] = {}
    if result.evaluation is not None and result.predictions is not None:
        measured = {**result.evaluation.to_dict(), "classes": [asdict(c) for c in result.predictions.classes()]}
    compared = None if result.against is None else {"model": against, **vars(result.against)}
    return {"file": result.file, **measured, "against": compared}


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

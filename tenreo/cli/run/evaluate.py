"""Body of `tenreo evaluate`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tenreo.cli.commands.evaluate import Evaluated, EvaluatedOutput, Files
from tenreo.cli.exits import usage
from tenreo.cli.run.models import open_file
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
from tenreo.evaluation.accuracy import Evaluation, evaluate
from tenreo.evaluation.agreement import Agreement, compare
from tenreo.evaluation.predictions import Predictions, predict
from tenreo.files.header import Header, is_pickle, read_header
from tenreo.files.records import ModelInfo
from tenreo.models.model_files import dense_weights, open_dense, open_model


def evaluate_files(
    files: Files, data: Evaluated, layout: Layout, computing: Computing, output: EvaluatedOutput
) -> None:
    """Evaluate every file and print the results; the models to compare with are evaluated first."""
    with usage():
        device = choose_device(computing.device)
    loading = Loading(data.batch_size, choose_workers(computing.workers, data.data), data.skip_broken)
    job = _Job(data, layout, device, loading, output)
    with explain_out_of_memory(data.batch_size), explain_worker_loss():
        for file in files.each:
            job.measure(file)
    note_images(job.broken, job.warned)
    own = [found for found in job.found if not found.is_reference]
    _write(own[0], output)
    title = f"{data.data} ({device})"
    if output.json:
        of = {"data": data.data, "device": str(device), "skipped": sorted(job.broken)}
        first, *others = (_plain(found, data.against) for found in own)
        show_json("evaluate", {**first, **of, "others": others})
        return
    _show(title, job.found, own)


@dataclass
class _Measured:
    """The results of one model; those that need labels are None if there are none."""

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
    device: torch.device
    loading: Loading
    wanted: EvaluatedOutput
    found: list[_Measured] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    warned: set[tuple[str, str]] = field(default_factory=set)
    references: dict[str, nn.Module] = field(default_factory=dict)

    def measure(self, file: ModelFile) -> None:
        """Evaluate the model of a file, after the model that it is compared with if that is new."""
        path = file.file
        model, header = open_file(file)
        key, reference = self._reference(header, file.model)
        images = self._images(header.info)
        if reference is not None and key not in self.references:
            self.references[key] = reference.to(self.device).eval()
            if images.labeled:
                named = _Measured(key, f"{Path(key).name} (reference)", True)
                self.found.append(self._measured(reference, images, named, header))
        found = self._measured(expand_(model), images, _Measured(str(path), path.name, False), header)
        if reference is not None:
            batches = Batches(images, self.loading, self.device)
            with progress_bar(f"compare {path.name}", len(images)) as advance:
                found.against = compare(model, reference, batches, self.data.amp, progress=advance)
            self._met(batches)
        self.found.append(found)

    def _measured(self, model: nn.Module, images: Images, found: _Measured, header: Header) -> _Measured:
        """Evaluate one model, which is moved to the device."""
        model.to(self.device).eval()
        batches = Batches(images, self.loading, self.device)
        predictions = Predictions(batches, images.class_names or header.info.class_names)
        with progress_bar(f"evaluate {found.name}", len(images)) as advance:
            if images.labeled:
                found.evaluation = evaluate(model, batches, self.data.amp, progress=advance, each=predictions.add)
                found.predictions = predictions
            elif self.wanted.predictions is not None:
                predict(model, predictions, self.data.amp, progress=advance)
                found.predictions = predictions
        self._met(batches)
        return found

    def _met(self, batches: Batches) -> None:
        self.broken |= batches.broken
        self.warned |= batches.warnings

    def _images(self, info: ModelInfo) -> Images:
        """Open the images; they need no class folders if no label is needed."""
        loose = self.data.against is not None or self.wanted.predictions is not None
        split, label_files = self.layout.split, LabelFiles(self.layout.labels, self.layout.class_map)
        data, names = self.data.data, info.class_names
        with usage():
            if loose:
                images = open_optionally_labeled(
                    data, info.preprocess, info.classes, names, split=split, label_files=label_files
                )
            else:
                images = open_images(
                    data, split, info.preprocess, info.classes or 1000, class_names=names, label_files=label_files
                )
        if images.doubt and not self.found:
            note(images.doubt)
        return images.limited(self.data.limit)

    def _reference(self, header: Header, builder: str | None) -> tuple[str, nn.Module | None]:
        """Return the name and the expanded model to compare with: the dense model, or that of another file."""
        against = self.data.against
        if against is None:
            return "", None
        key = against
        if against == "dense":
            with usage():
                key = dense_weights(header) or "dense"
        if key not in self.references:
            if against == "dense":
                return key, open_dense(header, trust_builder=builder is not None)
            named = None if is_pickle(Path(against)) else read_header(Path(against)).info.name
            other = open_model(Path(against), builder=builder if named in (None, builder) else None)[0]
            return key, expand_(other)
        return key, self.references[key]


def _write(found: _Measured, output: EvaluatedOutput) -> None:
    """Write the requested predictions and confusion matrices."""
    if found.predictions is None:
        return
    if output.predictions is not None:
        found.predictions.write_csv(output.predictions)
    for path in map(Path, output.confusion):
        if path.suffix.lower() == ".png":
            plot_confusion(found.predictions.confusion(), path)
        else:
            found.predictions.confusion().write_csv(path)
    if output.files:
        note("wrote " + ", ".join(map(str, output.files)))


def _plain(found: _Measured, against: str | None) -> dict[str, Any]:
    """Return the JSON object of one model."""
    measured: dict[str, Any] = {}
    if found.evaluation is not None and found.predictions is not None:
        measured = {**found.evaluation.to_dict(), "classes": [asdict(c) for c in found.predictions.classes()]}
    compared = None if found.against is None else {"model": against, **vars(found.against)}
    return {"file": found.file, **measured, "against": compared}


def _show(title: str, found: list[_Measured], own: list[_Measured]) -> None:
    """Print the results of all models, and for a single model its classes with the lowest accuracy."""
    measured = [(each.name, each.evaluation) for each in found if each.evaluation is not None]
    if measured:
        show(evaluations_table(title, measured))
    compared = [(each.name, each.against) for each in found if each.against is not None]
    if compared:
        show(agreement_table("Agreement with the reference", compared))
    if len(own) == 1 and measured and own[0].predictions is not None:
        classes = own[0].predictions.classes()
        if len(classes) > 1:
            show(classes_table(classes))
            mean = sum(each.top1 for each in classes) / len(classes)
            show(f"mean top-1 of the {len(classes)} classes: {number(mean)} %")

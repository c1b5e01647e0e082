"""`tenreo evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tenreo.cli.checks import choose_workers
from tenreo.cli.command import usage
from tenreo.cli.console import note, note_images, progress_bar, show, show_json
from tenreo.cli.opening import open_file
from tenreo.cli.options import Computing, Evaluated, ModelFile, Shown
from tenreo.cli.tables import megabytes, number, table
from tenreo.compression.parametrization import expand_
from tenreo.files.header import Header, is_pickle, read_header
from tenreo.files.records import ModelInfo
from tenreo.vision import evaluation
from tenreo.vision.batches import Batches, Loading, lost_workers_named
from tenreo.vision.evaluation import Agreement, Evaluation
from tenreo.vision.images import Images, open_images, open_photographs
from tenreo.vision.models import dense_weights, open_dense, open_model


def run(file: ModelFile, data: Evaluated, computing: Computing, shown: Shown) -> None:
    """Load, measure and show."""
    with usage():
        device = evaluation.choose_device(computing.device)
    model, header = open_file(file)
    reference = None if data.against is None else _reference(header, data.against, file.model)
    images = _images(header.info, data, loose=reference is not None)
    loading = Loading(data.batch_size, choose_workers(computing.workers, data.data), data.skip_broken)
    with (
        evaluation.memory_named(data.batch_size),
        lost_workers_named(),
        progress_bar("evaluate", len(images)) as advance,
    ):
        expand_(model).to(device)
        batches = Batches(images, loading, device)
        found = evaluation.evaluate(model, batches, data.amp, progress=advance) if images.labeled else None
        compared = None
        if reference is not None:
            compared = evaluation.compare(model, reference.to(device), batches, data.amp)
    note_images(batches.broken, batches.warned)
    title = f"{file.file.name} on {data.data} ({device})"
    if shown.json:
        measured: dict[str, Any] = {} if found is None else found.to_dict()
        against = {"against": None if compared is None else {"model": data.against, **vars(compared)}}
        of = {"file": str(file.file), "data": data.data, "device": str(device)}
        show_json("evaluate", {**of, **measured, "skipped": sorted(batches.broken), **against})
        return
    if found is not None:
        _show(title, found)
    if compared is not None:
        _show_agreement(f"{title} against {data.against}", compared)


def _images(info: ModelInfo, data: Evaluated, loose: bool) -> Images:
    """The images to measure on, which may be loose ones without labels."""
    with usage():
        if loose:
            images = open_photographs(data.data, info.preprocess, info.classes, info.class_names)
        else:
            images = open_images(data.data, "val", info.preprocess, info.classes or 1000, class_names=info.class_names)
    if images.doubt:
        note(images.doubt)
    return images.limited(data.limit)


def _reference(header: Header, against: str, builder: str | None) -> nn.Module:
    """The model to compare with, expanded: the dense one that the file names, or that of another file.

    Args:
        header: of the file.
        against: dense, or a path.
        builder: that was given, which a function of that name is trusted by.
    """
    if against == "dense":
        with usage():
            dense_weights(header)
        return open_dense(header, trust_builder=builder is not None)
    path = Path(against)
    named = None if is_pickle(path) else read_header(path).info.name
    return expand_(open_model(path, builder=builder if named in (None, builder) else None)[0])


def _show(title: str, measured: Evaluation) -> None:
    columns = ("top-1 %", "top-5 %", "loss", "images", "images/s", "peak memory")
    row = (
        number(measured.top1), number(measured.top5), number(measured.loss, 4), str(measured.images),
        number(measured.images_per_second, 1), megabytes(measured.peak_memory),
    )  # fmt: skip
    show(table(title, columns, [row], text=0))


def _show_agreement(title: str, measured: Agreement) -> None:
    columns = ("agreement\nof top-1 %", "KL\nin nats", "images", "top-1 %", "top-1 %\nof the other")
    row = (
        number(measured.agreement), number(measured.kl, 4), str(measured.images), number(measured.top1),
        number(measured.reference_top1),
    )  # fmt: skip
    show(table(title, columns, [row], text=0))

"""`tenreo evaluate`."""

from __future__ import annotations

from tenreo.cli.checks import check_input, choose_workers
from tenreo.cli.command import usage
from tenreo.cli.console import progress_bar, show, show_json
from tenreo.cli.options import Computing, Evaluated, File, Shown
from tenreo.cli.tables import megabytes, number, table
from tenreo.compression.parametrization import expand_
from tenreo.vision import evaluation
from tenreo.vision.batches import Batches, Loading, lost_workers_named
from tenreo.vision.images import open_images
from tenreo.vision.models import open_model


def run(file: File, data: Evaluated, computing: Computing, shown: Shown) -> None:
    """Load, measure and show."""
    with usage():
        check_input(file.file)
        device = evaluation.choose_device(computing.device)
    model, header = open_model(file.file)
    with usage():
        images = open_images(data.data, "val", header.info.preprocess, header.info.classes).limited(data.limit)
    with (
        evaluation.memory_named(data.batch_size),
        lost_workers_named(),
        progress_bar("evaluate", len(images)) as advance,
    ):
        expand_(model).to(device)
        loading = Loading(data.batch_size, choose_workers(computing.workers, data.data))
        measured = evaluation.evaluate(model, Batches(images, loading, device), data.amp, progress=advance)
    if shown.json:
        where = {"file": str(file.file), "data": data.data, "device": str(device)}
        show_json("evaluate", {**where, **measured.to_dict()})
        return
    columns = ("top-1 %", "top-5 %", "loss", "images", "images/s", "peak memory")
    row = (
        number(measured.top1), number(measured.top5), number(measured.loss, 4), str(measured.images),
        number(measured.images_per_second, 1), megabytes(measured.peak_memory),
    )  # fmt: skip
    show(table(f"{file.file.name} on {data.data} ({device})", columns, [row], text=0))

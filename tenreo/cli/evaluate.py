"""`tenreo evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tenreo.cli.common import Data, Device, Json, Workers, choose_workers, progress_bar, show, show_json


def evaluate(
    file: Annotated[Path, typer.Argument(help="A file of tenreo, or a .pth of the reference.")],
    data: Data,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at a time.")] = 256,
    workers: Workers = None,
    device: Device = "auto",
    amp: Annotated[bool, typer.Option("--amp", help="Autocast to bfloat16.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images, spread over all.")] = None,
    json: Json = False,
) -> None:
    """Measure a model's accuracy and speed on labelled images."""
    from tenreo import evaluation, models
    from tenreo.compression import expand_
    from tenreo.data import Batches, naming_lost_workers, open_images
    from tenreo.tables import megabytes, number, table

    where = evaluation.choose_device(device)
    model, header = models.open_model(file)
    images = open_images(data, "val", header.card.preprocess, header.card.classes).limited(limit)
    with (
        evaluation.naming_batch_size(batch_size),
        naming_lost_workers(),
        progress_bar("evaluate", len(images)) as advance,
    ):
        expand_(model).to(where)
        batches = Batches(images, batch_size, where, choose_workers(workers, data))
        measured = evaluation.evaluate(model, batches, amp, advance)
    if json:
        show_json({"file": str(file), "data": data, "device": str(where), **measured.to_dict()})
        return
    columns = ("top-1 %", "top-5 %", "loss", "images", "images/s", "peak memory")
    row = (
        number(measured.top1), number(measured.top5), number(measured.loss, 4), str(measured.images),
        number(measured.images_per_second, 1), megabytes(measured.peak_memory),
    )  # fmt: skip
    show(table(f"{file.name} on {data} ({where})", columns, [row], text=0))

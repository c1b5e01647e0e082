"""`tenreo finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tenreo.cli.common import (
    Data,
    Device,
    Force,
    Json,
    Workers,
    choose_workers,
    note,
    progress_bar,
    refuse_existing,
    show,
    show_json,
)


def finetune(
    file: Annotated[Path, typer.Argument(help="A file of tenreo, or a .pth of the reference.")],
    data: Data,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per step.")] = 64,
    lr: Annotated[float | None, typer.Option(help="Default: 0.0001 for MobileNet-V2, 0.00025 otherwise.")] = None,
    momentum: Annotated[float, typer.Option(min=0, help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of SGD.")] = 1e-4,
    workers: Workers = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of the order of images.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Best model; the last one and the run's state stand beside it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state beside the output file.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Train a compressed model a little: coefficients and all that is dense; positions stay."""
    best = out or Path(f"finetuned-{file.stem}.safetensors")
    stem = best.name.removesuffix(".safetensors")
    last, state = best.with_name(f"{stem}.last.safetensors"), best.with_name(f"{stem}.state")
    if not resume:
        refuse_existing(best, force)

    from dataclasses import asdict

    from tenreo import evaluation, finetuning, models
    from tenreo.data import open_images
    from tenreo.tables import number, table

    where = evaluation.choose_device(device)
    model, header = models.open_model(file)
    rate = finetuning.default_lr(header.card.arch) if lr is None else lr
    settings = finetuning.Settings(epochs, batch_size, rate, momentum, weight_decay, seed)
    train = open_images(data, "train", header.card.preprocess, header.card.classes)
    val = open_images(data, "val", header.card.preprocess, header.card.classes)

    def on_epoch(epoch: finetuning.Epoch, is_best: bool) -> None:
        if is_best:
            models.save(model, best, header.card, header.recipe)
        models.save(model, last, header.card, header.recipe)
        note(f"epoch {epoch.epoch}/{epochs}: training loss {epoch.train_loss:.4f}, top-1 {epoch.top1:.2f} %")

    with evaluation.naming_batch_size(batch_size), progress_bar("finetune", epochs * len(train)) as advance:
        history = finetuning.finetune_(
            model, train, val, settings, device=where, workers=choose_workers(workers, data), state=state,
            resume=resume, on_epoch=on_epoch,
            progress=lambda epoch, images, loss: advance(images, f"epoch {epoch + 1} loss {loss:.3f}"),
        )  # fmt: skip
    if json:
        show_json({"file": str(best), "last": str(last), "epochs": [asdict(e) for e in history]})
        return
    columns = ("epoch", "lr", "training loss", "loss", "top-1 %", "top-5 %", "seconds")
    rows = [
        (str(e.epoch), f"{e.lr:g}", number(e.train_loss, 4), number(e.loss, 4), number(e.top1),
         number(e.top5), number(e.seconds, 1))
        for e in history
    ]  # fmt: skip
    show(table(f"{file.name} on {data} ({where})", columns, rows, text=0))
    show(f"wrote {best} (best), {last}, {state}")

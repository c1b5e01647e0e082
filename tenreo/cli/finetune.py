"""`tenreo finetune`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from tenreo.errors import TenreoError
from tenreo.header import read_header

if TYPE_CHECKING:
    from torch import nn

    from tenreo.data import Images
    from tenreo.evaluation import Evaluation
    from tenreo.finetuning import Epoch, Settings
    from tenreo.header import ModelCard


def finetune(
    file: Annotated[Path, typer.Argument(help="A file of tenreo, or a .pth of the reference.")],
    data: Data,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the images; 0 with --calibrate trains nothing.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per step.")] = 64,
    lr: Annotated[float | None, typer.Option(help="Default: 0.0001 for MobileNet-V2, 0.00025 otherwise.")] = None,
    momentum: Annotated[float, typer.Option(min=0, help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of SGD.")] = 1e-4,
    schedule: Annotated[str, typer.Option(metavar="constant|step|cosine", help="Of the learning rate; step: a tenth from epoch 16 on.")] = "step",
    warmup: Annotated[float, typer.Option(min=0, metavar="EPOCHS", help="In which the learning rate rises from 0.")] = 0.0,
    calibrate: Annotated[int, typer.Option(min=0, metavar="N", help="First estimate BatchNorm on N batches, without labels.")] = 0,
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
    if epochs == 0 and not calibrate:
        raise TenreoError("epochs: given 0, which does nothing; say --calibrate 4, or --epochs 1")

    from dataclasses import asdict

    from tenreo import evaluation, finetuning, models
    from tenreo.data import open_images

    where = evaluation.choose_device(device)
    model, header = models.open_model(file)
    rate = finetuning.default_lr(header.card.arch) if lr is None else lr
    settings = finetuning.Settings(epochs, batch_size, rate, momentum, weight_decay, seed, schedule, warmup)
    train = open_images(data, "train", header.card.preprocess, header.card.classes)
    val = open_images(data, "val", header.card.preprocess, header.card.classes)
    decoders = choose_workers(workers, data)
    card = read_header(last).card if resume and last.exists() else header.card
    model.to(where)
    calibrated = None
    if calibrate and not resume:
        calibrated, card = _calibrate(model, card, train, val, calibrate, settings, decoders, data)
    if epochs == 0:
        models.save(model, best, card, header.recipe)

    def on_epoch(epoch: finetuning.Epoch, is_best: bool) -> None:
        if is_best:
            models.save(model, best, card, header.recipe)
        models.save(model, last, card, header.recipe)
        note(f"epoch {epoch.epoch}/{epochs}: training loss {epoch.train_loss:.4f}, top-1 {epoch.top1:.2f} %")

    history = []
    if epochs:
        with (
            evaluation.naming_batch_size(batch_size),
            progress_bar("finetune", epochs * len(train)) as advance,
        ):
            history = finetuning.finetune_(
                model, train, val, settings, device=where, workers=decoders, state=state,
                resume=resume, on_epoch=on_epoch,
                progress=lambda epoch, images, loss: advance(images, f"epoch {epoch + 1} loss {loss:.3f}"),
            )  # fmt: skip
    files = {"file": best, "last": last, "state": state} if epochs else {"file": best}
    if json:
        after = None if calibrated is None else calibrated.to_dict()
        show_json({**files, "calibrated": after, "epochs": [asdict(e) for e in history]})
        return
    _show(f"{file.name} on {data} ({where})", calibrated, history)
    show("wrote " + ", ".join(f"{path} ({what})" for what, path in files.items()))


def _calibrate(
    model: nn.Module, card: ModelCard, train: Images, val: Images, batches: int, settings: Settings,
    workers: int, source: str,
) -> tuple[Evaluation, ModelCard]:  # fmt: skip
    """Estimate the model's statistics on images; say what the model then reaches."""
    from tenreo import evaluation
    from tenreo.data import Batches, unlabelled
    from tenreo.statistics import calibrate_

    size, device = settings.batch_size, next(model.parameters()).device
    with evaluation.naming_batch_size(size), progress_bar("calibrate, images", batches * size) as advance:
        images = unlabelled(train, batches, size, workers, settings.seed)
        done = calibrate_(model, images, source=source, progress=advance)
        measured = evaluation.evaluate(model, Batches(val, size, device, workers))
    note(f"calibrated {done}: top-1 {measured.top1:.2f} %")
    return measured, replace(card, corrections=(*card.corrections, done))


def _show(title: str, calibrated: Evaluation | None, history: list[Epoch]) -> None:
    from tenreo.tables import number, table

    columns = ("epoch", "lr", "training loss", "loss", "top-1 %", "top-5 %", "seconds")
    rows = []
    if calibrated is not None:
        c = calibrated
        rows.append(("calibrated", "", "", number(c.loss, 4), number(c.top1), number(c.top5), ""))
    rows += [
        (str(e.epoch), f"{e.lr:g}", number(e.train_loss, 4), number(e.loss, 4), number(e.top1),
         number(e.top5), number(e.seconds, 1))
        for e in history
    ]  # fmt: skip
    show(table(title, columns, rows, text=1))

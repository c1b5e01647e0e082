"""`tenreo finetune`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenreo.cli.common import Data, Device, Force, Json, Workers, choose_workers, note, refuse_existing
from tenreo.cli.defaults import use_yaml
from tenreo.cli.stopping import stoppable
from tenreo.cli.training import Job, train
from tenreo.errors import TenreoError

if TYPE_CHECKING:
    from torch import nn

    from tenreo.header import Header


def _configure(context: typer.Context, path: Path | None) -> Path | None:
    # Callbacks of options run before the command, outside what turns its errors into one line.
    try:
        if path is not None:
            use_yaml(context, path, finetune)
        return path
    except TenreoError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def finetune(
    file: Annotated[Path, typer.Argument(help="A file of tenreo, or a .pth of the reference.")],
    data: Data,
    config: Annotated[Path | None, typer.Option(metavar="YAML", is_eager=True, callback=_configure, help="Values of these options, with _ for -; an option given here wins.")] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the images; 0 with --calibrate trains nothing.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per step and process.")] = 64,
    lr: Annotated[float | None, typer.Option(help="Default: 0.0001 for MobileNet-V2, 0.00025 otherwise.")] = None,
    optimizer: Annotated[str, typer.Option(metavar="sgd|adamw", help="What turns gradients into steps.")] = "sgd",
    momentum: Annotated[float, typer.Option(min=0, help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of the optimizer.")] = 1e-4,
    schedule: Annotated[str, typer.Option(metavar="constant|step|cosine", help="Of the learning rate; step: a tenth from epoch 16 on.")] = "step",
    warmup: Annotated[float, typer.Option(min=0, metavar="EPOCHS", help="In which the learning rate rises from 0.")] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Share of a label that is spread over all classes.")] = 0.0,
    augment: Annotated[str, typer.Option(metavar="none|standard", help="none: resize and centre crop, as the paper; standard: random crop and flip.")] = "none",
    distill: Annotated[bool, typer.Option("--distill", help="Learn from the dense model's outputs as well.")] = False,
    teacher: Annotated[Path | None, typer.Option(metavar="FILE", help="The dense model; by default the weights that the file names.")] = None,
    temperature: Annotated[float, typer.Option(help="Of --distill: softens the outputs.")] = 4.0,
    distill_weight: Annotated[float, typer.Option(help="Of --distill in the loss, 0 to 1.")] = 0.9,
    ema: Annotated[float, typer.Option(metavar="DECAY", help="Evaluate and write averaged weights, such as 0.999.")] = 0.0,
    clip: Annotated[float, typer.Option(min=0, metavar="NORM", help="Largest norm of the gradients; 0 does not look.")] = 0.0,
    freeze: Annotated[str, typer.Option(metavar="nothing|coefficients|others", help="What is not trained.")] = "nothing",
    calibrate: Annotated[int, typer.Option(min=0, metavar="N", help="First estimate BatchNorm on N batches, without labels.")] = 0,
    amp: Annotated[bool, typer.Option("--amp", help="Compute in 16 bits where that is safe.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Memory format that GPUs prefer with --amp.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Run through torch.compile.")] = False,
    sync_batchnorm: Annotated[bool, typer.Option("--sync-batchnorm", help="BatchNorm over all processes (CUDA).")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Go on past images that can not be read; count them.")] = False,
    save_every: Annotated[int, typer.Option(min=0, metavar="STEPS", help="Save the run's state so often; 0: after epochs.")] = 0,
    workers: Workers = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of the order of images, augmentation and dropout.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Best model; the last one, the run's state and log stand beside it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state beside the output file.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw loss and accuracy beside the output file.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Train a compressed model a little: coefficients and all that is dense; positions stay.

    Several GPUs: torchrun --nproc-per-node 8 -m tenreo finetune ... (the same options).
    """
    options = dict(locals())
    if not epochs and (resume or not calibrate):
        raise TenreoError("epochs: given 0, which does nothing; say --calibrate 4, or --epochs 1")
    if teacher and not distill:
        raise TenreoError(f"teacher: given {teacher}, but nothing is learnt from it; say --distill as well")
    if plot:
        from tenreo.plotting import require_plotting

        require_plotting()

    from tenreo import evaluation, models
    from tenreo.data import naming_lost_workers, open_images
    from tenreo.distributed import joined, local_device
    from tenreo.settings import Settings, default_lr

    where = evaluation.choose_device(local_device(device))
    model, header = models.open_model(file)
    options["lr"] = default_lr(header.card.arch) if lr is None else lr
    settings = Settings(**{k: v for k, v in options.items() if k in Settings.__dataclass_fields__})
    job = Job(out or Path(f"finetuned-{file.stem}.safetensors"), file, data, header, settings, calibrate,
              choose_workers(workers, data), resume, plot, json)  # fmt: skip
    if not resume:
        for path in job.files.values():
            refuse_existing(path, force)
    preprocess, classes = header.card.preprocess, header.card.classes
    images = open_images(data, "train", preprocess, classes, augment)
    val = open_images(data, "val", preprocess, classes)
    dense = _teacher(header, file, teacher) if distill else None
    with (
        stoppable() as stop,
        joined(where) as group,
        evaluation.naming_batch_size(batch_size),
        naming_lost_workers(),
    ):
        try:
            train(job, model.to(where), images, val, dense, group, stop)
        except KeyboardInterrupt:
            if group.writes:
                note(job.stopped())
            sys.stdout.flush()
            # Threads inside compiled code can not be interrupted, and a normal exit waits for them.
            os._exit(stop.exit_code)


def _teacher(header: Header, file: Path, given: Path | None) -> nn.Module:
    """The dense model: a given file, one beside the compressed file, or torchvision's weights.

    Raises:
        TenreoError: when there is none, or it is compressed itself or has other classes.
    """
    from tenreo import models

    card = header.card
    if card.arch is None or (given is None and card.weights in (None, "none")):
        raise TenreoError(f"distill: {file} does not name the weights it comes from; say --teacher FILE")
    path = given or file.parent / str(card.weights)
    try:
        teacher, found = models.with_weights(
            card.arch, str(path) if given or path.is_file() else card.weights
        )
    except TenreoError as error:
        raise TenreoError(f"distill: {error}; a teacher is a dense model: say --teacher FILE") from error
    if found.classes != card.classes:
        raise TenreoError(
            f"{path}: has {found.classes} classes, the model has {card.classes}; give its own dense model"
        )
    return teacher

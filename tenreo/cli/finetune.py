"""`tenreo finetune`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from torch import nn

from tenreo.cli.checks import best_file, choose_workers
from tenreo.cli.command import usage
from tenreo.cli.console import note
from tenreo.cli.options import Computing, File, Layout, TrainingData, TrainingOutput
from tenreo.cli.reporting import Job, train
from tenreo.cli.stopping import Stop, stoppable
from tenreo.errors import TenreoError
from tenreo.files.header import Header
from tenreo.training.distributed import local_device, process_group
from tenreo.training.loop import Resources
from tenreo.training.settings import Settings, default_lr
from tenreo.vision.batches import lost_workers_named
from tenreo.vision.evaluation import choose_device, memory_named
from tenreo.vision.images import open_images
from tenreo.vision.models import dense_weights, open_dense, open_model
from tenreo.vision.sources import Labeling


def run(
    file: File,
    data: TrainingData,
    layout: Layout,
    settings: Settings,
    computing: Computing,
    output: TrainingOutput,
) -> None:
    """Load, train, write and show."""
    with usage():
        _check(settings, data, output)
        device = choose_device(local_device(computing.device))
    model, header = open_model(file.file)
    if settings.lr is None:
        settings = replace(settings, lr=default_lr(header.info.arch))
    job = Job(best_file(file, output), file.file, header, data, settings, output)
    preprocess, classes, names = header.info.preprocess, header.info.classes or 1000, header.info.class_names
    with usage():
        labeling = Labeling(None, layout.class_map)
        train_images = open_images(
            data.data, data.train_split, preprocess, classes, settings.augment, names, labeling=labeling
        )
        labeling = labeling._replace(labels=layout.labels)
        if data.train_split != "train":  # which the order of the labels is taken from otherwise
            names = names or train_images.class_names
        val_images = open_images(
            data.data, layout.split, preprocess, classes, class_names=names,
            labeling=labeling,
        )  # fmt: skip
    teacher = _teacher(header, data.teacher) if settings.distill else None
    with (
        stoppable() as stop,
        process_group(device) as group,
        memory_named(settings.batch_size),
        lost_workers_named(),
    ):
        resources = Resources(device, choose_workers(computing.workers, data.data), group)
        try:
            train(job, model.to(device), (train_images, val_images), teacher, resources, stop)
        except KeyboardInterrupt:
            _leave(job, resources, stop)


def _check(settings: Settings, data: TrainingData, output: TrainingOutput) -> None:
    """What options mean together.

    Raises:
        TenreoError: when they contradict each other.
    """
    if not settings.epochs and (output.resume or not data.calibrate):
        raise TenreoError("epochs: given 0, which does nothing; say --calibrate 4, or --epochs 1")
    if data.teacher and not settings.distill:
        raise TenreoError(f"teacher: given {data.teacher}, but nothing is learned from it; say --distill as well")


def _leave(job: Job, resources: Resources, stop: Stop) -> None:
    """End the process after a stop that was asked for."""
    if resources.group.is_main:
        note(job.stopped())
    sys.stdout.flush()
    # Threads inside compiled code can not be interrupted, and a normal exit waits for them.
    os._exit(stop.exit_code)


def _teacher(header: Header, given: Path | None) -> nn.Module:
    """The dense model to distill from.

    Raises:
        TenreoError: when there is none, or it is compressed itself or has other classes.
    """
    try:
        with usage():
            dense_weights(header, given)
        return open_dense(header, given)
    except TenreoError as error:
        raise type(error)(f"distill: {error}; a teacher is a dense model: say --teacher FILE") from error

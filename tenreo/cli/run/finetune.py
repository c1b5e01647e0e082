"""`tenreo finetune`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from torch import nn

from tenreo.cli.commands.finetune import TrainingData, TrainingOutput, best_file
from tenreo.cli.exits import usage
from tenreo.cli.run.models import open_file
from tenreo.cli.run.training import Job, train
from tenreo.cli.shared_options import Computing, Layout, ModelFile, choose_workers
from tenreo.cli.terminal.console import note
from tenreo.cli.terminal.stopping import Stop, stoppable
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images, open_images, open_optionally_labeled, open_unlabeled, train_val_split
from tenreo.data.label_files import LabelFiles
from tenreo.data.layouts import DIGITS, has_labels, has_split, locate
from tenreo.data.workers import explain_worker_loss
from tenreo.devices import choose_device, explain_out_of_memory
from tenreo.errors import TenreoError
from tenreo.evaluation.predictions import predict_labels
from tenreo.files.header import Header
from tenreo.files.records import ModelInfo
from tenreo.models.heads import new_head_
from tenreo.models.model_files import dense_weights, open_dense
from tenreo.training.distributed import local_device, process_group
from tenreo.training.loop import Resources
from tenreo.training.settings import Settings, default_lr


def finetune_file(
    file: ModelFile,
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
    model, header = open_file(file)
    if data.classes is not None:
        with usage():
            new_head_(model, header.info.classes, data.classes, settings.seed)
        header = replace(header, info=replace(header.info, classes=data.classes, class_names=()))
    if settings.lr is None:
        settings = replace(settings, lr=default_lr(header.info.arch))
    with usage():
        splits = _splits(header.info, data, layout, settings)
    teacher = _teacher(header, data.teacher, file.model is not None) if settings.distill else None
    if not splits[0].labeled:
        settings = replace(settings, distill_weight=1.0)
    job = Job(best_file(file, output), file.file, header, data, settings, output)
    with (
        stoppable() as stop,
        process_group(device) as group,
        explain_out_of_memory(settings.batch_size),
        explain_worker_loss(),
    ):
        resources = Resources(device, choose_workers(computing.workers, data.data), group)
        if teacher is not None and not splits[1].labeled:
            splits = splits[0], _taught(splits[1], teacher.to(device), settings, resources)
        try:
            train(job, model.to(device), splits, teacher, resources, stop)
        except KeyboardInterrupt:
            _leave(job, resources, stop)


def _check(settings: Settings, data: TrainingData, output: TrainingOutput) -> None:
    """What options mean together.

    Raises:
        TenreoError: when they contradict each other.
    """
    if not settings.epochs and (output.resume or not data.calibrate):
        raise TenreoError("epochs: given 0, which does nothing; say --calibrate 4, or --epochs 1")
    if data.classes and settings.distill:
        raise TenreoError("classes: a new last layer has no teacher; leave out --distill")
    if data.teacher and not settings.distill:
        raise TenreoError(f"teacher: given {data.teacher}, but nothing is learned from it; say --distill as well")


def _splits(info: ModelInfo, data: TrainingData, layout: Layout, settings: Settings) -> tuple[Images, Images]:
    """The images to learn from and to evaluate on; with a teacher they may have no labels."""
    root, preprocess, classes, names = data.data, info.preprocess, info.classes or 1000, info.class_names
    loose = settings.distill and root != DIGITS
    if loose and not has_split(root, data.train_split):
        return train_val_split(
            open_unlabeled(root, data.train_split, preprocess, settings.augment, settings.erase),
            open_unlabeled(root, data.train_split, preprocess),
        )
    label_files = LabelFiles(None, layout.class_map)
    if loose and not has_labels(root, data.train_split):
        train = open_unlabeled(root, data.train_split, preprocess, settings.augment, settings.erase)
    else:
        train = open_images(
            root, data.train_split, preprocess, classes, settings.augment, names, label_files, settings.erase
        )
    if data.train_split != "train":  # which the order of the labels is taken from otherwise
        names = names or train.class_names
    label_files = label_files._replace(labels=layout.labels)
    if loose:
        locate(root, layout.split)  # rather than any picture, which could be one to learn from
        return train, open_optionally_labeled(
            root, preprocess, classes, names, split=layout.split, label_files=label_files
        )
    return train, open_images(root, layout.split, preprocess, classes, class_names=names, label_files=label_files)


def _taught(images: Images, teacher: nn.Module, settings: Settings, resources: Resources) -> Images:
    """Images whose labels are the teacher's answers, so that top-1 is the agreement with it."""
    batches = Batches(images, Loading(settings.batch_size, resources.workers, settings.skip_broken), resources.device)
    found = predict_labels(teacher.eval(), batches, settings.amp)
    if resources.group.is_main:
        note("no labels: top-1 is the agreement with the dense model")
    return images.with_labels(found)


def _leave(job: Job, resources: Resources, stop: Stop) -> None:
    """End the process after a stop that was asked for."""
    if resources.group.is_main:
        note(job.stopped())
    sys.stdout.flush()
    # Threads inside compiled code can not be interrupted, and a normal exit waits for them.
    os._exit(stop.exit_code)


def _teacher(header: Header, given: Path | None, trusted: bool) -> nn.Module:
    """The dense model to distill from.

    Raises:
        TenreoError: when there is none, or it is compressed itself or has other classes.
    """
    try:
        with usage():
            dense_weights(header, given)
        return open_dense(header, given, trusted)
    except TenreoError as error:
        raise type(error)(f"distill: {error}; a teacher is a dense model: say --teacher FILE") from error

"""Body of `tenreo finetune`."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from torch import nn

from tenreo.cli.commands.finetune import TrainingData, TrainingOutput, best_file, run_files
from tenreo.cli.exits import usage
from tenreo.cli.run.models import open_classifier
from tenreo.cli.run.training import Training
from tenreo.cli.shared_options import Computing, Layout, ModelFile, choose_workers
from tenreo.cli.terminal.console import note
from tenreo.cli.terminal.progress import stop_spinner
from tenreo.cli.terminal.stopping import Stop, stoppable
from tenreo.data.batches import Batches
from tenreo.data.images import Images, open_images, open_optionally_labeled, open_unlabeled, train_val_split
from tenreo.data.label_files import LabelFiles
from tenreo.data.layouts import DIGITS, has_labels, has_split, locate
from tenreo.data.workers import explain_worker_loss
from tenreo.devices import choose_device, explain_out_of_memory
from tenreo.distributed import local_device, process_group
from tenreo.errors import TenreoError
from tenreo.evaluation.predictions import predict_labels
from tenreo.files.header import Header
from tenreo.files.records import ModelInfo
from tenreo.models.dense_weights import dense_weights, open_dense
from tenreo.models.heads import new_head_
from tenreo.training.run import Datasets, Run, RunObserver
from tenreo.training.settings import Settings, default_lr
from tenreo.training.trainer import Resources


def finetune_file(
    file: ModelFile,
    data: TrainingData,
    layout: Layout,
    settings: Settings,
    computing: Computing,
    output: TrainingOutput,
) -> None:
    """Load a model, train it, write its files and show the results."""
    with usage():
        _check(settings, data, output)
        device = choose_device(local_device(computing.device), fixed_shapes=True)
    model, header = open_classifier(file)
    if data.classes is not None:
        with usage():
            new_head_(model, header.info.classes, data.classes, settings.seed)
        header = replace(header, info=replace(header.info, classes=data.classes, class_names=()))
    if settings.lr is None:
        settings = replace(settings, lr=default_lr(header.info.arch))
    with usage():
        datasets = _open_datasets(header.info, data, layout, settings)
    teacher = _open_teacher(header, data.teacher, file.model is not None) if settings.distill else None
    if not datasets.train.labeled:
        settings = replace(settings, distill_weight=1.0)
    files = run_files(best_file(file, output), settings.epochs, output.plot)
    with (
        stoppable() as stop,
        process_group(device) as group,
        explain_out_of_memory(settings.batch_size),
        explain_worker_loss(),
    ):
        resources = Resources(device, choose_workers(computing.workers, data.data), group)
        if teacher is not None and not datasets.val.labeled:
            val = _label_with_teacher(datasets.val, teacher.to(device), settings, resources)
            datasets = datasets._replace(val=val)
        run = Run(file.file, header, files, settings, resources, data.teacher, output.resume)
        try:
            Training(run, data, output, model.to(device), datasets, teacher, RunObserver(stop)).train()
        except KeyboardInterrupt:
            _exit_stopped(run, stop)


def _check(settings: Settings, data: TrainingData, output: TrainingOutput) -> None:
    """Raise TenreoError if options contradict each other."""
    if not settings.epochs and (output.resume or not data.calibrate):
        raise TenreoError("epochs: given 0 without calibration, which does nothing; give --calibrate 4 or --epochs 1")
    if data.classes and settings.distill:
        raise TenreoError("classes: no teacher has the classes of a new last layer; leave out --distill")
    if data.teacher and not settings.distill:
        raise TenreoError(f"teacher: given {data.teacher} without distillation; give --distill as well")


def _open_datasets(info: ModelInfo, data: TrainingData, layout: Layout, settings: Settings) -> Datasets:
    """Open the training and validation images; with a teacher they may have no labels."""
    root, preprocess, classes, names = data.data, info.preprocess, info.classes, info.class_names
    unlabeled = settings.distill and root != DIGITS  # whether labels may be missing
    if unlabeled and not has_split(root, data.train_split):
        train = open_unlabeled(root, data.train_split, preprocess, settings.augment, settings.erase)
        return Datasets(*train_val_split(train, open_unlabeled(root, data.train_split, preprocess)))
    label_files = LabelFiles(None, layout.class_map)
    if unlabeled and not has_labels(root, data.train_split):
        train = open_unlabeled(root, data.train_split, preprocess, settings.augment, settings.erase)
    else:
        train = open_images(
            root, data.train_split, preprocess, classes, settings.augment, names, label_files, settings.erase
        )
    if data.train_split != "train":  # otherwise the class order of the validation images follows "train" anyway
        names = names or train.class_names
    label_files = label_files._replace(labels=layout.labels)
    if unlabeled:
        locate(root, layout.split)  # raises if the split is missing; otherwise training images could be used instead
        val = open_optionally_labeled(root, preprocess, classes, names, split=layout.split, label_files=label_files)
    else:
        val = open_images(root, layout.split, preprocess, classes, class_names=names, label_files=label_files)
    return Datasets(train, val)


def _label_with_teacher(images: Images, teacher: nn.Module, settings: Settings, resources: Resources) -> Images:
    """Label images with the predictions of the teacher, so that top-1 is the agreement with the teacher."""
    batches = Batches(images, resources.loading(settings), resources.device)
    labels = predict_labels(teacher.eval(), batches, settings.amp)
    if resources.group.is_main:
        note("no labels: top-1 is the agreement with the dense model")
    return images.with_labels(labels)


def _exit_stopped(run: Run, stop: Stop) -> None:
    """End the process after a signal stopped the run."""
    if run.resources.group.is_main:
        state = run.files.get("state")
        if state and state.exists():
            note(f"stopped and saved in {state}; go on with the same command and --resume")
        else:
            note("stopped before the first step; there is nothing to resume")
    stop_spinner()
    sys.stdout.flush()
    # Threads inside compiled code cannot be interrupted, and a normal exit would wait for them.
    os._exit(stop.exit_code)


def _open_teacher(header: Header, given: Path | None, trusted: bool) -> nn.Module:
    """Open the dense model to distill from: the given file, or the weights that the header names.

    If `trusted` is false, a function that builds the model is not called.
    """
    try:
        with usage():
            dense_weights(header, given)
        return open_dense(header, given, trusted)
    except TenreoError as error:
        raise type(error)(f"distill: {error}; the teacher must be a dense model: give --teacher FILE") from error

"""What is checked before a command starts its work: within a second, so without torch.

`before_...` of a command looks at all that it was given; its body checks once more what needs torch or the model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from tenreo.cli.exits import usage
from tenreo.cli.options import (
    Computing,
    DemoOutput,
    DenseModel,
    Encoding,
    Evaluated,
    EvaluatedOutput,
    Exported,
    Files,
    Layout,
    ModelFile,
    Output,
    Statistics,
    SweepData,
    SweepOutput,
    TrainingData,
    TrainingOutput,
    shape_of,
)
from tenreo.cli.outputs import check_folder, check_output, default_name, run_files
from tenreo.data.layouts import DIGITS, WHOLE, find_pictures, has_split, locate
from tenreo.errors import TenreoError, shown
from tenreo.exporting.formats import check_format
from tenreo.files.header import is_pickle, read_header
from tenreo.files.paths import check_ending, check_readable
from tenreo.files.records import Preprocess
from tenreo.models.names import check_architecture, check_source, check_source_of, weight_names
from tenreo.planning.recipe import Recipe, recipe_of
from tenreo.training.settings import Settings

_DEVICE = re.compile(r"auto|(cpu|cuda|mps)(:[0-9]{1,2})?")


def before_compress(
    dense: DenseModel, recipe: Recipe, statistics: Statistics, encoding: Encoding, output: Output
) -> None:
    """Check what `tenreo compress` was given."""
    with usage():
        _check_dense(dense)
        _check_device(encoding.device)
        if statistics.calibrate is not None:
            _check_pictures(statistics.calibrate)
        if not output.dry_run:
            path = output.out or Path(default_name(dense.name, recipe))
            check_ending(path, ".safetensors")
            check_output(path, output.force)


def before_evaluate(
    files: Files, data: Evaluated, layout: Layout, computing: Computing, output: EvaluatedOutput
) -> None:
    """Check what `tenreo evaluate` was given."""
    with usage():
        for file in files.each:
            _check_file(file)
        if data.against not in (None, "dense"):
            check_readable(Path(str(data.against)))
        _check_device(computing.device)
        _check_data(data.data, [layout.split] if data.against is None and output.predictions is None else [])
        _check_layout(data.data, layout)
        _check_evaluated_output(files, output)
    for file in files.each:
        _check_header(file)


def _check_evaluated_output(files: Files, output: EvaluatedOutput) -> None:
    """Raise unless what is to be written of one model can be, each into a file of its own."""
    written: list[tuple[str, Path, tuple[str, ...]]] = [
        ("confusion", Path(path), (".png", ".csv")) for path in output.confusion
    ]
    if output.predictions is not None:
        written.append(("predictions", output.predictions, (".csv",)))
    for name, path, endings in written:
        if len(files.files) > 1:
            raise TenreoError(f"{name}: is of one model, given {len(files.files)} files; evaluate them one by one")
        check_ending(path, *endings)
        if path.suffix.lower() == ".png":
            require_plotting(name)
        check_output(path, output.force)
    if len({path.absolute() for path in output.files}) != len(output.files):
        raise TenreoError("confusion: given the same file twice; give each its own")


def before_finetune(
    file: ModelFile,
    data: TrainingData,
    layout: Layout,
    settings: Settings,
    computing: Computing,
    output: TrainingOutput,
) -> None:
    """Check what `tenreo finetune` was given."""
    with usage():
        _check_file(file)
        if data.teacher:
            check_readable(data.teacher)
        _check_device(computing.device)
        if settings.distill:
            _check_pictures(data.data)
        else:
            _check_data(data.data, [data.train_split, layout.split])
        if output.tensorboard is not None and find_spec("tensorboard") is None:
            raise TenreoError("tensorboard: needs the package; install tenreo[tensorboard]")
        _check_layout(data.data, layout)
        files = run_files(best_file(file, output), settings.epochs, output.plot)
        if output.plot:
            require_plotting()
        if output.resume and "state" in files:
            check_readable(files["state"])
        check_ending(files["file"], ".safetensors")
        for path in files.values():
            check_output(path, output.force or output.resume)
    _check_header(file)


def before_export(file: ModelFile, exported: Exported) -> None:
    """Check what `tenreo export` was given."""
    with usage():
        _check_file(file)
        check_format(exported.to)
        if exported.input is not None:
            shape_of(exported.input)
        if exported.to.suffix == ".onnx":
            missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
            if missing:
                raise TenreoError(f"to: ONNX needs {' and '.join(missing)}; install tenreo[onnx]")
        check_output(exported.to, exported.force, "to")
    _check_header(file)


def before_sweep(dense: DenseModel, data: SweepData, layout: Layout, encoding: Encoding, output: SweepOutput) -> None:
    """Check what `tenreo sweep` was given."""
    with usage():
        _check_dense(dense)
        _check_device(encoding.device)
        if data.data is not None:
            _check_data(data.data, [])
            _check_layout(data.data, layout)
        elif layout != Layout():
            raise TenreoError("data: split, labels and class_map say how the images of data lie; give data as well")
        if output.plot is not None:
            require_plotting()
            check_ending(output.plot, ".png")
            check_output(output.plot, output.force)


def before_demo(output: DemoOutput) -> None:
    """Check what `tenreo demo` was given."""
    with usage():
        _check_data(DIGITS, [])
        check_folder(output.out, output.force)


def best_file(file: ModelFile, output: TrainingOutput) -> Path:
    """The file of a run's best model."""
    return output.out or Path(f"finetuned-{file.file.stem}.safetensors")


def require_plotting(option: str = "plot") -> None:
    """Raise unless pictures can be drawn.

    Args:
        option: that asks for one.

    Raises:
        TenreoError: when matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise TenreoError(f"{option}: needs matplotlib; install tenreo[plot], or draw nothing")


def choose_workers(workers: int | None, data: str) -> int:
    """The given number, or one per core for folders and none for the digits; processes share the cores."""
    if workers is not None or data == DIGITS:
        return workers or 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _check_dense(dense: DenseModel) -> None:
    """Raise unless there are the model and its weights, and its input makes sense."""
    dense.prepared(Preprocess())
    if dense.model is not None:
        if dense.arch is not None:
            raise TenreoError("model: given beside an architecture; say one of --arch and --model")
        check_source(dense.model)
        names = weight_names(dense.model.partition(":")[2]) if dense.model.startswith("torchvision:") else ()
    else:
        arch = dense.require_arch()
        check_architecture(arch)
        if dense.shape is not None and (len(dense.shape) != 3 or dense.shape[0] != 3):
            raise TenreoError(
                f"input: given {dense.input}, but architectures of torchvision take 3 channels; say --model"
            )
        names = weight_names(arch)
    weights = dense.weights
    if weights in (None, "none", "DEFAULT") or str(weights).rpartition(".")[2] in names:
        return
    try:
        check_readable(Path(str(weights)))
    except TenreoError as error:
        if os.path.lexists(str(weights)[:4096]):
            raise
        known = f", nor one of {', '.join(names)}" if names else ""
        raise TenreoError(f"weights: {shown(weights)} is neither a file, nor none{known}") from error


def _check_file(file: ModelFile) -> None:
    """Raise unless there are the file and what builds its model, if that was said."""
    check_readable(file.file)
    if file.model is not None:
        check_source(file.model)


def _check_device(name: str) -> None:
    if not _DEVICE.fullmatch(name):
        raise TenreoError(f"device: given {shown(name)}, needs auto, cpu, cuda, cuda:N or mps")


def _check_data(data: str, splits: Iterable[str]) -> None:
    """Raise unless there are the digits, or these splits; without any, a folder or a tar file."""
    if data == DIGITS:
        if find_spec("sklearn") is None:
            raise TenreoError("digits: needs scikit-learn; install tenreo[demo]")
        return
    for split in (WHOLE, *splits):
        place, _ = locate(data, split)
        if not os.access(place, os.R_OK | (os.X_OK if place.is_dir() else 0)):
            raise TenreoError(f"{place}: can not be read: permission denied; choose another folder")


def _check_pictures(data: str) -> None:
    """Raise unless there is a training split, or any picture."""
    _check_data(data, [])
    if data != DIGITS and not has_split(data, "train"):
        find_pictures(data, "train")


def _check_layout(data: str, layout: Layout) -> None:
    """Raise unless the files that say the labels are there; the digits have their own."""
    for name, path in (("labels", layout.labels), ("class_map", layout.class_map)):
        if path is not None:
            if data == DIGITS:
                raise TenreoError(f"{name}: given {path}, but the digits have their own labels; leave it out")
            check_readable(path)


def _check_header(file: ModelFile) -> None:
    """Raise when a file's header is damaged, or names what may not be called; of torch's own, torch has to be asked."""
    if not is_pickle(file.file):
        header = read_header(file.file)
        recipe_of(header)
        with usage():
            check_source_of(header, file.model)

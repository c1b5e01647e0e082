"""`tenreo finetune`: options and checks."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import MOST_BATCHES, Computing, FileOutput, Layout, ModelFile, Options
from tenreo.errors import TenreoError, install
from tenreo.files.paths import check_ending, check_readable
from tenreo.files.records import MOST_CLASSES
from tenreo.options import described, option
from tenreo.training.settings import Settings


@dataclass(frozen=True)
class TrainingData(Options):
    """The images that a model is trained and evaluated on."""

    panel: ClassVar[str] = "Data"

    data: str = field(
        metadata=described(
            "Folder that contains train/ and val/ with one folder per class; or digits, the handwritten digits of "
            "scikit-learn.",
            metavar="DIR|digits",
        )
    )
    train_split: str = option("train", "Name of the folder to train on.", metavar="NAME")
    calibrate: int = option(
        0, "Number of batches on which BatchNorm statistics are estimated before training, without labels.",
        least=0, ceiling=MOST_BATCHES,
    )  # fmt: skip
    teacher: Path | None = option(
        None,
        "File of the dense model to distill from. Default: the weights that the compressed file names.",
        metavar="FILE",
    )
    classes: int | None = option(
        None, "Replace the last layer by a randomly initialized one with this number of classes.",
        least=1, ceiling=MOST_CLASSES,
    )  # fmt: skip


@dataclass(frozen=True)
class TrainingOutput(FileOutput):
    """What is written and printed."""

    out: Path | None = option(
        None, "File of the best model; the last model, the state and the log of the run are written next to it.",
        short="-o",
    )  # fmt: skip
    resume: bool = option(False, "Resume the run from the state next to the output file.")
    plot: bool = option(False, "Plot loss and accuracy to a PNG file next to the output file, after every epoch.")
    tensorboard: Path | None = option(None, "Folder for TensorBoard event files.", metavar="DIR")


def finetune(
    file: ModelFile,
    data: TrainingData,
    layout: Layout,
    settings: Settings,
    computing: Computing,
    output: TrainingOutput,
) -> None:
    """Train the coefficients and the uncompressed parameters of a model.

    The positions of the columns stay fixed.

    Example: tenreo finetune compressed.safetensors --data imagenet

    On several GPUs: torchrun --nproc-per-node 8 -m tenreo finetune ...
    """
    check(file, data, layout, settings, output)


def check(file: ModelFile, data: TrainingData, layout: Layout, settings: Settings, output: TrainingOutput) -> None:
    """Check the file, the images, the installed packages and the output files.

    Raise WrongUsageError, or TenreoError if a file is damaged.
    """
    with usage():
        checks.check_file(file)
        if data.teacher:
            check_readable(data.teacher)
        if settings.distill:
            checks.check_pictures(data.data)
        else:
            checks.check_data(data.data, [data.train_split, layout.split])
        if output.tensorboard is not None and find_spec("tensorboard") is None:
            raise TenreoError(f"tensorboard: the package is not installed; {install('tensorboard')}")
        checks.check_layout(data.data, layout)
        files = run_files(best_file(file, output), settings.epochs, output.plot)
        if output.plot:
            checks.require_plotting()
        if output.resume and "state" in files:
            check_readable(files["state"])
        check_ending(files["file"], ".safetensors")
        for path in files.values():
            checks.check_output(path, output.force or output.resume)
    checks.check_header(file)


def best_file(file: ModelFile, output: TrainingOutput) -> Path:
    """Return the path of the best model of a run."""
    return output.out or Path(f"finetuned-{file.file.stem}.safetensors")


def run_files(best: Path, epochs: int, plot: bool) -> dict[str, Path]:
    """Return the files that a run writes, by their kind: file (the best model), last, state, log and plot.

    Args:
        best: path of the best model; all other files are written next to it.
        epochs: number of epochs; 0 writes the best model only.
        plot: whether the log is plotted.
    """
    if not epochs:
        return {"file": best}
    endings = {"last": "last.safetensors", "state": "state", "log": "csv", **({"plot": "png"} if plot else {})}
    stem = best.name.removesuffix(".safetensors")
    return {"file": best, **{kind: best.with_name(f"{stem}.{ending}") for kind, ending in endings.items()}}

"""The options of the command line besides those of `Recipe` and `Settings`: a dataclass per subject. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tenreo.errors import TenreoError
from tenreo.files.header import is_pickle, read_header
from tenreo.files.records import MOST_CLASSES
from tenreo.options import check_options, described, option
from tenreo.planning.rates import MOST_RATE, RATES, Rate, rate_of
from tenreo.sizes import amount

# Bounds of numbers: no machine or data set needs more, and a slip of the finger must not take all memory.
_MOST_SEED = 2**32 - 1  # what every generator takes
_MOST_TASKS = 1024  # processes or threads: cores of the largest machines
_MOST_AT_ONCE = 2**16  # images of a batch: of 224 by 224 pixels, 39 GB
_MOST_IMAGES = 10**9  # paths alone would take all memory
_MOST_BATCHES = 10**6  # of 64 images: 50 times ImageNet


class Options:
    """Checks the options of a frozen dataclass when it is made."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class DenseModel(Options):
    """The dense model that is compressed."""

    arch: str | None = option(None, "Classification architecture of torchvision.")
    weights: str | None = option(None, "Weights of torchvision (by default IMAGENET1K_V1), a file, or none: random.")
    seed: int = option(0, "Seed of random weights.", least=0, ceiling=_MOST_SEED)

    def require_arch(self) -> str:
        """The architecture, which a file of weights may say as well.

        Raises:
            TenreoError: when it was not given, and no file says it.
        """
        arch = self.arch or _arch_of(self.weights)
        if arch is None:
            raise TenreoError("arch: not given, needs an architecture such as resnet50")
        return arch


def _arch_of(weights: str | None) -> str | None:
    """The architecture that a file of tenreo's names; None of anything else."""
    path = Path(weights or "none")
    return None if not path.is_file() or is_pickle(path) else read_header(path).info.arch


@dataclass(frozen=True)
class RateOptions(Options):
    """How much is kept: a rate, or a total from which rates follow."""

    rate: float | None = option(
        None, "Rate r of at least 1, or with --progressive its growth r' above 0.", ceiling=MOST_RATE
    )
    progressive: bool = option(False, "Let the rate grow with the size of the layer.")
    target_size: str | None = option(None, "Instead of a rate: the best file of at most so many bytes, such as 2.5MB.")
    target_params: str | None = option(
        None, "Instead of a rate: the gentlest one with at most so many parameters, such as 2.0M."
    )

    def resolve(self) -> Rate:
        """The rate that was asked for.

        Raises:
            TenreoError: when not exactly one was given, or it is out of range.
        """
        simple = "progressive" if self.progressive else "uniform"
        given = {simple: self.rate, "target_size": self.target_size, "target_params": self.target_params}
        chosen = [name for name, value in given.items() if value is not None]
        if self.progressive and self.rate is None:
            raise TenreoError("progressive: needs the growth r' as the rate, such as 0.5; a target finds its own rates")
        if not chosen:
            raise TenreoError("rate: not given; say -r 2, -r 0.5 --progressive, --target-size or --target-params")
        if len(chosen) != 1:
            raise TenreoError(f"rate: needs exactly one of {', '.join(RATES)}, given {' and '.join(chosen)}")
        if self.target_size is not None:
            return rate_of("target_size", amount(self.target_size, "target_size", "B"))
        if self.target_params is not None:
            return rate_of("target_params", amount(self.target_params, "target_params"))
        rate = self.rate or 0.0
        if not self.progressive and 0 < rate < 1:
            raise TenreoError(
                f"rate: given {rate:g}, needs at least 1 (1 keeps everything); for a progressive rate say --progressive"
            )
        return rate_of(simple, rate)


@dataclass(frozen=True)
class Statistics(Options):
    """How the statistics of a compressed model are corrected."""

    match_statistics: bool = option(True, "Correct BatchNorm (or biases) on noise, by the dense model.")
    calibrate: str | None = option(None, "Correct it on unlabeled training images instead of noise.")
    calibrate_batches: int = option(4, "Batches of 64 images to calibrate on.", least=1, ceiling=_MOST_BATCHES)
    skip_broken: bool = option(False, "Go on past images that can not be read, and name them.")


@dataclass(frozen=True)
class Matching(Options):
    """Whether the statistics of compressed models are corrected."""

    match_statistics: bool = option(True, "Correct BatchNorm (or biases) on noise, where top-1 is measured.")


@dataclass(frozen=True)
class Encoding(Options):
    """Where layers are encoded."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.")
    jobs: int | None = option(
        None, "Layers at a time, by default one per core; never changes the result.", least=1, ceiling=_MOST_TASKS
    )


@dataclass(frozen=True)
class Computing(Options):
    """Where a model runs."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.")
    workers: int | None = option(
        None, "Processes that decode images; by default one per core, none for digits.", least=0, most=_MOST_TASKS
    )


@dataclass(frozen=True)
class Output(Options):
    """What is written and shown."""

    out: Path | None = option(None, "Output file.")
    dry_run: bool = option(False, "Show the plan; write nothing.")
    force: bool = option(False, "Replace an existing output file.")
    json: bool = option(False, "One JSON object instead of tables.")


@dataclass(frozen=True)
class SweepOutput(Options):
    """What is written and shown."""

    dry_run: bool = option(False, "Counts alone: nothing is compressed, no weights are needed.")
    plot: Path | None = option(None, "Draw the table.")
    force: bool = option(False, "Replace an existing output file.")
    json: bool = option(False, "One JSON object instead of tables.")


@dataclass(frozen=True)
class Shown(Options):
    """How results are shown."""

    json: bool = option(False, "One JSON object instead of tables.")


@dataclass(frozen=True)
class EvaluatedOutput(Options):
    """What is written and shown."""

    predictions: Path | None = option(None, "CSV of every image: path, label, predicted class, confidence, correct.")
    confusion: tuple[str, ...] = option((), "Confusion matrix, as a picture or table; FILE ends in .png or .csv.")
    force: bool = option(False, "Replace existing output files.")
    json: bool = option(False, "One JSON object instead of tables.")

    @property
    def files(self) -> list[Path]:
        """All that is written."""
        return [*([self.predictions] if self.predictions else []), *map(Path, self.confusion)]


@dataclass(frozen=True)
class Inspected(Shown):
    """How results are shown."""

    layers: bool = option(True, "Show the table of layers.")


@dataclass(frozen=True)
class File(Options):
    """The file that a command starts from."""

    file: Path = field(
        metadata=described("A file of tenreo, dense safetensors, or a .pth of the reference implementation.")
    )


@dataclass(frozen=True)
class Files(Options):
    """The files that a command compares."""

    files: tuple[str, ...] = field(
        metadata=described("Files of tenreo, dense safetensors, or .pth of the reference implementation.")
    )

    @property
    def paths(self) -> list[Path]:
        """Of the files, in the order that they were given in."""
        return [Path(file) for file in self.files]


@dataclass(frozen=True)
class Evaluated(Options):
    """The images that a model is measured on."""

    data: str = field(metadata=described("Folder with val/, a folder per class in it; shards (.tar); or digits."))
    against: str | None = option(
        None, "Compare with the dense model, or that of a file: agreement and KL. Data may then be loose images."
    )
    limit: int | None = option(None, "At most so many images, spaced evenly over all.", least=1, ceiling=_MOST_IMAGES)
    batch_size: int = option(256, "Images at a time.", least=1, ceiling=_MOST_AT_ONCE)
    amp: bool = option(False, "Autocast to bfloat16.")
    skip_broken: bool = option(False, "Go on past images that can not be read, and name them.")


@dataclass(frozen=True)
class Layout(Options):
    """How the images to evaluate on are laid out."""

    split: str = option(
        "val", "Folder of the images to evaluate on; val is validation as well, and . is the folder of the data."
    )
    labels: Path | None = option(
        None, "Labels of a flat folder: a file's name and class a line, or a number a line in the order of the names."
    )
    class_map: Path | None = option(
        None, "Which class of the model each of the data is: two words a line, or imagenet_class_index.json."
    )


@dataclass(frozen=True)
class SweepData(Options):
    """The images that models are measured on."""

    data: str | None = option(
        None, "Measure top-1 and agreement with the dense model: folder with val/, of loose images, or digits."
    )
    limit: int | None = option(None, "At most so many images, spaced evenly over all.", least=1, ceiling=_MOST_IMAGES)
    batch_size: int = option(256, "Images at a time.", least=1, ceiling=_MOST_AT_ONCE)
    skip_broken: bool = option(False, "Go on past images that can not be read, and name them.")


@dataclass(frozen=True)
class TrainingData(Options):
    """The images that a model learns from."""

    data: str = field(metadata=described("Folder with train/ and val/, a folder per class in each; or digits."))
    train_split: str = option("train", "Folder of the images to learn from.")
    calibrate: int = option(
        0, "First estimate BatchNorm on so many batches, without labels.", least=0, ceiling=_MOST_BATCHES
    )
    teacher: Path | None = option(None, "Dense model to distill from; by default the weights that the file names.")
    classes: int | None = option(None, "Replace the last layer by a random one of so many classes.", least=1,
                                 ceiling=MOST_CLASSES)  # fmt: skip


@dataclass(frozen=True)
class TrainingOutput(Options):
    """What is written and shown."""

    out: Path | None = option(None, "The best model; the last one, the run's state and log stand beside it.")
    resume: bool = option(False, "Go on from the state beside the output file.")
    plot: bool = option(False, "Draw loss and accuracy beside the output file, after every epoch.")
    tensorboard: Path | None = option(None, "Folder of event files for TensorBoard.")
    force: bool = option(False, "Replace existing output files.")
    json: bool = option(False, "One JSON object instead of tables.")


@dataclass(frozen=True)
class DemoOutput(Options):
    """What is written and shown."""

    out: Path = option(Path("tenreo-demo"), "Folder for the files.")
    seed: int = option(0, "Seed of weights and the order of images.", least=0, ceiling=_MOST_SEED)
    force: bool = option(False, "Write into a folder that is not empty.")
    json: bool = option(False, "One JSON object instead of tables.")

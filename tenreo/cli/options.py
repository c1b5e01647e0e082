"""The options of the command line besides those of `Recipe` and `Settings`: a dataclass per subject. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from tenreo.errors import TenreoError, shown
from tenreo.files.header import is_pickle, read_header
from tenreo.files.records import MOST_CHANNELS, MOST_CLASSES, MOST_PIXELS, Preprocess
from tenreo.files.values import Fields
from tenreo.models.names import SAFE, architecture_names
from tenreo.options import check_options, described, option
from tenreo.planning.recipe import DenseDtype

# Bounds of numbers: no machine or data set needs more, and a slip of the finger must not take all memory.
_BUILDER = (
    "What builds the model, where the file does not say: timm:NAME, torchvision:NAME, or package.module:function. "
    "A function is only called when it is given here, also where the file names it."
)
_MOST_SEED = 2**32 - 1  # what every generator takes
_MOST_TASKS = 1024  # processes or threads: cores of the largest machines
_MOST_AT_ONCE = 2**16  # images of a batch: of 224 by 224 pixels, 39 GB
_MOST_IMAGES = 10**9  # paths alone would take all memory
_MOST_NUMBERS = 2**28  # of an input: more takes all memory at once
_SHAPE = re.compile(r"[0-9]{1,5}(?:x[0-9]{1,5}){2,3}")
_MOST_BATCHES = 10**6  # of 64 images: 50 times ImageNet


def _devices() -> tuple[str, ...]:
    return ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps")


class Options:
    """Checks the options of a frozen dataclass when it is made."""

    def __post_init__(self) -> None:
        check_options(self)


def shape_of(text: str) -> tuple[int, ...]:
    """The shape of an input, (channels, height, width), or of a video (channels, frames, height, width).

    >>> shape_of("3x224x224")
    (3, 224, 224)

    Raises:
        TenreoError: when it is none, or of more than anybody has.
    """
    shape = tuple(map(int, text.split("x"))) if _SHAPE.fullmatch(text) else ()
    numbers = 1
    for side in shape:
        numbers *= side
    if not shape or not 1 <= numbers <= _MOST_NUMBERS or shape[0] > MOST_CHANNELS or max(shape[-2:]) > MOST_PIXELS:
        raise TenreoError(
            f"input: given {shown(text)}, needs channels, height and width, at most {MOST_CHANNELS:,} and "
            f"{MOST_PIXELS:,} by {MOST_PIXELS:,}, such as 3x224x224, or 3x16x112x112 with frames"
        )
    return shape


def numbers_of(name: str, text: str) -> tuple[float, ...]:
    """Numbers between commas.

    Raises:
        TenreoError: when they are none.
    """
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise TenreoError(f"{name}: given {shown(text)}, needs a number per channel, such as 0.5,0.5,0.5") from None


@dataclass(frozen=True)
class DenseModel(Options):
    """The dense model that is compressed."""

    panel: ClassVar[str] = "Model"
    arch: str | None = option(
        None, "Classification architecture of torchvision.", short="-a", metavar="NAME", completion=architecture_names
    )
    model: str | None = option(
        None,
        "Any model instead: timm:NAME, torchvision:NAME, or a function that makes it, package.module:function.",
        short="-m",
        metavar="SOURCE:NAME",
    )
    weights: str | None = option(
        None, "Weights of torchvision (by default IMAGENET1K_V1), a file, or none: random.", metavar="NAME|FILE|none"
    )
    input: str | None = option(
        None, "Channels and sides of the model's input; by default what is known of it.", metavar="CxHxW"
    )
    mean: str | None = option(None, "Mean of every channel of the input, of values in [0, 1].", metavar="M,M,M")
    std: str | None = option(None, "Standard deviation of every channel.", metavar="S,S,S")
    seed: int = option(0, "Seed of random weights.", least=0, ceiling=_MOST_SEED)

    def require_arch(self) -> str:
        """The architecture, which a file of weights may say as well.

        Raises:
            TenreoError: when it was not given, and no file says it.
        """
        arch = self.arch or _arch_of(self.weights)
        if arch is None:
            raise TenreoError("arch: not given, needs an architecture such as resnet50, or say --model")
        return arch

    @property
    def name(self) -> str:
        """What the model is called, as part of a file's name."""
        if self.model is None:
            return self.require_arch()
        source, _, name = self.model.partition(":")
        return name if source in SAFE else f"{source}-{name}"

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of an input, where it was given."""
        return None if self.input is None else shape_of(self.input)

    def prepared(self, known: Preprocess) -> Preprocess:
        """How images are prepared: as was said, else as is known.

        Raises:
            TenreoError: when an option can not be understood, or they contradict each other.
        """
        shape = self.shape
        if shape is not None:
            if shape[-1] != shape[-2]:
                raise TenreoError(
                    f"input: given {self.input}, needs a square, such as {shape[0]}x{shape[-1]}x{shape[-1]}"
                )
            known = replace(known, resize=shape[-1], crop=shape[-1], channels=shape[0])
            if shape[0] not in (len(known.mean), len(known.std)):
                mean, std = (round(sum(each) / len(each), 3) for each in (known.mean, known.std))
                known = replace(known, mean=(mean,), std=(std,))
        if self.mean is not None:
            known = replace(known, mean=numbers_of("mean", self.mean))
        if self.std is not None:
            known = replace(known, std=numbers_of("std", self.std))
        try:
            Preprocess.from_fields(Fields(known.to_dict()))
        except ValueError as error:
            raise TenreoError(f"{'mean' if self.mean else 'std'}: {error}") from error
        return known


def _arch_of(weights: str | None) -> str | None:
    """The architecture that a file of tenreo's names; None of anything else."""
    path = Path(weights or "none")
    return None if not path.is_file() or is_pickle(path) else read_header(path).info.arch


@dataclass(frozen=True)
class Statistics(Options):
    """How the statistics of a compressed model are corrected."""

    panel: ClassVar[str] = "Statistics"
    match_statistics: bool = option(True, "Correct BatchNorm (or biases) on noise, by the dense model.")
    calibrate: str | None = option(
        None, "Correct it on unlabeled training images instead of noise.", metavar="DIR|digits"
    )
    calibrate_batches: int = option(4, "Batches of 64 images to calibrate on.", least=1, ceiling=_MOST_BATCHES)
    skip_broken: bool = option(False, "Go on past images that can not be read, and name them.")


@dataclass(frozen=True)
class Matching(Options):
    """Whether the statistics of compressed models are corrected."""

    panel: ClassVar[str] = "Statistics"
    match_statistics: bool = option(True, "Correct BatchNorm (or biases) on noise, where top-1 is measured.")


@dataclass(frozen=True)
class Encoding(Options):
    """Where layers are encoded."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", metavar="NAME", completion=_devices)
    jobs: int | None = option(
        None,
        "Layers at a time, by default one per core; never changes the result.",
        least=1,
        ceiling=_MOST_TASKS,
        short="-j",
    )


@dataclass(frozen=True)
class Computing(Options):
    """Where a model runs."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", metavar="NAME", completion=_devices)
    workers: int | None = option(
        None, "Processes that decode images; by default one per core, none for digits.", least=0, most=_MOST_TASKS
    )


@dataclass(frozen=True)
class Output(Options):
    """What is written and shown."""

    out: Path | None = option(None, "Output file.", short="-o")
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

    predictions: Path | None = option(
        None, "CSV of every image: path, label, predicted class, confidence, correct.", metavar="FILE"
    )
    confusion: tuple[str, ...] = option(
        (), "Confusion matrix, as a picture or table; FILE ends in .png or .csv.", metavar="FILE"
    )
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

    panel: ClassVar[str] = "Model"
    file: Path = field(
        metadata=described(
            "A file of tenreo, dense safetensors, or a .pth of the reference implementation.",
            metavar="FILE",
            positional=True,
        )
    )


@dataclass(frozen=True)
class ModelFile(File):
    """The file that a command starts from, and how its model is built."""

    model: str | None = option(None, _BUILDER, short="-m", metavar="SOURCE:NAME")


@dataclass(frozen=True)
class Exported(Options):
    """What a model is exported to."""

    to: Path = field(
        metadata=described(
            "File to write; its ending says the format: .safetensors and .pth (dense weights), .onnx, or .pt2 "
            "(torch.export).",
            metavar="FILE",
        )
    )
    dtype: DenseDtype = option(DenseDtype.FLOAT32, "Number format of what is written.")
    input: str | None = option(
        None, "Channels and sides of the model's input; by default what is known of it.", metavar="CxHxW"
    )
    force: bool = option(False, "Replace an existing file.")
    json: bool = option(False, "One JSON object instead of lines.")


@dataclass(frozen=True)
class Files(Options):
    """The files that a command compares."""

    panel: ClassVar[str] = "Model"
    files: tuple[str, ...] = field(
        metadata=described(
            "Files of tenreo, dense safetensors, or .pth of the reference implementation.",
            metavar="FILE",
            positional=True,
        )
    )

    model: str | None = option(None, _BUILDER, short="-m", metavar="SOURCE:NAME")

    @property
    def each(self) -> list[ModelFile]:
        """The files, in the order that they were given in."""
        return [ModelFile(Path(file), self.model) for file in self.files]


@dataclass(frozen=True)
class Evaluated(Options):
    """The images that a model is measured on."""

    panel: ClassVar[str] = "Data"
    data: str = field(
        metadata=described(
            "Folder with val/, a folder per class in it; shards (.tar); or digits.", metavar="DIR|digits"
        )
    )
    against: str | None = option(
        None,
        "Compare with the dense model, or that of a file: agreement and KL. Data may then be loose images.",
        metavar="dense|FILE",
    )
    limit: int | None = option(None, "At most so many images, spaced evenly over all.", least=1, ceiling=_MOST_IMAGES)
    batch_size: int = option(256, "Images at a time.", least=1, ceiling=_MOST_AT_ONCE, short="-b")
    amp: bool = option(False, "Autocast to bfloat16.")
    skip_broken: bool = option(False, "Go on past images that can not be read, and name them.")


@dataclass(frozen=True)
class Layout(Options):
    """How the images to evaluate on are laid out."""

    panel: ClassVar[str] = "Data"
    split: str = option(
        "val",
        "Folder of the images to evaluate on; val is validation as well, and . is the folder of the data.",
        metavar="NAME",
    )
    labels: Path | None = option(
        None,
        "Labels of a flat folder: a file's name and class a line, or a number a line in the order of the names.",
        metavar="FILE",
    )
    class_map: Path | None = option(
        None,
        "Which class of the model each of the data is: two words a line, imagenet_class_index.json, or meta.mat.",
        metavar="FILE",
    )


@dataclass(frozen=True)
class SweepData(Options):
    """The images that models are measured on."""

    panel: ClassVar[str] = "Data"
    data: str | None = option(
        None,
        "Measure top-1 and agreement with the dense model: folder with val/, of loose images, or digits.",
        metavar="DIR|digits",
    )
    limit: int | None = option(None, "At most so many images, spaced evenly over all.", least=1, ceiling=_MOST_IMAGES)
    batch_size: int = option(256, "Images at a time.", least=1, ceiling=_MOST_AT_ONCE, short="-b")
    skip_broken: bool = option(False, "Go on past images that can not be read, and name them.")


@dataclass(frozen=True)
class TrainingData(Options):
    """The images that a model learns from."""

    panel: ClassVar[str] = "Data"
    data: str = field(
        metadata=described("Folder with train/ and val/, a folder per class in each; or digits.", metavar="DIR|digits")
    )
    train_split: str = option("train", "Folder of the images to learn from.", metavar="NAME")
    calibrate: int = option(
        0, "First estimate BatchNorm on so many batches, without labels.", least=0, ceiling=_MOST_BATCHES
    )
    teacher: Path | None = option(None, "Dense model to distill from; by default the weights that the file names.")
    classes: int | None = option(None, "Replace the last layer by a random one of so many classes.", least=1,
                                 ceiling=MOST_CLASSES)  # fmt: skip


@dataclass(frozen=True)
class TrainingOutput(Options):
    """What is written and shown."""

    out: Path | None = option(
        None, "The best model; the last one, the run's state and log stand beside it.", short="-o"
    )
    resume: bool = option(False, "Go on from the state beside the output file.")
    plot: bool = option(False, "Draw loss and accuracy beside the output file, after every epoch.")
    tensorboard: Path | None = option(None, "Folder of event files for TensorBoard.", metavar="DIR")
    force: bool = option(False, "Replace existing output files.")
    json: bool = option(False, "One JSON object instead of tables.")


@dataclass(frozen=True)
class DemoOutput(Options):
    """What is written and shown."""

    out: Path = option(Path("tenreo-demo"), "Folder for the files.", short="-o")
    seed: int = option(0, "Seed of weights and the order of images.", least=0, ceiling=_MOST_SEED)
    force: bool = option(False, "Write into a folder that is not empty.")
    json: bool = option(False, "One JSON object instead of tables.")

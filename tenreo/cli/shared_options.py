"""Options that several commands share, in one dataclass per subject. No torch."""

import math
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from tenreo.codec.threads import usable_cores
from tenreo.data.layouts import DIGITS
from tenreo.errors import TenreoError, shown
from tenreo.files.checkpoints import SINGLE
from tenreo.files.header import is_pickle, read_header
from tenreo.files.records import MOST_CHANNELS, MOST_PIXELS, Preprocess
from tenreo.files.values import Fields
from tenreo.models.names import SAFE, architecture_names, function_name, names_folder
from tenreo.options import check_options, described, option

# Upper bounds of numbers, so that a typing error does not fill the memory.
MOST_SEED = 2**32 - 1  # largest seed that NumPy's generators accept
_MOST_BATCH_SIZE = 2**16  # 39 GB of images of 224 by 224 pixels
MOST_BATCHES = 10**6  # of 64 images: 50 times the size of ImageNet
_MOST_TASKS = 1024  # cores of the largest machines
_MOST_NUMBERS = 2**28  # numbers of one input: 1 GB
_SHAPE = re.compile(r"[0-9]{1,5}(?:x[0-9]{1,5}){2,3}")
BUILDER = (
    "How to build the model if the file does not state it: timm:NAME, torchvision:NAME, or package.module:function. "
    "A function is called only if it is given here, even if the file names it."
)
SKIP_BROKEN = "Skip images that cannot be read, and list them."


class Options:
    """Base class of option dataclasses: checks all options when an instance is made."""

    def __post_init__(self) -> None:
        for name in ("model", "loader", "metric"):
            if isinstance(getattr(self, name, None), str):
                object.__setattr__(self, name, function_name(getattr(self, name)))
        check_options(self)


@dataclass(frozen=True)
class DenseModel(Options):
    """The dense model that is compressed."""

    panel: ClassVar[str] = "Model"

    arch: str | None = option(
        None, "Name of a torchvision classification model, such as resnet50.", short="-a", metavar="NAME",
        completion=architecture_names,
    )  # fmt: skip
    model: str | None = option(
        None, "Any other model: timm:NAME, torchvision:NAME, package.module:function, which returns the model, or a "
        "folder or repository in timm's layout, local-dir:FOLDER or hf-hub:USER/MODEL, with its weights.",
        short="-m", metavar="SOURCE:NAME",
    )  # fmt: skip
    weights: str | None = option(
        None, "Name of pretrained weights, file of weights, or none for random weights. Default: the pretrained "
        "weights of the model; with --arch, those named IMAGENET1K_V1.",
        metavar="NAME|FILE|none",
    )  # fmt: skip
    ignore_extra: bool = option(False, "Leave out tensors of the file of weights that the model does not have.")
    input: str | None = option(
        None, "Channels, height and width of the model's input, such as 3x224x224. Default: the model's own.",
        metavar="CxHxW",
    )  # fmt: skip
    mean: str | None = option(None, "Mean of each input channel, for pixel values in [0, 1].", metavar="M,M,M")
    std: str | None = option(None, "Standard deviation of each input channel.", metavar="S,S,S")
    seed: int = option(0, "Seed of random weights.", least=0, ceiling=MOST_SEED)

    def require_arch(self) -> str:
        """Return the given architecture, or that of the tenreo file of weights; raise TenreoError without either."""
        weights = Path(self.weights or "none")
        arch = self.arch
        if arch is None and weights.is_file() and not is_pickle(weights):
            arch = read_header(weights).info.arch
        if arch is None:
            raise TenreoError("arch: not given, needs an architecture such as resnet50; use --model for other models")
        return arch

    @property
    def name(self) -> str:
        """The model's name as part of a file name."""
        if self.model is None:
            return self.require_arch()
        source, _, name = self.model.partition(":")
        if names_folder(self.model):
            return Path(name).expanduser().resolve().name
        return name if source in SAFE else f"{source}-{name}"

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of one input, (channels, height, width); None if it was not given."""
        return None if self.input is None else shape_of(self.input)

    def prepared(self, known: Preprocess) -> Preprocess:
        """Return how images are preprocessed.

        Args:
            known: preprocessing of the model's configuration, which the options override.

        Raises:
            TenreoError: if an option is malformed, or mean and std do not fit the channels.
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
            known = replace(known, mean=_numbers("mean", self.mean))
        if self.std is not None:
            known = replace(known, std=_numbers("std", self.std))
        if (self.mean is None) != (self.std is None) and len(known.mean) != len(known.std):
            given, lacking = ("mean", "std") if self.std is None else ("std", "mean")
            raise TenreoError(f"{given}: given without {lacking}, needs both, or one number per channel")
        try:
            Preprocess.from_fields(Fields(known.to_dict()))
        except ValueError as error:
            raise TenreoError(f"{'mean' if self.mean else 'std'}: {error}") from error
        return known


def shape_of(text: str) -> tuple[int, ...]:
    """Parse the shape of one input: (channels, height, width), or (channels, frames, height, width) of a video.

    >>> shape_of("3x224x224")
    (3, 224, 224)

    Raises:
        TenreoError: if the text is not a shape, or the shape is too large.
    """
    shape = tuple(map(int, text.split("x"))) if _SHAPE.fullmatch(text) else ()
    fits = shape and shape[0] <= MOST_CHANNELS and max(shape[-2:]) <= MOST_PIXELS
    if not fits or not 1 <= math.prod(shape) <= _MOST_NUMBERS:
        raise TenreoError(
            f"input: given {shown(text)}, needs channels, height and width, at most {MOST_CHANNELS:,} and "
            f"{MOST_PIXELS:,} by {MOST_PIXELS:,}, such as 3x224x224, or 3x16x112x112 with frames"
        )
    return shape


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise TenreoError(f"{name}: given {shown(text)}, needs a number per channel, such as 0.5,0.5,0.5") from None


@dataclass(frozen=True)
class Device(Options):
    """Where a command computes."""

    device: str = option(
        "auto", "Device: auto, cpu, cuda, cuda:N or mps.", metavar="NAME",
        completion=lambda: ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps"),
    )  # fmt: skip


@dataclass(frozen=True)
class Encoding(Device):
    """Where layers are encoded, and how many at a time."""

    jobs: int | None = option(
        None, "Number of layers that are encoded in parallel; by default one per core. It does not change the result.",
        least=1, ceiling=_MOST_TASKS, short="-j",
    )  # fmt: skip


@dataclass(frozen=True)
class Computing(Device):
    """Where a model runs, and which processes read its images."""

    workers: int | None = option(
        None, "Number of processes that read images; by default one per core, or none for digits.",
        least=0, most=_MOST_TASKS,
    )  # fmt: skip


def choose_workers(workers: int | None, data: str) -> int:
    """Return the number of processes that read the images of `data`; `workers` is the number given, if any."""
    if workers is not None or data == DIGITS:
        return workers or 0
    # The processes of a distributed run share the cores of their machine.
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True)
class File(Options):
    """The file that a command reads."""

    panel: ClassVar[str] = "Model"

    file: Path = field(
        metadata=described(
            "tenreo file, dense safetensors file, .pth checkpoint of the reference implementation, or folder with "
            "model.safetensors.",
            metavar="FILE|FOLDER", positional=True,
        )
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if os.path.isdir(self.file):  # false, not an error, for an impossible name
            object.__setattr__(self, "file", self.file / SINGLE)


@dataclass(frozen=True)
class Checkpoint(Options):
    """The file or folder that a command reads without building its model."""

    panel: ClassVar[str] = "Model"

    file: Path = field(
        metadata=described("File or folder of weights, compressed or dense.", metavar="FILE|FOLDER", positional=True)
    )


@dataclass(frozen=True)
class ModelFile(File):
    """The file that a command reads, and how its model is built."""

    model: str | None = option(None, BUILDER, short="-m", metavar="SOURCE:NAME")


@dataclass(frozen=True)
class Reading(Options):
    """Which images are evaluated on, and how many at a time."""

    panel: ClassVar[str] = "Data"

    limit: int | None = option(
        None, "Maximum number of images, evenly spaced over the data set.", least=1, ceiling=10**9
    )
    batch_size: int = option(256, "Number of images per batch.", least=1, ceiling=_MOST_BATCH_SIZE, short="-b")
    skip_broken: bool = option(False, SKIP_BROKEN)


@dataclass(frozen=True)
class ModelInputs(Options):
    """Inputs of a model that takes no images."""

    panel: ClassVar[str] = "Data"

    inputs: Path | None = option(
        None, "NumPy file (.npz) of inputs instead of images: arrays of examples with the names of the model's "
        "arguments, or in their order.",
        metavar="FILE",
    )  # fmt: skip
    loader: str | None = option(
        None, "Function that is called without arguments and returns batches of inputs: tensors, tuples or "
        "dictionaries of the model's arguments.",
        metavar="MODULE:FUNCTION",
    )  # fmt: skip

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the options that are given."""
        return tuple(name for name in ("inputs", "loader") if getattr(self, name) is not None)


@dataclass(frozen=True)
class Layout(Options):
    """The layout of the images to evaluate on."""

    panel: ClassVar[str] = "Data"

    split: str = option(
        "val", "Name of the folder to evaluate on; val also finds validation, and . stands for the data folder itself.",
        metavar="NAME",
    )  # fmt: skip
    labels: Path | None = option(
        None, "File with labels of images that are not in class folders: lines of file name and class, or one class "
        "number per line in the order of the file names.",
        metavar="FILE",
    )  # fmt: skip
    class_map: Path | None = option(
        None, "File that maps dataset classes to model classes: lines of dataset class and model class, "
        "imagenet_class_index.json, or meta.mat.",
        metavar="FILE",
    )  # fmt: skip


@dataclass(frozen=True)
class JsonOutput(Options):
    """How results are printed."""

    json: bool = option(False, "Print the results as one JSON object.")


@dataclass(frozen=True)
class FileOutput(JsonOutput):
    """How results are written and printed."""

    force: bool = option(False, "Overwrite existing output files.")

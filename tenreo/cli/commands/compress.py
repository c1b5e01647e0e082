"""`tenreo compress`: options and checks."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import MOST_BATCHES, SKIP_BROKEN, DenseModel, Encoding, FileOutput, ModelInputs, Options
from tenreo.errors import TenreoError
from tenreo.exporting.formats import Deployment, check_output, check_packages
from tenreo.files.checkpoints import Output as Target
from tenreo.files.checkpoints import find_files
from tenreo.files.paths import check_ending, check_readable
from tenreo.hub.metadata import license_of
from tenreo.models.names import model_folder, names_folder
from tenreo.options import option
from tenreo.planning.rates import (
    Progressive,
    Rate,
    TargetBits,
    TargetFraction,
    TargetParameters,
    TargetSize,
    Uniform,
)
from tenreo.planning.recipe import Recipe
from tenreo.sizes import amount, is_unit, short_amount


@dataclass(frozen=True)
class Statistics(ModelInputs):
    """How the statistics of a compressed model are corrected."""

    panel: ClassVar[str] = "Statistics"

    match_statistics: bool = option(
        True,
        "Correct the BatchNorm statistics, or the biases of models without BatchNorm, so that random images have "
        "the same statistics in the compressed model as in the dense model.",
    )
    measure_importance: bool = option(
        True,
        "With a target size, give more bytes to the layers whose errors change the outputs most, as measured on random "
        "images or those of --calibrate.",
    )
    calibrate: str | None = option(
        None,
        "Correct the statistics on the training images of this folder instead of random images. Their labels are "
        "not used.",
        metavar="DIR|digits",
    )
    calibrate_batches: int = option(
        4, "Number of batches of 64 images that --calibrate uses.", least=1, ceiling=MOST_BATCHES
    )
    skip_broken: bool = option(False, SKIP_BROKEN)


@dataclass(frozen=True)
class Output(FileOutput):
    """What is written and printed."""

    out: Path | None = option(
        None, "Output file; or a folder, which also gets config.json and a model card. Default: a file with a name "
        "made of the model and the recipe, in the current folder.",
        short="-o", metavar="FILE|FOLDER",
    )  # fmt: skip
    for_: Deployment | None = option(
        None, "Let --target-size be the size of the ONNX model that `tenreo export --small` makes of the file."
    )
    layers_: bool = option(False, "Print tables of the layers and of all counts. A dry run always prints them.")
    report: Path | None = option(
        None, "HTML page with the sizes, the agreement with the dense model on --calibrate, --inputs, --loader or "
        "noise, the layers by bytes and harm, and a better recipe of the same size if one is found; it needs no "
        "network.",
        metavar="FILE",
    )  # fmt: skip
    dry_run: bool = option(False, "Print the plan; compress and write nothing.")


@dataclass(frozen=True)
class CompressedFiles(Options):
    """Files that are compressed without building a model."""

    panel: ClassVar[str] = "Model"

    source: Path | None = option(
        None, "File or folder to compress without the model's code: safetensors files, their index, a state dict of "
        "torch, or an ONNX model, of which an ONNX model is made.",
        metavar="FILE|FOLDER", positional=True,
    )  # fmt: skip
    shard_size: str | None = option(
        None, "Maximum size of the files of a folder, for example 5GB. By default, they are divided like those of the "
        "source.",
        metavar="SIZE",
    )  # fmt: skip
    license: str | None = option(
        None, "License of the weights, which is stored in the file. Default for a folder: that of its README.md.",
        metavar="NAME",
    )  # fmt: skip
    resume: bool = option(False, "Continue a run that was killed; tensors that it has encoded are kept.")

    @property
    def path(self) -> Path:
        """The file or folder that is compressed; raise TenreoError without one."""
        if self.source is None:
            raise TenreoError("source: not given, needs a file or a folder")
        return self.source

    @property
    def is_onnx(self) -> bool:
        """Whether an ONNX model is compressed."""
        return self.source is not None and self.source.suffix == ".onnx"

    def onnx_target(self, recipe: Recipe, output: Output) -> Path:
        """Return the path of the compressed ONNX model.

        Raises:
            TenreoError: if an option is not for ONNX models, or a file cannot be read or written.
        """
        check_packages()
        check_readable(self.path)
        for name in ("shard_size", "license", "resume"):
            if getattr(self, name):
                raise TenreoError(f"{name}: given together with an ONNX model; leave it out")
        path = output.out or Path(f"{default_name(self.path.stem, recipe).removesuffix('.safetensors')}.onnx")
        check_output(self.path, path)
        checks.check_output(path, output.force or output.dry_run)
        return path

    def target(self, recipe: Recipe, output: Output, jobs: int | None = None) -> Target:
        """Return where the compressed files are written.

        Raises:
            TenreoError: if the output exists, or a size is malformed.
        """
        size = None if self.shard_size is None else amount(self.shard_size, "shard_size", "B")
        found = find_files(self.path)
        path = output.out
        is_folder = found.is_folder or size is not None
        if path is None:
            name = default_name(self.path.stem if found.weights == (self.path,) else self.path.resolve().name, recipe)
            path = Path(name.removesuffix(".safetensors") if is_folder else name)
        elif path.is_dir():
            is_folder = True
        elif path.suffix == ".safetensors":
            is_folder = False
            if size is not None:
                raise TenreoError(f"shard_size: given with the file {path}; give a folder as --out")
        if is_folder:
            checks.check_folder(path, output.force or output.dry_run, (self.path,), self.resume)
        else:
            check_ending(path, ".safetensors")
            checks.check_output(path, output.force or output.dry_run)
        return Target(path, is_folder, size, self.license or license_of(found), self.resume, jobs)


def compress(
    dense: DenseModel, recipe: Recipe, statistics: Statistics, encoding: Encoding, output: Output,
    files: CompressedFiles,
) -> None:  # fmt: skip
    """Compress a model, or files without the model's code.

    Exactly one of FILE|FOLDER, --arch and --model names what is compressed.

    Exactly one of --rate, --target-size, --bits, --target-kl, --target-agreement and --target-params is needed.

    Example: tenreo compress --arch mobilenet_v2 -g 4 -r 0.5 --progressive
    """
    check(dense, recipe, statistics, output, files)


def check(dense: DenseModel, recipe: Recipe, statistics: Statistics, output: Output, files: CompressedFiles) -> None:
    """Raise WrongUsageError if anything is wrong with the model, the files, the images or the output."""
    with usage():
        if files.source is not None:
            given = [n for n in ("arch", "model", "weights", "input", "mean", "std") if getattr(dense, n) is not None]
            given += ["calibrate"] * (statistics.calibrate is not None)
            given += [name for name in statistics.given if not (files.is_onnx and name == "inputs")]
            given += ["for"] * (output.for_ is not None and not files.is_onnx)
            given += ["report"] * (output.report is not None)
            if is_unit(str(files.source)) and not files.source.exists():
                raise TenreoError(f"target_size: {files.source} stands alone; write a size as one word, such as 3MB")
            if given:
                raise TenreoError(f"{given[0]}: given together with {files.source}; leave one of them out")
            if ":" in files.source.name and not files.source.exists():
                raise TenreoError(f"source: {files.source} is no file; for the model of a function, use --model")
            if files.is_onnx:
                checks.check_inputs(statistics)
                files.onnx_target(recipe, output)
            else:
                files.target(recipe, output)
            return
        if files.shard_size is not None:
            raise TenreoError("shard_size: needs a file or folder to compress instead of a model")
        if files.resume:
            raise TenreoError("resume: needs a file or folder to compress instead of a model")
        checks.check_dense(dense)
        checks.check_inputs(statistics)
        if statistics.calibrate is not None:
            if statistics.given:
                raise TenreoError(f"{statistics.given[0]}: given together with images; leave out --calibrate")
            checks.check_pictures(statistics.calibrate)
        if output.for_ is Deployment.ONNX:
            check_packages()
            if not isinstance(recipe.rate, TargetSize):
                raise TenreoError("for: onnx needs target_size, the size of the ONNX model")
        if output.dry_run and output.report is not None:
            raise TenreoError("dry_run: measures nothing; leave out --report, or --dry-run")
        checks.check_page(output.report, output.force, "report")
        if not output.dry_run:
            path = output.out or Path(default_name(dense.name, recipe))
            if checks.is_folder(path):
                own = (model_folder(dense.model),) if dense.model and names_folder(dense.model) else ()
                checks.check_folder(path, output.force, own)
            else:
                check_ending(path, ".safetensors")
                checks.check_output(path, output.force)


def default_name(arch: str, recipe: Recipe) -> str:
    """Return the name of an output: that of the reference implementation for a rate, else one with the target."""
    rate, groups = recipe.rate, f"-{recipe.groups}" if recipe.groups else ""
    if isinstance(rate, (Uniform, Progressive)):
        return f"compressed-{arch}-{rate.name}{groups}-{float(rate.number)}.safetensors"
    return f"{arch}{groups}-{_target_in_words(rate)}.safetensors"


def _target_in_words(rate: Rate) -> str:
    """Return a target as a part of a file name, such as 560kB, 5x, 4bits, or kl0.05."""
    if isinstance(rate, TargetSize):
        return short_amount(rate.bytes, "B")
    if isinstance(rate, TargetFraction):
        return f"{1 / rate.fraction:.4g}x"
    if isinstance(rate, TargetBits):
        return f"{rate.bits:g}bits"
    if isinstance(rate, TargetParameters):
        return f"{short_amount(rate.parameters)}-parameters"
    return f"{rate.name.removeprefix('target_')}{rate.number:g}"

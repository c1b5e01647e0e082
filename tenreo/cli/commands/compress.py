"""`tenreo compress`: options and checks."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import MOST_BATCHES, SKIP_BROKEN, DenseModel, Encoding, FileOutput, Options
from tenreo.files.paths import check_ending
from tenreo.options import option
from tenreo.planning.rates import Progressive, Uniform
from tenreo.planning.recipe import Recipe


@dataclass(frozen=True)
class Statistics(Options):
    """How the statistics of a compressed model are corrected."""

    panel: ClassVar[str] = "Statistics"

    match_statistics: bool = option(
        True,
        "Correct the BatchNorm statistics, or the biases of models without BatchNorm, so that random images have "
        "the same statistics in the compressed model as in the dense model.",
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
        None, "Output file. Default: a name made of the model and the recipe, in the current folder.", short="-o"
    )
    dry_run: bool = option(False, "Print the plan; compress and write nothing.")


def compress(dense: DenseModel, recipe: Recipe, statistics: Statistics, encoding: Encoding, output: Output) -> None:
    """Compress a model and write it to a file.

    Example: tenreo compress --arch mobilenet_v2 -g 4 -r 0.5 --progressive
    """
    check(dense, recipe, statistics, output)


def check(dense: DenseModel, recipe: Recipe, statistics: Statistics, output: Output) -> None:
    """Raise WrongUsageError if anything is wrong with the model, the images or the output file."""
    with usage():
        checks.check_dense(dense)
        if statistics.calibrate is not None:
            checks.check_pictures(statistics.calibrate)
        if not output.dry_run:
            path = output.out or Path(default_name(dense.name, recipe))
            check_ending(path, ".safetensors")
            checks.check_output(path, output.force)


def default_name(arch: str, recipe: Recipe) -> str:
    """Return the name that the reference implementation gives its output, with the ending .safetensors."""
    number = recipe.rate.number
    number = float(number) if isinstance(recipe.rate, (Uniform, Progressive)) else number
    groups = f"-{recipe.groups}" if recipe.groups else ""
    return f"compressed-{arch}-{recipe.rate.name}{groups}-{number}.safetensors"

"""`tenreo sweep`: options and checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import MOST_BATCH_SIZE, MOST_IMAGES, DenseModel, Encoding, Layout, Options
from tenreo.errors import TenreoError
from tenreo.files.paths import check_ending
from tenreo.options import option
from tenreo.planning.recipe import Recipe


@dataclass(frozen=True)
class SweepData(Options):
    """The images that models are evaluated on."""

    panel: ClassVar[str] = "Data"

    data: str | None = option(
        None,
        "Measure top-1 and agreement with the dense model on a folder that contains val/, a folder of unlabeled "
        "images, or digits.",
        metavar="DIR|digits",
    )
    limit: int | None = option(
        None, "Maximum number of images, evenly spaced over the data set.", least=1, ceiling=MOST_IMAGES
    )
    batch_size: int = option(256, "Images per batch.", least=1, ceiling=MOST_BATCH_SIZE, short="-b")
    skip_broken: bool = option(False, "Skip images that cannot be read, and list them.")


@dataclass(frozen=True)
class Matching(Options):
    """Whether the statistics of compressed models are corrected."""

    panel: ClassVar[str] = "Statistics"

    match_statistics: bool = option(
        True, "Correct BatchNorm statistics (or biases) on noise before models are evaluated."
    )


@dataclass(frozen=True)
class SweepOutput(Options):
    """What is written and printed."""

    dry_run: bool = option(False, "Only count parameters and bytes; compress nothing and load no weights.")
    plot: Path | None = option(None, "Plot the table to a PNG file.", metavar="FILE")
    force: bool = option(False, "Overwrite an existing output file.")
    json: bool = option(False, "Print one JSON object instead of tables.")


def sweep(
    dense: DenseModel,
    recipes: list[Recipe],
    data: SweepData,
    layout: Layout,
    matching: Matching,
    encoding: Encoding,
    output: SweepOutput,
) -> None:
    """Compare recipes: every value of -g with every value of -r.

    Example: tenreo sweep --arch mobilenet_v2 -g 4 8 -r 0.5 1 --progressive
    """
    check(dense, data, layout, output)
    from tenreo.cli.run.sweep import sweep_recipes

    sweep_recipes(dense, recipes, data, layout, matching, encoding, output)


def check(dense: DenseModel, data: SweepData, layout: Layout, output: SweepOutput) -> None:
    """Check the model, the images and the output file.

    Raises:
        WrongUsageError: naming what is wrong.
    """
    with usage():
        if output.dry_run and (output.plot or data.data):
            raise TenreoError("dry_run: measures nothing; leave out --plot and --data, or --dry-run")
        checks.check_dense(dense)
        if data.data is not None:
            checks.check_data(data.data, [])
            checks.check_layout(data.data, layout)
        elif layout != Layout():
            raise TenreoError("data: not given, but split, labels and class_map describe its images; give data as well")
        if output.plot is not None:
            checks.require_plotting()
            check_ending(output.plot, ".png")
            checks.check_output(output.plot, output.force)

"""`tenreo sweep`: options and checks."""

from dataclasses import dataclass
from pathlib import Path

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import DenseModel, Encoding, FileOutput, Layout, Reading
from tenreo.errors import TenreoError
from tenreo.files.paths import check_ending
from tenreo.options import option
from tenreo.planning.recipe import Recipe


@dataclass(frozen=True)
class SweepData(Reading):
    """The images that models are evaluated on."""

    data: str | None = option(
        None, "Measure top-1 and the agreement with the dense model on a folder that contains val/, on a folder of "
        "unlabeled images, or on the handwritten digits of scikit-learn.",
        metavar="DIR|digits",
    )  # fmt: skip
    match_statistics: bool = option(
        True, "Correct the BatchNorm statistics, or biases, of compressed models before they are evaluated."
    )


@dataclass(frozen=True)
class SweepOutput(FileOutput):
    """What is written and printed."""

    dry_run: bool = option(False, "Only count parameters and bytes; compress nothing and load no weights.")
    plot: Path | None = option(None, "PNG file to plot the results to.", metavar="FILE")
    report: Path | None = option(
        None, "HTML page with the results and, for every setting, the bytes and the harm of every layer, which takes "
        "two runs over at most 64 images per layer.",
        metavar="FILE",
    )  # fmt: skip

    @property
    def files(self) -> list[Path]:
        """All files that are written."""
        return [path for path in (self.plot, self.report) if path is not None]


def sweep(
    dense: DenseModel, recipes: list[Recipe], data: SweepData, layout: Layout, encoding: Encoding, output: SweepOutput
) -> None:
    """Compress a model with every combination of -g and -r, and compare the results.

    Exactly one of --rate, --target-size, --bits and --target-params is needed.

    Example: tenreo sweep --arch mobilenet_v2 -g 4 8 -r 0.5 1 --progressive
    """
    check(dense, data, layout, output)


def check(dense: DenseModel, data: SweepData, layout: Layout, output: SweepOutput) -> None:
    """Raise WrongUsageError if anything is wrong with the model, the images or the output file."""
    with usage():
        if output.dry_run and (output.plot or output.report or data.data):
            raise TenreoError("dry_run: measures nothing; leave out --plot, --report and --data, or --dry-run")
        checks.check_dense(dense)
        if data.data is not None:
            checks.check_data(data.data, [])
            checks.check_layout(data.data, layout)
        elif layout != Layout():
            raise TenreoError("data: not given, but split, labels and class_map describe its images; give data as well")
        if output.plot is not None:
            checks.require_plotting()
            check_ending(output.plot, ".png")
            checks.check_output(output.plot, output.force, "plot")
        checks.check_page(output.report, output.force, "report")

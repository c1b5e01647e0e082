"""`tenreo analyze`: options and checks."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import DenseModel, Encoding, FileOutput, Layout, ModelFile, Options, Reading
from tenreo.errors import TenreoError
from tenreo.files.paths import check_ending, check_readable
from tenreo.options import option
from tenreo.planning.rates import OutputTarget
from tenreo.planning.recipe import Recipe


@dataclass(frozen=True)
class CompressedFile(Options):
    """The compressed file that is analyzed, and its dense model."""

    panel: ClassVar[str] = "Model"

    source: Path | None = option(
        None, "Compressed file to analyze. Without one, the model of --arch or --model is compressed in memory.",
        metavar="FILE", positional=True,
    )  # fmt: skip
    against: str = option(
        "dense", "Dense model of the file: dense, which is the one that the file names, or another file of weights.",
        metavar="dense|FILE",
    )  # fmt: skip

    @property
    def given_dense(self) -> Path | None:
        """The file of the dense model if one is given."""
        return None if self.against == "dense" else Path(self.against)


@dataclass(frozen=True)
class AnalyzedData(Reading):
    """The images that outputs are compared on."""

    data: str | None = option(
        None, "Compare outputs on images of this folder, labeled or not, or on the handwritten digits of scikit-learn, "
        "instead of noise.",
        metavar="DIR|digits",
    )  # fmt: skip
    limit: int | None = option(64, "Maximum number of images, evenly spaced over the data set.", least=1, ceiling=10**9)


@dataclass(frozen=True)
class AnalysisOutput(FileOutput):
    """What is written and printed."""

    plot: Path | None = option(None, "PNG file with a picture of the layers: bytes against harm.", metavar="FILE")
    html: Path | None = option(
        None, "HTML page with the sizes, the agreement, the layers, and the recipe of --better if that is better; it "
        "needs no network.",
        metavar="FILE",
    )  # fmt: skip
    better: Path | None = option(
        None, "YAML file for `tenreo compress --config`: a recipe of the same size, in which the layers that do more "
        "harm get more bytes. It is tried, and the KL that it leads to is printed.",
        metavar="FILE",
    )  # fmt: skip

    @property
    def files(self) -> dict[str, Path]:
        """All files that are written, by the name of the option."""
        given = {"plot": self.plot, "html": self.html, "better": self.better}
        return {name: path for name, path in given.items() if path is not None}


def analyze(
    dense: DenseModel, recipe: Recipe | None, data: AnalyzedData, layout: Layout, encoding: Encoding,
    output: AnalysisOutput, file: CompressedFile,
) -> None:  # fmt: skip
    """Show what the compression of every layer costs in bytes, and what it does to the outputs.

    Exactly one of FILE, --arch and --model is needed.

    Example: tenreo analyze small.safetensors
    """
    check(dense, recipe, data, layout, output, file)


def check(
    dense: DenseModel, recipe: Recipe | None, data: AnalyzedData, layout: Layout, output: AnalysisOutput,
    file: CompressedFile,
) -> None:  # fmt: skip
    """Raise WrongUsageError if anything is wrong with the model, the file, the images or the output."""
    with usage():
        if file.source is None:
            checks.check_dense(dense)
            if file.against != "dense":
                raise TenreoError("against: needs a compressed file; leave it out, or give the file")
            if recipe is not None and isinstance(recipe.rate, OutputTarget):
                raise TenreoError(f"{recipe.rate.name}: compress with this target first, and analyze the file")
        else:
            _check_file(dense, recipe, file)
        if data.data is not None:
            checks.check_data(data.data, [])
            checks.check_layout(data.data, layout)
        elif layout != Layout():
            raise TenreoError("data: not given, but split, labels and class_map describe its images; give data as well")
        _check_output(output)
    if file.source is not None:
        checks.check_header(ModelFile(file.source, dense.model))


def _check_file(dense: DenseModel, recipe: Recipe | None, file: CompressedFile) -> None:
    """Check that a file can be read, and that no option describes another model or recipe than its own."""
    path = file.source or Path()
    checks.check_file(ModelFile(path, dense.model))
    if file.given_dense is not None:
        check_readable(file.given_dense)
    given = [n for n in ("arch", "weights", "input", "mean", "std") if getattr(dense, n) is not None]
    if given:
        raise TenreoError(f"{given[0]}: given together with {path}, which describes its model; leave one of them out")
    if recipe is not None:
        raise TenreoError(f"{recipe.rate.name}: {path} is compressed already; leave the recipe out")


def _check_output(output: AnalysisOutput) -> None:
    """Check that every path is different, has the ending of its format, and can be written."""
    for name, path in output.files.items():
        if name == "plot":
            checks.require_plotting()
        if name != "html":
            check_ending(path, *{"plot": (".png",), "better": (".yaml", ".yml")}[name])
            checks.check_output(path, output.force, name)
    checks.check_page(output.html, output.force, "html")
    if len({path.absolute() for path in output.files.values()}) != len(output.files):
        raise TenreoError("better: given the same output file twice; give each its own")

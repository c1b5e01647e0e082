"""`tenreo evaluate`: options and checks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tenreo.cli import checks
from tenreo.cli.commands.gates import Gates
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import (
    BUILDER,
    Computing,
    FileOutput,
    Layout,
    ModelFile,
    ModelInputs,
    Options,
    Reading,
)
from tenreo.errors import TenreoError
from tenreo.files.paths import check_ending, check_readable
from tenreo.options import described, option


@dataclass(frozen=True)
class Files(Options):
    """The files that are evaluated."""

    panel: ClassVar[str] = "Model"

    files: tuple[str, ...] = field(
        metadata=described(
            "tenreo files, dense safetensors files, or .pth checkpoints of the reference implementation.",
            metavar="FILE", positional=True,
        )
    )  # fmt: skip
    model: str | None = option(None, BUILDER, short="-m", metavar="SOURCE:NAME")

    @property
    def each(self) -> list[ModelFile]:
        """The files in the order of the command line."""
        return [ModelFile(Path(file), self.model) for file in self.files]


@dataclass(frozen=True)
class Evaluated(Reading):
    """The images that models are evaluated on."""

    data: str | None = option(
        None, "Folder that contains val/ with one folder per class or with tar shards; or digits, the handwritten "
        "digits of scikit-learn.",
        metavar="DIR|digits",
    )  # fmt: skip
    against: str | None = option(
        None, "Measure agreement and KL divergence with the dense model or with the model of a file. Images then need "
        "no labels.",
        metavar="dense|FILE",
    )  # fmt: skip
    amp: bool = option(False, "Compute in bfloat16 with autocast.")


@dataclass(frozen=True)
class EvaluatedInputs(ModelInputs):
    """Inputs of models that take no images, and what is measured on them."""

    metric: str | None = option(
        None, "Function that is called with the outputs of the model and the batch, which is (images, labels) with "
        "--data, and returns a number per example, or one.",
        metavar="MODULE:FUNCTION",
    )  # fmt: skip
    lower_is_better: bool = option(False, "Say in the table that lower values of the metric are better.")


@dataclass(frozen=True)
class EvaluatedOutput(FileOutput):
    """What is written and printed."""

    predictions: Path | None = option(
        None, "CSV file to write, with one row per image: path, label, predicted class, confidence, correct.",
        metavar="FILE",
    )  # fmt: skip
    confusion: tuple[str, ...] = option(
        (), "File to write the confusion matrix to, as a picture (.png) or a table (.csv). Can be repeated.",
        metavar="FILE",
    )  # fmt: skip

    @property
    def files(self) -> list[Path]:
        """All files that are written."""
        return [*([self.predictions] if self.predictions else []), *map(Path, self.confusion)]


def evaluate(
    files: Files, data: Evaluated, inputs: EvaluatedInputs, layout: Layout, gates: Gates, computing: Computing,
    output: EvaluatedOutput,
) -> None:  # fmt: skip
    """Measure and compare the accuracy of models on labeled images, or a metric of your own on any inputs.

    Exactly one of --data, --inputs and --loader is needed.

    Example: tenreo evaluate model.safetensors --data imagenet
    """
    check(files, data, inputs, layout, gates, output)


def check(
    files: Files, data: Evaluated, inputs: EvaluatedInputs, layout: Layout, gates: Gates, output: EvaluatedOutput
) -> None:
    """Check the files, the images or inputs, the limits and the output files.

    Raise WrongUsageError, or TenreoError if a file is damaged.
    """
    with usage():
        if data.data is None and not inputs.given:
            raise TenreoError("data: not given, needs a folder of images or digits; use --inputs or --loader otherwise")
        for file in files.each:
            checks.check_file(file)
        if data.against not in (None, "dense"):
            check_readable(Path(str(data.against)))
        gates.check(data.against is not None, inputs.metric is not None, data.data is not None)
        if inputs.metric is not None:
            checks.check_function("metric", inputs.metric)
        if inputs.given:
            _check_inputs(data, inputs, layout, output)
        else:
            checks.check_data(str(data.data), [layout.split] if needs_labels(data, inputs, output) else [])
            checks.check_layout(str(data.data), layout)
            _check_output(files, output)
    for file in files.each:
        checks.check_header(file)


def needs_labels(data: Evaluated, inputs: EvaluatedInputs, output: EvaluatedOutput) -> bool:
    """Return whether only the accuracy is measured, for which images need labels."""
    return data.against is None and inputs.metric is None and output.predictions is None


def _check_inputs(data: Evaluated, inputs: EvaluatedInputs, layout: Layout, output: EvaluatedOutput) -> None:
    """Check the inputs, of which something is to be measured; options of images may not be given with them."""
    name = inputs.given[0]
    if data.data is not None:
        raise TenreoError(f"{name}: given together with images; use only one of --data, --inputs and --loader")
    if layout != Layout() or output.files:
        raise TenreoError(
            f"{name}: are no images; leave out --split, --labels, --class-map, --predictions and --confusion"
        )
    if data.against is None and inputs.metric is None:
        raise TenreoError(f"{name}: given without something to measure; give --against dense or --metric")
    checks.check_inputs(inputs)


def _check_output(files: Files, output: EvaluatedOutput) -> None:
    """Check that predictions and confusion matrices are of one model, and that every path is different and writable."""
    for path in output.files:
        name = "predictions" if path is output.predictions else "confusion"
        if len(files.files) > 1:
            raise TenreoError(f"{name}: needs a single file, given {len(files.files)}; evaluate them one by one")
        check_ending(path, *([".csv"] if name == "predictions" else [".png", ".csv"]))
        if path.suffix.lower() == ".png":
            checks.require_plotting(name)
        checks.check_output(path, output.force)
    if len({path.absolute() for path in output.files}) != len(output.files):
        raise TenreoError("confusion: given the same output file twice; give each its own")

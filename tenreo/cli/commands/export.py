"""`tenreo export`: options and checks."""

from dataclasses import dataclass, field
from pathlib import Path

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import FileOutput, ModelFile, ModelInputs, shape_of
from tenreo.errors import TenreoError
from tenreo.exporting.formats import WeightDtype, check_format, check_packages
from tenreo.files.checkpoints import SINGLE
from tenreo.options import described, option


@dataclass(frozen=True, kw_only=True)
class Exported(FileOutput):
    """The file that a model is exported to."""

    to: Path = field(
        metadata=described(
            "Output file. Its ending selects the format: .safetensors or .pth for dense weights, .onnx, or .pt2 for "
            "torch.export. A folder gets the dense weights and config.json, which timm reads.",
            metavar="FILE|FOLDER",
        )
    )
    small: bool = option(
        False, "Keep the weights compressed in an .onnx file; the runtime decodes them when it loads the model."
    )
    dtype: WeightDtype = option(WeightDtype.FLOAT32, "Number format of the exported weights.")
    input: str | None = option(
        None, "Channels, height and width of the model's input. Default: the size that the file states.",
        metavar="CxHxW",
    )  # fmt: skip

    @property
    def folder(self) -> Path | None:
        """The folder that is written, or None for a file."""
        return self.to if checks.is_folder(self.to) else None

    @property
    def path(self) -> Path:
        """The file that is written, also in a folder."""
        return self.to if self.folder is None else self.folder / SINGLE


def export(file: ModelFile, exported: Exported, inputs: ModelInputs) -> None:
    """Convert a file to dense weights, ONNX, or a program of torch.export.

    The output can be used without tenreo. ONNX files and programs are run after writing, and their outputs are
    compared with those of the compressed model.

    Example: tenreo export model.safetensors --to model.onnx
    """
    check(file, exported, inputs)


def check(file: ModelFile, exported: Exported, inputs: ModelInputs) -> None:
    """Check the file, the format, the installed packages and the output file.

    Raise WrongUsageError, or TenreoError if a file is damaged.
    """
    with usage():
        checks.check_file(file)
        check_format(exported.path, exported.small)
        if exported.input is not None:
            shape_of(exported.input)
        checks.check_inputs(inputs)
        if inputs.given and exported.input is not None:
            raise TenreoError(f"{inputs.given[0]}: given together with the size of images; leave out --input")
        if exported.to.suffix == ".onnx":
            check_packages()
        if exported.folder is not None:
            checks.check_folder(exported.folder, exported.force, (file.file.parent,), option="to")
        else:
            checks.check_output(exported.to, exported.force, "to")
    checks.check_header(file)

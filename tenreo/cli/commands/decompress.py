"""`tenreo decompress`: options and checks."""

from dataclasses import dataclass, field
from pathlib import Path

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import Checkpoint, FileOutput
from tenreo.exporting.formats import WeightDtype
from tenreo.files.checkpoints import find_files
from tenreo.files.paths import check_ending
from tenreo.options import described, option


@dataclass(frozen=True, kw_only=True)
class Decompressed(FileOutput):
    """The plain file or folder that is written."""

    out: Path = field(
        metadata=described("Output file or folder. A folder also gets config.json.", short="-o", metavar="FILE|FOLDER")
    )
    dtype: WeightDtype | None = option(
        None, "Number format of floating-point tensors. By default, each has that of the original."
    )


def decompress(checkpoint: Checkpoint, output: Decompressed) -> None:
    """Write plain tensors from compressed ones, without the model's code.

    Example: tenreo decompress small.safetensors -o plain.safetensors
    """
    check(checkpoint, output)


def check(checkpoint: Checkpoint, output: Decompressed) -> None:
    """Raise WrongUsageError unless the files can be read and the output can be written."""
    with usage():
        if find_files(checkpoint.file).is_folder:
            checks.check_folder(output.out, output.force, (checkpoint.file,))
        elif checks.is_folder(output.out):
            checks.check_folder(output.out, output.force, (checkpoint.file.parent,))
        else:
            check_ending(output.out, ".safetensors")
            checks.check_output(output.out, output.force)

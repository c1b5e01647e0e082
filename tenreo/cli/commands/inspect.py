"""`tenreo inspect`: options and checks."""

from dataclasses import dataclass

from tenreo.cli.exits import usage
from tenreo.cli.shared_options import Checkpoint, JsonOutput
from tenreo.files.checkpoints import find_files
from tenreo.options import option


@dataclass(frozen=True)
class Inspected(JsonOutput):
    """What is printed."""

    layers: bool = option(True, "Print the table of layers.")


def inspect(checkpoint: Checkpoint, shown: Inspected) -> None:
    """Show the contents of a file or folder, reading only headers.

    Example: tenreo inspect model.safetensors
    """
    check(checkpoint)


def check(checkpoint: Checkpoint) -> None:
    """Raise WrongUsageError unless the files can be read."""
    with usage():
        find_files(checkpoint.file)

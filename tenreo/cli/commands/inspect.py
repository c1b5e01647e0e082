"""`tenreo inspect`: options and checks."""

from dataclasses import dataclass

from tenreo.cli.exits import usage
from tenreo.cli.shared_options import File, JsonOutput
from tenreo.files.paths import check_readable
from tenreo.options import option


@dataclass(frozen=True)
class Inspected(JsonOutput):
    """What is printed."""

    layers: bool = option(True, "Print the table of layers.")


def inspect(file: File, shown: Inspected) -> None:
    """Show the contents of a file, reading only its header.

    Example: tenreo inspect model.safetensors
    """
    check(file)


def check(file: File) -> None:
    """Raise WrongUsageError unless the file can be read."""
    with usage():
        check_readable(file.file)

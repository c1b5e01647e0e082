"""`tenreo verify`: options and checks."""

from dataclasses import dataclass
from pathlib import Path

from tenreo.cli.exits import usage
from tenreo.cli.shared_options import Checkpoint, JsonOutput
from tenreo.files.checkpoints import find_files
from tenreo.options import option


@dataclass(frozen=True)
class Verified(JsonOutput):
    """What files are compared with."""

    against: Path | None = option(
        None, "Original file or folder: show the signal-to-noise ratio of every tensor.", metavar="FILE|FOLDER"
    )


def verify(checkpoint: Checkpoint, verified: Verified) -> None:
    """Read everything in a file or folder, and check its checksums, ranges, and that every tensor decodes.

    The exit code is 1 if there is a fault; each is printed in a line.

    Example: tenreo verify small.safetensors --against model.safetensors
    """
    check(checkpoint, verified)


def check(checkpoint: Checkpoint, verified: Verified) -> None:
    """Raise WrongUsageError unless the files exist."""
    with usage():
        for path in (checkpoint.file, verified.against):
            if path is not None:
                find_files(path)

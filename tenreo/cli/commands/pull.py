"""`tenreo pull`: options and checks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import FileOutput, Options
from tenreo.files.repositories import Repository
from tenreo.options import described


@dataclass(frozen=True)
class Pulled(Options):
    """The repository that is downloaded."""

    panel: ClassVar[str] = "Model"

    repository: str = field(
        metadata=described(
            "Repository of the Hugging Face hub, perhaps with @ and a branch, tag or commit.", metavar="USER/MODEL",
            positional=True,
        )
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PulledOutput(FileOutput):
    """The folder that is written."""

    out: Path = field(metadata=described("Output folder.", short="-o", metavar="FOLDER"))


def pull(pulled: Pulled, output: PulledOutput) -> None:
    """Download a model from the Hugging Face hub: weights, configuration and card, but no code.

    Example: tenreo pull user/model -o small
    """
    check(pulled, output)


def check(pulled: Pulled, output: PulledOutput) -> None:
    """Raise WrongUsageError unless the repository has a name of the hub and the folder can be written."""
    with usage():
        checks.require_hub()
        Repository.parse(pulled.repository)
        checks.check_folder(output.out, output.force)

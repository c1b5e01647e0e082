"""`tenreo push`: options and checks."""

from dataclasses import dataclass, field
from typing import ClassVar

from tenreo.cli import checks
from tenreo.cli.commands.card import Described
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import Checkpoint, JsonOutput, Options
from tenreo.errors import TenreoError
from tenreo.files.checkpoints import find_files
from tenreo.files.repositories import Repository
from tenreo.options import described, option


@dataclass(frozen=True)
class Pushed(Options):
    """The repository that a model is uploaded to."""

    panel: ClassVar[str] = "Model"

    repository: str = field(
        metadata=described("Repository of the Hugging Face hub.", metavar="USER/MODEL", positional=True)
    )
    private: bool = option(False, "Make a new repository private.")


def push(checkpoint: Checkpoint, pushed: Pushed, described: Described, output: JsonOutput) -> None:
    """Upload a compressed file or folder to the Hugging Face hub, with config.json and a model card.

    The repository is created if it does not exist. A card that the folder has is kept, unless its values are given.

    Example: tenreo push small.safetensors user/model --results results.json
    """
    check(checkpoint, pushed, described)


def check(checkpoint: Checkpoint, pushed: Pushed, described: Described) -> None:
    """Raise WrongUsageError unless the files can be read and the repository has a name of the hub."""
    with usage():
        checks.require_hub()
        find_files(checkpoint.file)
        described.check()
        if "/" not in Repository.parse(pushed.repository).name:
            raise TenreoError(f"repository: given {pushed.repository}, needs a user and a name, such as user/model")

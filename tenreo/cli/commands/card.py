"""`tenreo card`: options and checks."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import Checkpoint, FileOutput, Options
from tenreo.files.checkpoints import find_files
from tenreo.files.paths import check_readable
from tenreo.files.repositories import Repository
from tenreo.hub.cards import CardValues
from tenreo.hub.metadata import CARD
from tenreo.options import option


@dataclass(frozen=True)
class Described(Options):
    """What a card says besides the contents of the file."""

    panel: ClassVar[str] = "Card"

    results: Path | None = option(
        None, "JSON object that `tenreo evaluate --json` printed for this file: its figures are those of the card.",
        metavar="FILE",
    )  # fmt: skip
    base_model: str | None = option(
        None, "Repository of the dense model. Default: the one that the file names.", metavar="USER/MODEL"
    )
    license: str | None = option(
        None, "License of the weights, as the hub names it. Default: that of the file or of the folder's card.",
        metavar="NAME",
    )  # fmt: skip
    dataset: tuple[str, ...] = option(
        (), "Data set that the dense model was trained on, as the hub names it. Can be repeated.", metavar="NAME"
    )

    def values(self, repository: str | None = None) -> CardValues:
        """Return what the card says; `repository` is the one that the card is for."""
        return CardValues(self.results, self.base_model, self.license, self.dataset, repository)

    def check(self) -> None:
        """Raise TenreoError if the file of results cannot be read, or the base model is no name of the hub."""
        if self.results is not None:
            check_readable(self.results)
        if self.base_model is not None:
            Repository.parse(self.base_model, "base_model")


@dataclass(frozen=True)
class CardOutput(FileOutput):
    """The card that is written."""

    out: Path | None = option(
        None, "Output file. Default: README.md in the folder of the file.", short="-o", metavar="FILE"
    )

    def path(self, checkpoint: Checkpoint) -> Path:
        """Return the path of the card."""
        folder = checkpoint.file if checkpoint.file.is_dir() else checkpoint.file.parent
        return self.out or folder / CARD


def card(checkpoint: Checkpoint, described: Described, output: CardOutput) -> None:
    """Write the model card of a compressed file or folder, with the values that the Hugging Face hub reads.

    Example: tenreo card small.safetensors --results results.json
    """
    check(checkpoint, described, output)


def check(checkpoint: Checkpoint, described: Described, output: CardOutput) -> None:
    """Raise WrongUsageError unless the files can be read and the card can be written."""
    with usage():
        find_files(checkpoint.file)
        described.check()
        checks.check_output(output.path(checkpoint), output.force)

"""Body of `tenreo card`; it does not import torch."""

from tenreo.cli.commands.card import CardOutput, Described
from tenreo.cli.shared_options import Checkpoint
from tenreo.cli.terminal.console import show, show_command, show_json
from tenreo.cli.terminal.results import next_command
from tenreo.files.atomic import write_text
from tenreo.hub.cards import card_text


def write_card(checkpoint: Checkpoint, described: Described, output: CardOutput) -> None:
    """Write the card, and print where it is."""
    text, path = card_text(checkpoint.file, described.values()), output.path(checkpoint)
    write_text(path, text)
    if output.json:
        show_json("card", {"file": str(checkpoint.file), "out": str(path), "measured": described.results is not None})
        return
    measured = "" if described.results else ", without measured figures; it says how to measure them"
    show(f"wrote {path}{measured}")
    show_command(next_command("push", checkpoint.file, "USER/MODEL"))

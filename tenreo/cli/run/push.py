"""Body of `tenreo push`."""

from tenreo.cli.commands.card import Described
from tenreo.cli.commands.push import Pushed
from tenreo.cli.shared_options import Checkpoint, JsonOutput
from tenreo.cli.terminal.console import show, show_command, show_json
from tenreo.cli.terminal.results import next_command
from tenreo.files.repositories import Repository
from tenreo.hub.pushing import push_with_card


def push_files(checkpoint: Checkpoint, pushed: Pushed, described: Described, output: JsonOutput) -> None:
    """Upload the files, and print their address and how they are fetched."""
    target = Repository.parse(pushed.repository)
    address = push_with_card(checkpoint.file, target, described.values(target.name), pushed.private or None)
    if output.json:
        show_json("push", {"file": str(checkpoint.file), "repository": target.name, "address": address})
        return
    show(f"pushed {checkpoint.file} to {target.name}: {address}")
    show_command(next_command("pull", target.name, "-o", "FOLDER"))

"""Body of `tenreo pull`; it does not import torch."""

from tenreo.cli.commands.pull import Pulled, PulledOutput
from tenreo.cli.terminal.console import show, show_command, show_json
from tenreo.cli.terminal.results import next_command
from tenreo.errors import counted
from tenreo.files.checkpoints import find_files
from tenreo.files.repositories import Repository, download
from tenreo.sizes import byte_count


def pull_files(pulled: Pulled, output: PulledOutput) -> None:
    """Download the files, and print how many there are."""
    folder = download(Repository.parse(pulled.repository), folder=output.out)
    files = find_files(folder)
    size, count = sum(path.stat().st_size for path in files.weights), len(files.weights)
    if output.json:
        found = {"repository": pulled.repository, "out": str(folder), "bytes": size, "files": count}
        show_json("pull", found)
        return
    show(f"wrote {output.out}: {byte_count(size)} of weights in {counted(count, 'file')}")
    show_command(next_command("inspect", output.out))

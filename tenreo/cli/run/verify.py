"""Body of `tenreo verify`."""

import typer

from tenreo.checkpoints.verification import Comparison, comparisons, differences, faults
from tenreo.cli.commands.verify import Verified
from tenreo.cli.shared_options import Checkpoint
from tenreo.cli.terminal.console import show, show_json
from tenreo.cli.terminal.progress import doing
from tenreo.cli.terminal.tables import number, table
from tenreo.codec.distortion import decibels, finite
from tenreo.errors import counted


def verify_files(checkpoint: Checkpoint, verified: Verified) -> None:
    """Verify a file or folder, compare it with the original, and print the faults; exit with 1 if there are any."""
    doing(f"checking {checkpoint.file}")
    found = list(faults(checkpoint.file))
    compared: list[Comparison] = []
    if verified.against is not None and not found:
        found += differences(checkpoint.file, verified.against)
        compared += comparisons(checkpoint.file, verified.against)
    total = decibels(sum(x.squared_norm for x in compared), sum(x.squared_error for x in compared))
    if verified.json:
        rows = [each.to_dict() for each in compared]
        snr = finite(total) if compared else None
        show_json("verify", {"file": str(checkpoint.file), "faults": found, "snr": snr, "tensors": rows})
    else:
        if compared:
            cells = [(x.name, f"{x.numel:,}", number(x.snr)) for x in compared]
            show(table("Tensors", ("name", "elements", "SNR dB"), cells), f"SNR of all tensors: {number(total)} dB")
        show(*found, f"{checkpoint.file}: {counted(len(found), 'fault') if found else 'no faults'}")
    if found:
        raise typer.Exit(1)

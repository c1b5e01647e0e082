"""Body of `tenreo decompress`."""

import torch

from tenreo.checkpoints.compress import deal
from tenreo.checkpoints.reading import decompress_file, decompress_folder, finish_decompressed
from tenreo.cli.commands.decompress import Decompressed
from tenreo.cli.shared_options import Checkpoint
from tenreo.cli.terminal.console import show, show_json
from tenreo.distributed import process_group
from tenreo.errors import TenreoError
from tenreo.files.checkpoints import CheckpointFiles, find_files
from tenreo.files.header import is_pickle
from tenreo.planning.recipe import DenseDtype


def decompress_files(checkpoint: Checkpoint, output: Decompressed) -> None:
    """Write the tensors of a file or folder as plain tensors; several processes share the files of a folder."""
    files = find_files(checkpoint.file)
    if is_pickle(files.weights[0]):
        raise TenreoError(f"{files.weights[0]}: is a file of torch, which is not compressed")
    dtype = None if output.dtype is None else DenseDtype(output.dtype)
    with process_group(torch.device("cpu")) as group:
        if files.is_folder:
            own = deal(files.weights, lambda path: path.stat().st_size, group)
            decompress_folder(files, output.out, own, dtype)
            group.wait()
            if group.is_main:
                finish_decompressed(files, output.out)
        elif group.is_main:
            decompress_file(checkpoint.file, output.out, dtype)
        group.wait()
        if group.is_main:
            _show(files, output)


def _show(files: CheckpointFiles, output: Decompressed) -> None:
    written = [output.out / each.name if files.is_folder else output.out for each in files.weights]
    size = sum(path.stat().st_size for path in written)
    if output.json:
        show_json("decompress", {"file": str(files.path), "out": str(output.out), "bytes": size, "files": len(written)})
        return
    show(f"wrote {output.out}: {size:,} bytes in {len(written):,} file{'s' if len(written) > 1 else ''}")

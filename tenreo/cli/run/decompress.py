"""Body of `tenreo decompress`."""

from pathlib import Path

import torch

from tenreo.checkpoints.compress import deal
from tenreo.checkpoints.reading import decompress_file, decompress_folder, finish_decompressed
from tenreo.cli import checks
from tenreo.cli.commands.decompress import Decompressed
from tenreo.cli.shared_options import Checkpoint
from tenreo.cli.terminal.console import show, show_json
from tenreo.distributed import process_group
from tenreo.errors import TenreoError, counted
from tenreo.files.atomic import make_folder
from tenreo.files.checkpoints import SINGLE, CheckpointFiles, find_files
from tenreo.files.header import is_pickle, read_header
from tenreo.hub.folders import write_config
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
            _write_single(checkpoint.file, output.out, dtype)
        group.wait()
        if group.is_main:
            _show(files, output)


def _write_single(file: Path, out: Path, dtype: DenseDtype | None) -> None:
    """Write the tensors of one file to a file, or to a folder with the configuration of the model."""
    if not checks.is_folder(out):
        decompress_file(file, out, dtype)
        return
    make_folder(out)
    decompress_file(file, out / SINGLE, dtype)
    write_config(out, read_header(file).info)


def _show(files: CheckpointFiles, output: Decompressed) -> None:
    folder = output.out if checks.is_folder(output.out) else None
    names = [each.name if files.is_folder else SINGLE for each in files.weights]
    written = [output.out if folder is None else folder / name for name in names]
    size = sum(path.stat().st_size for path in written)
    if output.json:
        show_json("decompress", {"file": str(files.path), "out": str(output.out), "bytes": size, "files": len(written)})
        return
    show(f"wrote {output.out}: {size:,} bytes in {counted(len(written), 'file')}")

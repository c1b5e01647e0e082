"""The files of a checkpoint: one file, or a folder with shards, their index, and other files. Does not import torch."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tenreo.errors import TenreoError, shown
from tenreo.files.atomic import atomic_write, write_errors_named
from tenreo.files.formats import TORCH_ENDINGS
from tenreo.files.paths import check_readable, opened
from tenreo.files.quantization_config import CONFIG
from tenreo.files.values import parse

SINGLE = "model.safetensors"  # name of the only file of weights of a folder
INDEX_ENDING = ".index.json"
INDEX = f"model.safetensors{INDEX_ENDING}"
PARTS = ".tenreo-parts"  # ending of the name of a folder of encoded tensors
_MOST_INDEX = 100_000_000  # bytes of an index
_MOST_CONFIG = 10_000_000  # bytes of a configuration
_ENDING = ".safetensors"
# Endings of files of weights in other formats, which a compressed folder does not repeat.
_WEIGHTS = (*TORCH_ENDINGS, _ENDING, ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".tflite", ".ot", ".npz")


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint.

    Attributes:
        path: the file or the folder.
        weights: files that contain the tensors, in order.
        others: other files of the folder, relative to it, such as configurations, tokenizers and licences.
        index: the file that maps names of tensors to files, or None without one.
    """

    path: Path
    weights: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    index: Path | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the checkpoint is a folder."""
        return self.weights[0] != self.path


@dataclass(frozen=True)
class Output:
    """Where and how compressed files are written.

    Attributes:
        path: a file, or a folder for several ones.
        is_folder: whether the path is a folder.
        shard_size: maximum bytes of a file; None keeps the files of the source.
        license: license of the weights, if it is given.
        resume: whether parts of a killed run are kept.
        jobs: number of threads; by default one per core.
    """

    path: Path
    is_folder: bool = False
    shard_size: int | None = None
    license: str = ""
    resume: bool = False
    jobs: int | None = None

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self.path if self.is_folder else self.path.parent

    @property
    def parts(self) -> Path:
        """The folder of the parts."""
        return self.path / PARTS if self.is_folder else self.path.parent / f".{self.path.name}{PARTS}"


def find_files(path: Path) -> CheckpointFiles:
    """Find the files of a checkpoint: a file of weights itself, a folder, or an index and the files that it names.

    In a folder, an index is preferred to `model.safetensors`, and that to other files in safetensors or torch's format.

    Raises:
        TenreoError: if there are no files of weights, or the index is damaged or names files that do not exist.
    """
    if path.name.endswith(INDEX_ENDING) and os.path.isfile(path):  # false, not an error, for an impossible name
        return _of_index(path.parent, path)
    if not os.path.isdir(path):
        check_readable(path)
        return CheckpointFiles(path, (path,))
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise TenreoError(f"{path}: cannot be read: {error.strerror}; choose another folder") from error
    indices = [name for name in names if name.endswith(INDEX_ENDING)]
    for wanted in (INDEX, *(each for each in indices if each.endswith(f"{_ENDING}{INDEX_ENDING}")), *indices):
        if wanted in indices:
            return _of_index(path, path / wanted)
    for endings in ((_ENDING,), TORCH_ENDINGS):
        weights = [path / name for name in names if name.endswith(endings) and (path / name).is_file()]
        named = [each for each in weights if each.stem in ("model", "pytorch_model", "diffusion_pytorch_model")]
        if weights:
            chosen = named[:1] or (weights if endings == (_ENDING,) else weights[:1])
            return _inside(CheckpointFiles(path, tuple(chosen), tuple(_others(path, ()))))
    raise TenreoError(
        f"{path}: has no file of weights; give a folder with model.safetensors, its shards and index, or a .pth file"
    )


def _of_index(folder: Path, index: Path) -> CheckpointFiles:
    names = dict.fromkeys(sorted(read_index(index).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise TenreoError(f"{index}: names {missing[0]}, which does not exist in {folder}; download the folder again")
    weights = tuple(folder / name for name in names)
    return _inside(CheckpointFiles(folder, weights, tuple(_others(folder, (index.name,))), index))


def _inside(files: CheckpointFiles) -> CheckpointFiles:
    """Return the files of a folder; raise TenreoError if one of them is a link to a file outside of it."""
    others = (files.path / each for each in files.others)
    for path in (*files.weights, *others, *([files.index] if files.index else [])):
        check_inside(files.path, path)
    return files


def check_inside(folder: Path, path: Path) -> None:
    """Raise unless a file of a folder is in it, also after following links.

    The cache of Hugging Face has links to the folder `blobs` next to that of the snapshots.

    Raises:
        TenreoError: naming the link and its target.
    """
    real = folder.resolve()
    target = path.resolve()
    if path.is_symlink() and not any(target.is_relative_to(each) for each in (real, real.parent.parent / "blobs")):
        raise TenreoError(f"{path}: is a link to {target}, outside of its folder; replace it by the file, or remove it")


def check_index(files: CheckpointFiles, found: Mapping[str, str]) -> None:
    """Raise unless the index of a folder, if there is one, names only tensors that are in the files that it names.

    Args:
        files: files of the folder.
        found: name of the file of every tensor, by name.

    Raises:
        TenreoError: naming the first tensor that is missing.
    """
    named = {} if files.index is None else read_index(files.index)
    missing = next((name for name in named if found.get(name) != named[name]), None)
    if missing is not None:
        raise TenreoError(
            f"{files.index}: names {shown(missing)} in {named[missing]}, which does not contain it; download the "
            "folder again"
        )


def read_index(path: Path) -> dict[str, str]:
    """Return the file of every tensor by name, relative to the folder of an index.

    Raises:
        TenreoError: if the file is not an index, or names a file outside of its folder.
    """
    with opened(path) as file:
        text = file.read(_MOST_INDEX + 1)
    try:
        if len(text) > _MOST_INDEX:
            raise ValueError(f"it has more than {_MOST_INDEX:,} bytes")
        values = parse(text.decode())
        files = values.get("weight_map") if isinstance(values, dict) else None
        if not isinstance(files, dict) or not files or not all(isinstance(each, str) for each in files.values()):
            raise ValueError("it has no weight_map of names and files")
        outside = next((each for each in files.values() if Path(each).name != each or each in ("", ".", "..")), None)
        if outside is not None:
            raise ValueError(f"the file {shown(outside)} is not in its folder")
    except ValueError as error:
        raise TenreoError(f"{path}: cannot be read as an index: {error}; download it again") from error
    return dict(files)


def finish_folder(
    source: CheckpointFiles | None, target: Path, files: Mapping[str, str], bytes: int, config: Callable[[str], str]
) -> None:
    """Copy the other files of a folder, and write the index of shards last.

    Args:
        source: files that the shards were made from; None for tensors in memory.
        target: folder of the shards.
        files: file of every tensor by name.
        bytes: number that the index states as its size.
        config: function that returns the text of the new `config.json` for that of the source.

    Raises:
        TenreoError: if a file cannot be read or written.
    """
    for other in () if source is None else source.others:
        with write_errors_named(target / other):
            (target / other).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target / other) as temporary:
                shutil.copyfile(source.path / other, temporary)  # type: ignore[union-attr]
                if str(other) == CONFIG:
                    _rewrite(temporary, config)
    if len(set(files.values())) > 1 or (source is not None and source.index is not None):
        content = {"metadata": {"total_size": bytes}, "weight_map": dict(sorted(files.items()))}
        with atomic_write(target / INDEX) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")


def _rewrite(path: Path, config: Callable[[str], str]) -> None:
    """Change the text of a configuration; a file that cannot be one remains as it is."""
    with suppress(UnicodeDecodeError):
        if path.stat().st_size <= _MOST_CONFIG:
            path.write_text(config(path.read_text(encoding="utf-8")), encoding="utf-8")


def _others(folder: Path, left_out: tuple[str, ...]) -> Iterator[Path]:
    """Yield the paths of all other regular files, relative to the folder; hidden ones are left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = (Path(place) / name).relative_to(folder)
            weights = name.endswith(_WEIGHTS) or name.endswith(tuple(each + INDEX_ENDING for each in _WEIGHTS))
            if not name.startswith(".") and not weights and name not in left_out and (folder / path).is_file():
                yield path

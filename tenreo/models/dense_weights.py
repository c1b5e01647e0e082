"""The weights of the dense model that a file was compressed from: their name in the file, and where they are."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import nn

from tenreo.compression.serialization import dense_digest
from tenreo.errors import TenreoError, shown
from tenreo.files.header import Header
from tenreo.files.records import ModelInfo
from tenreo.files.repositories import PREFIX, Repository, cached
from tenreo.models.builders import check_trusted
from tenreo.models.names import is_safe
from tenreo.models.pretrained import find_weights, with_weights


def dense_weights(header: Header, given: Path | None = None) -> str | None:
    """Return the weights of the dense model that a file was compressed from, as `with_weights` takes them.

    Args:
        header: header of the compressed file.
        given: file of the dense model; by default the file that the header names, relative to the folder of the
            compressed file or to the current one, a file of this name next to the compressed file, that of a
            repository of the hub in the cache on this machine, or else torchvision's or timm's weights.

    Returns:
        A path or a name; None if timm's weights are to be downloaded, or if a function returns the weights.

    Raises:
        TenreoError: if the header does not name the weights, or they do not exist.
    """
    source, named, folder = header.info.source, header.info.weights, header.path.parent
    if source is not None and given is not None:
        return str(given)
    if source is not None and named is None and not is_safe(source) and header.source is not None:
        return None  # `check_origin` compares what the function returns with the weights that were compressed
    if source is None or named in (None, "none"):
        why = "does not name its dense weights" if named is None else "was made of random weights (--weights none)"
        raise TenreoError(f"{header.path} {why}; give the file of the dense weights")
    name = str(named)
    for path in (folder / name, Path(name), folder / Path(name).name):
        if os.path.isfile(path):  # not Path.is_file, which raises an error for a name that is too long
            return str(path)
    if name.startswith(PREFIX):
        return str(_cached_weights(header.path, name))
    if source.startswith("timm:") and Path(name).name == name and not Path(name).suffix:
        return None
    with suppress(TenreoError):
        if source.startswith("torchvision:") and find_weights(source, name) is not None:
            return name
    raise TenreoError(
        f"{header.path}: its dense weights {shown(name)} do not exist, relative to {folder} or to the current folder; "
        "give their file"
    )


def _cached_weights(path: Path, name: str) -> Path:
    """Return the file of the weights of a repository that a file names, which is only looked for on this machine."""
    repository = Repository.parse(name, f"{path}: weights")
    found = cached(repository, "model.safetensors")
    if found is None:
        raise TenreoError(
            f"{path}: its dense weights are those of {repository.name} on the hub, which are not on this machine; "
            f"download them with tenreo pull {repository} -o dense, and give dense/model.safetensors"
        )
    return found


def rename_weights(info: ModelInfo, old: Path, new: Path) -> ModelInfo:
    """Return the info for a file in another folder: a relative path of the weights is then relative to that folder.

    Args:
        info: description of a model, whose weights may be a path relative to the folder `old`.
        old: folder.
        new: folder of the file that will contain the info.
    """
    weights = info.weights
    if weights in (None, "none") or os.path.isabs(str(weights)) or not os.path.isfile(old / str(weights)):
        return info
    path = old / str(weights)
    # Without links, because ".." of a folder that is reached by a link is not the folder of the link.
    target = os.path.join(os.path.realpath(path.parent), path.name)
    return replace(info, weights=os.path.relpath(target, os.path.realpath(new)))


def open_dense(header: Header, given: Path | None = None, trust_builder: bool = False) -> nn.Module:
    """Open the dense model that a file was compressed from.

    Args:
        header: header of the compressed file.
        given: file of the dense model, as in `dense_weights`.
        trust_builder: whether to call the function that the file names.

    Raises:
        TenreoError: as `dense_weights`, and if the dense model is itself compressed, has another number of classes, or
            is a function's with other weights than those that were compressed.
    """
    info, weights = header.info, dense_weights(header, given)
    check_trusted(str(info.source), trust_builder)
    model, dense = with_weights(str(info.source), weights, kwargs=info.kwargs)
    if dense.classes not in (None, info.classes):
        raise TenreoError(
            f"{weights}: has {dense.classes} classes, the model has {info.classes}; give the file of its own dense "
            "model"
        )
    if weights is None and not is_safe(str(info.source)):
        check_origin(header, model)
    return model


def check_origin(header: Header, model: nn.Module) -> None:
    """Raise TenreoError unless a function's model has the weights that a file was compressed from."""
    if header.source is not None and dense_digest(model) != header.source.digest:
        raise TenreoError(
            f"{header.path}: {header.info.source} now returns other weights than those that were compressed; save them "
            "with torch.save, compress with --weights FILE, or give their file"
        )

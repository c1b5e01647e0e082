"""Folders of a model: the file of the weights, config.json, and the model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tenreo import __version__
from tenreo.errors import TenreoError, shown
from tenreo.files.atomic import make_folder, write_text
from tenreo.files.checkpoints import SINGLE, find_files
from tenreo.files.configs import CONFIG, read_config
from tenreo.files.header import is_pickle, read_header
from tenreo.files.paths import as_path
from tenreo.files.records import ModelInfo
from tenreo.files.repositories import Repository, download
from tenreo.hub.cards import CardValues, card_text
from tenreo.hub.metadata import CARD
from tenreo.models.model_files import load, open_model, save
from tenreo.models.timm_folders import is_timm, read_timm_folder, timm_builder, timm_config

_WANTED = ("*.safetensors", "*.json", CARD)


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    info: ModelInfo | None = None,
    builder: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Write a compressed model to a folder that can be shared: model.safetensors, config.json and README.md.

    >>> import tempfile
    >>> from tenreo import Recipe, Uniform, compress_
    >>> model = nn.Sequential(nn.Linear(64, 64))
    >>> _ = compress_(model, Recipe(4, Uniform(2.0)))
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_pretrained(model, folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'config.json', 'model.safetensors']

    Args:
        model: compressed or dense model; models of torchvision and timm are recognized. The card describes a compressed
            one.
        folder: folder to write to; files of these names are replaced.
        info: description of the model, as for `tenreo.save`.
        builder: how to build the model, as for `tenreo.save`.
        kwargs: arguments of the builder.

    Raises:
        TenreoError: as `tenreo.save`.
    """
    folder = as_path("folder", folder)
    make_folder(folder)
    if builder is None and info is None:
        builder, kwargs = timm_builder(model) or (None, None)
    save(model, folder / SINGLE, info, builder=builder, kwargs=kwargs)
    describe_folder(folder)


def from_pretrained(
    source: str | Path,
    model: nn.Module | None = None,
    *,
    token: str | None = None,
    trust_builder: bool = False,
) -> nn.Module:
    """Load a model from a folder, or from a repository of the Hugging Face hub, which is downloaded.

    Args:
        source: a folder, such as `save_pretrained` writes; or user/model or user/model@revision, for which
            huggingface_hub has to be installed.
        model: dense model to load the tensors into, if neither file nor configuration states how to build it.
        token: token for private repositories; by default the one that `hf auth login` has stored.
        trust_builder: whether to call the function that the file names as its builder, which can run any code.

    Returns:
        The model in evaluation mode; compressed layers stay compressed.

    Raises:
        TenreoError: if there is no such folder or repository, its files are damaged, or it does not state how to build
            its model.
    """
    folder = find_folder(source, token)
    files = find_files(folder)
    config = read_config(folder) if (folder / CONFIG).exists() else {}
    if model is None and "model_type" in config:
        raise TenreoError(
            f"{folder}: is a model of transformers; after import tenreo, load it with "
            "transformers.AutoModel.from_pretrained, or give the model that its tensors are for"
        )
    if model is not None or len(files.weights) > 1 or is_pickle(files.weights[0]):
        _check_single(folder, len(files.weights))
        return load(files.weights[0], model, trust_builder=trust_builder)
    if read_header(files.weights[0]).info.name is None and is_timm(config):
        return open_model(files.weights[0], info=read_timm_folder(folder).info)[0]
    return load(files.weights[0], trust_builder=trust_builder)


def _check_single(folder: Path, count: int) -> None:
    if count > 1:
        raise TenreoError(f"{folder}: has {count} files of weights; read them with tenreo.read, or decompress them")


def find_folder(source: str | Path, token: str | None = None) -> Path:
    """Return a folder, or download the repository that a text names and return the folder of its files.

    Raises:
        TenreoError: if there is neither.
    """
    if not isinstance(source, str | Path):
        raise TenreoError(
            f"source: given a {type(source).__name__}, needs a folder or a repository, such as user/model"
        )
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    if isinstance(source, Path) or source.startswith((".", "/", "~")):
        raise TenreoError(f"source: there is no folder {shown(str(source))}")
    return download(Repository.parse(source, "source"), _WANTED, token=token)


def describe_folder(folder: Path, values: CardValues | None = None) -> None:
    """Write config.json of a folder with model.safetensors, and, if this is compressed, its card.

    Raises:
        TenreoError: if a file cannot be written.
    """
    header = read_header(folder / SINGLE)
    write_config(folder, header.info)
    if header.layers:
        write_text(folder / CARD, card_text(folder, values))


def write_config(folder: Path, info: ModelInfo) -> None:
    """Write config.json of a folder: timm's configuration for its models, else what the file says about the model."""
    values: dict[str, Any] = {"library_name": "tenreo", "tenreo_version": __version__, "model": info.to_dict()}
    if (info.builder or "").startswith("timm:"):
        values = timm_config(info)
    write_text(folder / CONFIG, json.dumps(values, indent=2) + "\n")

"""Uploading models to the Hugging Face hub."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from tenreo.errors import TenreoError, shown
from tenreo.files.atomic import write_errors_named, write_text
from tenreo.files.checkpoints import SINGLE, find_files
from tenreo.files.repositories import SHARED, Repository, errors_named, require_hub
from tenreo.hub.cards import CardValues, card_text
from tenreo.hub.folders import describe_folder, save_pretrained
from tenreo.hub.metadata import CARD


def push(
    model_or_file: nn.Module | str | Path,
    repository: str,
    *,
    results: str | Path | None = None,
    base_model: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Upload a compressed model to a repository of the Hugging Face hub, which is created if it does not exist.

    The repository gets the weights, config.json, and a model card. The package huggingface_hub has to be installed.

    Args:
        model_or_file: compressed model; file of tenreo; or folder, whose own card is kept.
        repository: user/model.
        results: path of the JSON object that `tenreo evaluate --json` printed for the file, for the card.
        base_model: repository of the dense model, for the card; by default the one that the file names.
        private: whether a new repository is private; by default as the settings of the account say.
        token: token that may write; by default the one that `hf auth login` has stored.

    Returns:
        The address of the commit.

    Raises:
        TenreoError: if the file is damaged or not compressed, or it cannot be uploaded.
    """
    target = Repository.parse(repository)
    values = CardValues(None if results is None else Path(results), base_model, repository=target.name)
    return push_with_card(model_or_file, target, values, private, token)


def push_with_card(
    source: nn.Module | str | Path, target: Repository, values: CardValues, private: bool | None = None,
    token: str | None = None,
) -> str:  # fmt: skip
    """Upload a model like `push`, with a card of the given values."""
    if "/" not in target.name:
        raise TenreoError(f"repository: given {shown(target.name)}, needs a user and a name, such as user/model")
    require_hub()
    with TemporaryDirectory(prefix="tenreo-") as temporary:
        folder = Path(temporary)
        if isinstance(source, nn.Module):
            save_pretrained(source, folder)
            describe_folder(folder, replace(values, repository=target.name))
            if not (folder / CARD).exists():
                raise TenreoError("push: the model is not compressed; compress it first, with tenreo.compress_")
        elif Path(source).is_dir():
            folder = _with_card(Path(source), folder, values)
        else:
            with write_errors_named(folder):
                _link(Path(source), folder / SINGLE)
            describe_folder(folder, values)
            if not (folder / CARD).exists():
                card_text(Path(source))  # raises, because it is not compressed
        return _upload(folder, target, private, token)


def _with_card(source: Path, folder: Path, values: CardValues) -> Path:
    """Return the folder itself if it has a card and none is asked for, else a folder of links with a new card."""
    files = find_files(source)  # raises for links out of the folder
    asked = replace(values, repository=None) != CardValues()
    if (source / CARD).is_file() and not asked:
        return source
    with write_errors_named(folder):
        for path in [
            *files.weights,
            *(files.path / each for each in files.others),
            *([files.index] if files.index else []),
        ]:
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target)
    text = card_text(folder, values)
    (folder / CARD).unlink(missing_ok=True)
    write_text(folder / CARD, text)
    return folder


def _link(path: Path, target: Path) -> None:
    """Make a file appear in another folder, without copying it if the system allows that."""
    find_files(path)  # raises if it cannot be read
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def _upload(folder: Path, target: Repository, private: bool | None, token: str | None) -> str:
    api = require_hub().HfApi(token=token, library_name="tenreo")
    with errors_named(f"{target.name} cannot be uploaded to"):
        api.create_repo(target.name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=target.name, folder_path=folder, revision=target.revision, allow_patterns=list(SHARED),
            ignore_patterns=[".*", "*/.*"], commit_message="Upload a model that tenreo compressed",
        )  # fmt: skip
    return str(getattr(done, "commit_url", done))

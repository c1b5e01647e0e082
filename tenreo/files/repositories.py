"""Repositories of the Hugging Face hub: their names, downloads, and the copies on this machine. Does not import torch.

Only repositories that the user names are downloaded. The package huggingface_hub is imported when it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tenreo.errors import TenreoError, install, raise_if_out_of_memory, shown

PREFIX = "hf-hub:"  # timm's prefix of repositories in the name of a model
# Files that describe or contain a model without code: everything else in a repository stays there.
SHARED = (
    "*.safetensors", "*.json", "README.md", "LICENSE*", "NOTICE*", "*.txt", "*.model", "*.onnx", "*.jinja", "*.png",
)  # fmt: skip
_OUTSIDE = ("../*", "*/../*", "/*", ".*", "*/.*")  # names of files outside of the folder, and hidden ones
_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]{0,200}", re.ASCII)


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, perhaps at a revision.

    Attributes:
        name: owner and name, such as timm/resnet18.a1_in1k.
        revision: branch, tag or commit; None for the main branch.
    """

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, what: str = "repository") -> Repository:
        """Parse user/model or user/model@revision, also with the prefix hf-hub:.

        >>> Repository.parse("hf-hub:timm/resnet18.a1_in1k@main")
        Repository(name='timm/resnet18.a1_in1k', revision='main')

        Raises:
            TenreoError: if the text is not the name of a repository; `what` is the first word of the message.
        """
        if not isinstance(text, str):
            raise TenreoError(f"{what}: given an object of type {type(text).__name__}, needs the name of a repository")
        name, at, revision = text.removeprefix(PREFIX).partition("@")
        if not _NAME.fullmatch(name) or ".." in name or (at and not _is_revision(revision)):
            raise TenreoError(f"{what}: given {shown(text)}, needs a name of the hub, such as user/model")
        return cls(name, revision or None)

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def _is_revision(text: str) -> bool:
    return _REVISION.fullmatch(text) is not None and ".." not in text


def require_hub() -> Any:
    """Return the package huggingface_hub.

    Raises:
        TenreoError: if it is not installed.
    """
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise TenreoError(f"hub: huggingface_hub is not installed; {install('hub')}") from error


def download(
    repository: Repository, wanted: Sequence[str] = SHARED, folder: Path | None = None, token: str | None = None
) -> Path:
    """Download files of a repository, unless they are in the cache already, and return their folder.

    Args:
        repository: what to download.
        wanted: names or patterns of the files.
        folder: folder for the files; by default one in the cache of huggingface_hub.
        token: token for private repositories; by default the one that `hf auth login` has stored.

    Raises:
        TenreoError: if there is no such repository, or it cannot be downloaded.
    """
    hub = require_hub()
    with errors_named(f"{repository.name} cannot be downloaded"):
        path = Path(
            hub.snapshot_download(
                repository.name, revision=repository.revision, allow_patterns=list(wanted),
                ignore_patterns=list(_OUTSIDE), local_dir=folder, token=token, library_name="tenreo",
            )
        )  # fmt: skip
    if not path.is_dir() or not any(path.iterdir()):
        raise TenreoError(f"{repository.name} has none of the files of a model, such as model.safetensors")
    return path


def cached(repository: Repository, file: str) -> Path | None:
    """Return the path of a file of a repository in the cache on this machine, or None; nothing is downloaded."""
    try:
        found = require_hub().try_to_load_from_cache(repository.name, file, revision=repository.revision)
    except (TenreoError, ValueError):
        return None
    return Path(found) if isinstance(found, str) else None


@contextmanager
def errors_named(problem: str) -> Iterator[None]:
    """Turn errors of the hub, and of the connection to it, into one line that starts with a problem.

    Raises:
        TenreoError: with the reason and what to do.
    """
    try:
        yield
    except TenreoError:
        raise
    except Exception as error:  # several packages take part, with errors of many types
        raise_if_out_of_memory(error)
        raise TenreoError(f"{problem}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    errors = import_module("huggingface_hub.errors")
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the reason why a file could not be uploaded
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision; give another after the @"
    if isinstance(error, errors.GatedRepoError):
        return "its terms are not accepted yet; accept them on its page, and log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:  # the hub answers 401 for it, too
        return "there is no such repository, or it is private; check the name, or log in with `hf auth login`"
    if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
        return "it is not allowed; log in with `hf auth login`, or set HF_TOKEN to a token that may write"
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return "it is not on this machine, and the hub cannot be reached; check the connection and HF_HUB_OFFLINE"
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{text.removesuffix('.')}; check the connection, and try again"

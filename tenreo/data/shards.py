"""Images in tar files of the WebDataset layout: `key.jpg` beside `key.cls` or `key.json`. No torch.

A shard is not read as a stream: its headers say where every image lies, and an image is read from there. So images are
shuffled over all shards, a few of them are chosen, and a run is resumed as with plain files, which a stream can not do.
For that, shards must be uncompressed files.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenreo.data.folders import EXTENSIONS
from tenreo.data.labels import Class, class_of
from tenreo.errors import TenreoError
from tenreo.files.paths import check_readable

_MOST_LABEL = 2**20  # bytes of what says a label
_LABELS = ("cls", "json")


@dataclass(frozen=True)
class Member:
    """An image in a tar file.

    Attributes:
        shard: the file.
        name: in it.
        offset: where its bytes begin.
        size: how many they are.
    """

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read(self, most: int | None = None) -> bytes:
        """Its bytes, at most so many.

        Raises:
            OSError: when the file can not be read.
            ValueError: when it ends before the image does.
        """
        wanted = self.size if most is None else min(self.size, most)
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            found = file.read(wanted)
        if len(found) < wanted:
            raise ValueError("its tar file has become shorter")
        return found


def read_shards(shards: Iterable[Path]) -> list[tuple[Member, Class]]:
    """All images of shards with their classes, in the order of the shards; None where nothing says the class.

    The class is the text of `key.cls`, or the entry `label` or `cls` of `key.json`; a number is the model's output.

    Raises:
        TenreoError: when a shard is no uncompressed tar file, or holds no image.
    """
    found: list[tuple[Member, Class]] = []
    for shard in shards:
        check_readable(shard)
        before = len(found)
        try:
            found += _read_shard(shard)
        except (OSError, ValueError, tarfile.TarError, EOFError, RecursionError) as error:
            raise TenreoError(
                f"{shard}: can not be read as a tar file ({error}); give uncompressed ones of the WebDataset layout"
            ) from error
        if len(found) == before:
            raise TenreoError(f"{shard}: holds no image ({', '.join(EXTENSIONS)})")
    return found


def _read_shard(shard: Path) -> list[tuple[Member, Class]]:
    images: dict[str, Member] = {}
    labels: dict[str, dict[str, Class]] = {}
    length = shard.stat().st_size
    with tarfile.open(shard, "r:") as archive:
        for entry in archive:
            if not 0 <= entry.size <= length - entry.offset_data:
                raise ValueError(f"{entry.name} is longer than the file")
            if not entry.isreg() or entry.sparse is not None:
                continue
            folder, name = os.path.split(entry.name)
            stem, _, ending = name.partition(".")
            if not stem:  # hidden
                continue
            key, member = f"{folder}/{stem}", Member(shard, entry.name, entry.offset_data, entry.size)
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                images.setdefault(key, member)
            elif ending in _LABELS and entry.size <= _MOST_LABEL:
                labels.setdefault(key, {})[ending] = _label(member, ending)
    return [(member, _first(labels.get(key, {}))) for key, member in images.items()]


def _first(found: dict[str, Class]) -> Class:
    return next((found[ending] for ending in _LABELS if found.get(ending) is not None), None)


def _label(member: Member, ending: str) -> Class:
    text = member.read().decode("utf-8", "replace").strip()
    if ending == "cls":
        return class_of(text)
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    said = values.get("label", values.get("cls")) if isinstance(values, dict) else None
    return class_of(str(said)) if isinstance(said, (int, str)) and not isinstance(said, bool) else None

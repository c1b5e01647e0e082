"""Images in tar files with the WebDataset layout: `key.jpg` with `key.cls` or `key.json`. No torch import.

Shards are not streamed: the headers give the offset of every image, and an image is read from its offset. Images can
therefore be shuffled over all shards, a subset can be chosen and a run can be resumed, as with separate files. This
requires uncompressed shards.
"""

import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tenreo.data.folders import EXTENSIONS
from tenreo.data.label_files import ClassLabel, parse_class, read_json
from tenreo.errors import TenreoError
from tenreo.files.paths import check_readable

_MAX_LABEL_SIZE = 2**20  # bytes; larger members are ignored
# Extensions of members that contain a label; if a key has both, the first one is used.
_LABEL_EXTENSIONS = ("cls", "json")


@dataclass(frozen=True)
class TarMember:
    """An image in a tar file.

    Attributes:
        shard: path of the tar file.
        name: name of the image in the tar file.
        offset: position of its first byte in the tar file.
        size: number of bytes.
    """

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read(self, limit: int | None = None) -> bytes:
        """Read the image's bytes, at most `limit` of them.

        Raises:
            OSError: if the tar file cannot be read.
            ValueError: if the tar file ends before the image does.
        """
        wanted = self.size if limit is None else min(self.size, limit)
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            content = file.read(wanted)
        if len(content) < wanted:
            raise ValueError("its tar file has become shorter")
        return content


def read_shards(shards: Iterable[Path]) -> list[tuple[TarMember, ClassLabel]]:
    """List the images of shards with their classes, in the order of the shards.

    The class is the text of `key.cls`, or the value of `label` or `cls` in `key.json`. A number is the index of the
    model's output. The class is None if neither exists.

    Raises:
        TenreoError: if a shard is not an uncompressed tar file, contains no image, or contains an image or a label
            twice.
    """
    samples: list[tuple[TarMember, ClassLabel]] = []
    for shard in shards:
        check_readable(shard)
        before = len(samples)
        try:
            samples += _read_shard(shard)
        except (OSError, ValueError, tarfile.TarError, EOFError, RecursionError) as error:
            raise TenreoError(
                f"{shard}: cannot be read as a tar file ({error}); give uncompressed tar files with the WebDataset "
                "layout"
            ) from error
        if len(samples) == before:
            raise TenreoError(f"{shard}: contains no image ({', '.join(EXTENSIONS)})")
    return samples


def _read_shard(shard: Path) -> list[tuple[TarMember, ClassLabel]]:
    images: dict[str, list[TarMember]] = {}
    labels: dict[str, dict[str, ClassLabel]] = {}
    names: set[str] = set()
    length = shard.stat().st_size
    with tarfile.open(shard, "r:") as archive:
        for entry in archive:
            if not 0 <= entry.size <= length - entry.offset_data:
                raise ValueError(f"{entry.name} is longer than the file")
            path = os.path.normpath(entry.name)
            folder, name = os.path.split(path)
            stem, _, extension = name.partition(".")
            is_image = os.path.splitext(name)[1].lower() in EXTENSIONS
            if not stem or not (is_image or extension in _LABEL_EXTENSIONS) or entry.isdir():  # without stem: hidden
                continue
            if not entry.isreg() or entry.sparse is not None:
                raise TenreoError(f"{shard}: {path} is a link or special; pack it with tar --hard-dereference -h")
            if path in names:
                raise TenreoError(f"{shard}: contains {path} twice; pack it again with one of them")
            names.add(path)
            key, member = f"{folder}/{stem}", TarMember(shard, entry.name, entry.offset_data, entry.size)
            if is_image:
                images.setdefault(key, []).append(member)
            elif entry.size <= _MAX_LABEL_SIZE:
                labels.setdefault(key, {})[extension] = _read_label(member, extension)
    return [(_only_image(members), _preferred(labels.get(key, {}))) for key, members in images.items()]


def _only_image(members: list[TarMember]) -> TarMember:
    """Return the image of a key. If `key.jpg` exists, images with two extensions, such as masks, are ignored."""
    plain = [member for member in members if os.path.basename(member.name).count(".") == 1]
    (image, *others) = plain or members
    if others:
        raise TenreoError(f"{image} has the same key as {others[0].name}; rename or remove one of them")
    return image


def _preferred(labels: dict[str, ClassLabel]) -> ClassLabel:
    return next((labels[each] for each in _LABEL_EXTENSIONS if labels.get(each) is not None), None)


def _read_label(member: TarMember, extension: str) -> ClassLabel:
    text = member.read().decode("utf-8", "replace").strip()
    if extension == "cls":
        return parse_class(text)
    try:
        values = read_json(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    except ValueError as error:
        raise TenreoError(f"{member}: {error}; keep one of them") from error
    label = values.get("label", values.get("cls")) if isinstance(values, dict) else None
    return parse_class(str(label)) if isinstance(label, (int, str)) and not isinstance(label, bool) else None

"""The files of a compressed checkpoint, put together from its parts and the tensors that remain dense."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

from torch import Tensor

from tenreo import __version__
from tenreo.checkpoints.parts import Part
from tenreo.checkpoints.sources import Source
from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write
from tenreo.files.dense_stream import encode_dense
from tenreo.files.header import check_readable, metadata
from tenreo.files.layout import DENSE, TensorRecord, file_order, file_size, header_bytes
from tenreo.files.provenance import Provenance, state_digest
from tenreo.files.records import LayerRecord, ModelInfo
from tenreo.files.safetensors import bytes_of, record, tensor_digest
from tenreo.planning.dense_storage import dense_step, stored_dense
from tenreo.planning.recipe import DenseDtype, Recipe

_MOST_CODED = 1 << 20  # elements of a dense tensor that is coded; coding needs 50 bytes of memory for each

Content = Callable[[], Any]  # returns the bytes of a stored tensor


@dataclass
class Shard:
    """One file of a compressed checkpoint.

    Attributes:
        name: name of the file.
        tensors: dtypes and shapes of the stored tensors by name.
        metadata: metadata without checksums.
        contents: functions that read the stored tensors, by name.
        checksums: CRC-32 of the stored tensors by name.
        layers: compressed layers by name.
        names: names of the dense model's tensors.
    """

    name: str
    tensors: dict[str, TensorRecord]
    metadata: dict[str, str]
    contents: dict[str, Content]
    checksums: dict[str, int]
    layers: dict[str, LayerRecord]
    names: list[str]

    @property
    def bytes(self) -> int:
        """Size of the file in bytes."""
        return file_size(self.tensors, self.metadata)

    def write(self, folder: Path) -> None:
        """Write the file, one tensor after another, completely or not at all."""
        check_readable("save", self.tensors, self.metadata)
        with atomic_write(folder / self.name) as temporary, temporary.open("wb") as file:
            file.write(header_bytes(self.tensors, self.metadata, self.checksums))
            for name in file_order(self.tensors):
                file.write(self.contents[name]())


def make_shard(
    name: str, names: Iterable[str], source: Source, parts: Mapping[str, Part], recipe: Recipe, origin: tuple[str, str]
) -> Shard:
    """Put a file together.

    Args:
        name: name of the file.
        names: names of the dense tensors that it contains.
        source: dense tensors.
        parts: parts of the compressed ones of these tensors, by name.
        recipe: recipe of the compression.
        origin: name of the source, and the license of its tensors.
    """
    names = list(names)
    shard = Shard(name, {}, {}, {}, {}, {}, names)
    digests = {}
    for parameter, part in parts.items():
        _add_part(shard, part)
        digests[parameter] = part.digest
    step = dense_step((layer.numel, layer.errors.snr) for layer in shard.layers.values())
    dense = [each for each in names if each not in parts]
    coded = _add_dense(shard, source, dense, recipe.dense_dtype, step, digests)
    digest = state_digest((each, source.tensors[each], digests[each]) for each in names)
    own = {k: v for k, v in _metadata(source, names).items() if not k.startswith("tenreo.")}
    entries = metadata(ModelInfo(), recipe.to_dict(), shard.layers, coded, Provenance(__version__, digest, *origin))
    del entries["format"]
    shard.metadata = {**own, **entries}
    return shard


def _metadata(source: Source, names: list[str]) -> dict[str, str]:
    """Return the metadata of the file of the source that contains the first of the names."""
    file = next((file for file, own in source.layout.items() if names and names[0] in own), "")
    return source.metadata.get(file, {})


def _add_part(shard: Shard, part: Part) -> None:
    for name, each in part.tensors.items():
        _add(shard, name, each, part.checksums[name], partial(part.content, name))
    shard.layers[part.name] = part.layer


def _add(shard: Shard, name: str, each: TensorRecord, checksum: int, content: Content) -> None:
    if name in shard.tensors or name == DENSE:
        raise TenreoError(f"{name}: the name is that of a part of a compressed tensor; exclude that tensor")
    shard.tensors[name], shard.checksums[name], shard.contents[name] = each, checksum, content


def _add_dense(
    shard: Shard, source: Source, names: list[str], dtype: DenseDtype, step: float, digests: dict[str, str]
) -> dict[str, TensorRecord]:
    """Add the tensors that remain dense, and their digests; return the coded ones."""
    small: dict[str, Tensor] = {}
    for name in names:
        tensor = source.read(name)
        digests[name] = tensor_digest(tensor)
        if dtype is DenseDtype.CODED and tensor.numel() <= _MOST_CODED:
            small[name] = tensor
        else:
            _add_plain(shard, source, dtype, name, tensor)
    stream, coded = encode_dense(small, {name for name in small if source.is_parameter(name)}, step)
    for name in small.keys() - coded.keys():
        _add_plain(shard, source, dtype, name, small[name])
    if coded:
        content = bytes_of(stream)
        shard.tensors[DENSE], shard.checksums[DENSE] = record(stream), crc32(content)
        shard.contents[DENSE] = lambda: content
    return coded


def _add_plain(shard: Shard, source: Source, dtype: DenseDtype, name: str, tensor: Tensor) -> None:
    def content() -> Any:
        return bytes_of(stored_dense(name, source.read(name), dtype))

    stored = stored_dense(name, tensor, dtype)
    _add(shard, name, record(stored), crc32(bytes_of(stored)), content)


def split(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """Divide tensors into files of at most `limit` bytes each, unless one tensor has more.

    >>> split({"a": 4, "b": 5, "c": 3}, 8)
    {'model-00001-of-00002.safetensors': ['a'], 'model-00002-of-00002.safetensors': ['b', 'c']}

    Args:
        sizes: stored bytes of the tensors by name, in order.
        limit: maximum bytes of the tensors of a file.
    """
    groups: list[list[str]] = [[]]
    total = 0
    for name, size in sizes.items():
        if groups[-1] and total + size > limit:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups, 1)}

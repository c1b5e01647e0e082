"""Compression of tensors without a model, from files to files, in one process or several."""

import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from tenreo.checkpoints.parts import Part, Parts, planned_part
from tenreo.checkpoints.plan import resolve_tensors
from tenreo.checkpoints.shards import Shard, make_shard, split
from tenreo.checkpoints.sources import Source, state_source
from tenreo.codec.distortion import total_decibels
from tenreo.compression.layer_pool import LayerPool
from tenreo.compression.sampled_prices import Prices, representatives, sample
from tenreo.devices import public_function
from tenreo.distributed import SINGLE_PROCESS, ProcessGroup
from tenreo.files.atomic import check_writable, write_errors_named
from tenreo.files.checkpoints import Output, finish_folder
from tenreo.files.counts import Counts, count
from tenreo.files.paths import as_path
from tenreo.files.quantization_config import compressed_config
from tenreo.files.records import LayerRecord
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import Plan
from tenreo.planning.rates import TargetSize
from tenreo.planning.recipe import Recipe, target_out_of_reach

_T = TypeVar("_T")
ENDING = ".safetensors"
_NEARLY, _ROUNDS = 0.99, 6
_SMALL = 1 << 25  # elements of all layers that are encoded again as a whole if the size is missed
_FEW = 16  # layers
# Difference of the logarithms of two prices, 0.04 bits per weight, that leaves encoded layers as they are.
_ALIKE = 0.05


@dataclass(frozen=True)
class Written:
    """The files of a compression.

    Attributes:
        plan: the plan with the final curves.
        layers: records of the compressed layers by name.
        after: counts of all files.
        files: names of the files.
    """

    plan: Plan
    layers: dict[str, LayerRecord]
    after: Counts
    files: tuple[str, ...]

    @property
    def snr(self) -> float | None:
        """Signal-to-noise ratio of all compressed weights together, in dB."""
        return total_decibels((x.errors.squared_norm, x.errors.snr) for x in self.layers.values())


@public_function()
def write(path: str | Path, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Compress tensors and write them to a file, without a model.

    >>> import tempfile
    >>> from tenreo import TargetBits, read
    >>> path = Path(tempfile.mkdtemp()) / "small.safetensors"
    >>> write(path, {"fc.weight": torch.randn(128, 256), "fc.bias": torch.zeros(128)}, Recipe(None, TargetBits(6)))
    >>> read(path)["fc.weight"].shape
    torch.Size([128, 256])

    Args:
        path: path of the file.
        tensors: tensors by name, such as a state dict.
        recipe: how to compress: a rate, or a size.

    Raises:
        TenreoError: as for `resolve`, and if a tensor is not finite or the file cannot be written.
    """
    path = as_path("path", path)
    check_writable(path)
    source = state_source(tensors)
    compress_tensors(source, resolve_tensors(recipe, source), Output(path))


def compress_tensors(
    source: Source,
    plan: Plan,
    output: Output,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[LayerPlan], None] | None = None,
) -> Written:
    """Compress tensors and write files; every process of the group encodes some, and writes some of the files.

    Args:
        source: dense tensors.
        plan: plan by `resolve_tensors`.
        output: where the files are written.
        group: processes of the run, which share the file system.
        progress: function that is called with every layer after it is encoded.

    Raises:
        TenreoError: if a tensor is not finite, the size is out of reach, or a file cannot be written.
    """
    with write_errors_named(output.path):
        output.folder.mkdir(parents=True, exist_ok=True)
        if group.is_main and not output.resume:
            shutil.rmtree(output.parts, ignore_errors=True)
        group.wait()
        output.parts.mkdir(exist_ok=True)
    run = _Run(source, plan, output, group, progress)
    run.encode()
    written = run.write()
    group.wait()
    if group.is_main:
        shutil.rmtree(output.parts, ignore_errors=True)
    return written


class _Run:
    """One compression."""

    def __init__(
        self, source: Source, plan: Plan, output: Output, group: ProcessGroup,
        progress: Callable[[LayerPlan], None] | None,
    ) -> None:  # fmt: skip
        self.source, self.plan, self.output, self.group, self.progress = source, plan, output, group, progress
        self.parts = Parts(output.parts, source, plan.recipe)
        self.layers = sorted(plan.compressed, key=lambda layer: layer.name)
        self.sizes: dict[str, int] = {}  # bytes of every layer as it is encoded now
        self.prices: dict[str, float] = {}

    def encode(self) -> None:
        """Encode all layers, at a price that leads to the size of the recipe if it has one."""
        rate = self.plan.recipe.rate
        if not isinstance(rate, TargetSize):
            self._encode(self.layers, None)
            return
        own = deal(self.layers, lambda layer: layer.numel, self.group)
        samples = {x.name: sample(x.shape, partial(self.source.elements, x.parameter)) for x in own}
        prices = Prices(self.layers, samples, self.output.jobs, self.plan.recipe, self.group)
        fixed = self._planned_total(rate.bytes)
        room = rate.bytes - fixed
        if room <= 0:
            raise target_out_of_reach(self.plan.recipe, fixed)
        price = prices.search(room, prices.first(room))
        layers = self.layers
        if some := representatives(layers):
            self._encode(some, price)
            prices.correct(price, self.sizes)
            before, price = price, prices.search(room, price)
            if abs(math.log(price / before)) < _ALIKE:
                layers = [layer for layer in layers if layer.name not in self.sizes]
        self._encode(layers, price)
        self._approach(prices, rate.bytes, price)

    def _approach(self, prices: Prices, limit: int, price: float) -> None:
        """Encode layers again until the size is just below the limit."""
        small = len(self.layers) < _FEW or sum(layer.numel for layer in self.layers) <= _SMALL
        for _ in range(_ROUNDS):
            total = self._total()
            if _NEARLY * limit <= total <= limit:
                return
            if small:
                room = int(limit * (1 - (1 - _NEARLY) / 4)) - total + sum(self.sizes.values())
                prices.correct(price, self.sizes)
                price = prices.search(room, price)
                self._encode(self.layers, price)
                continue
            changed = prices.changed(total, int((1 + _NEARLY) / 2 * limit), self.sizes, self.prices)
            for price in set(changed.values()):
                self._encode([layer for layer in self.layers if changed.get(layer.name) == price], price)
        if self._total() > limit:
            raise target_out_of_reach(self.plan.recipe, self._total())

    def _encode(self, layers: Sequence[LayerPlan], price: float | None) -> None:
        mine = deal(layers, lambda layer: layer.numel, self.group)  # any process can, since the parts are in files
        with LayerPool(lambda x: self.source.read(x.parameter), self.output.jobs, self.progress, None) as pool:
            sizes = pool.each(self.parts.encode, mine, price)
        numbers = torch.tensor([sizes.get(layer.name, 0) for layer in layers], dtype=torch.int64)
        self.sizes |= dict(zip((layer.name for layer in layers), self.group.sum(numbers).tolist(), strict=True))
        if price is not None:
            self.prices |= dict.fromkeys((layer.name for layer in layers), price)
        self.group.wait()  # afterwards, all parts can be read

    def _files(self, layers: Mapping[str, int]) -> dict[str, list[str]]:
        """Return the names of the tensors of each file, given the bytes of the layers."""
        if not self.output.is_folder:
            return {self.output.path.name: list(self.source.tensors)}
        if self.output.shard_size is None:
            return {f"{Path(name).stem}{ENDING}": names for name, names in self.source.layout.items()}
        parameters = {layer.parameter: layers[layer.name] for layer in self.layers}
        sizes = {name: parameters.get(name, each.bytes) for name, each in self.source.tensors.items()}
        return split(sizes, self.output.shard_size)

    def _shards(self, files: Mapping[str, list[str]], part_of: Callable[[str], Part]) -> list[Shard]:
        """Put the files of this process together."""
        weights = {name: sum(self.source.tensors[each].bytes for each in names) for name, names in files.items()}
        origin = (self.source.name, self.output.license)
        compressed = {layer.parameter for layer in self.layers}
        shards = []
        for file in deal(sorted(files), lambda name: weights[name], self.group):
            parts = {name: part_of(name) for name in files[file] if name in compressed}
            shards.append(make_shard(file, files[file], self.source, parts, self.plan.recipe, origin))
        return shards

    def _total(self) -> int:
        """Return the bytes of all files."""
        return self._sum(shard.bytes for shard in self._shards(self._files(self.sizes), self.parts.open))

    def _planned_total(self, limit: int) -> int:
        """Return the bytes of all files without those of the layers, before these are encoded.

        The files are put together from layers that share the limit by their elements.
        """
        numel = sum(layer.numel for layer in self.layers)
        sizes = {layer.name: limit * layer.numel // numel for layer in self.layers}
        snr = 20 * math.log10(2) * 8 * limit / numel
        planned = {
            layer.parameter: planned_part(layer, self.source.tensors[layer.parameter].dtype, sizes[layer.name], snr)
            for layer in self.layers
        }
        shards = self._shards(self._files(sizes), planned.__getitem__)
        return self._sum(shard.bytes for shard in shards) - sum(part.bytes for part in planned.values())

    def _sum(self, own: Iterable[int]) -> int:
        return int(self.group.sum(torch.tensor(sum(own), dtype=torch.int64)))

    def write(self) -> Written:
        """Write the files, then copy the other files of the source, and write the index last."""
        files = self._files(self.sizes)
        shards = self._shards(files, self.parts.open)
        for shard in shards:
            shard.write(self.output.folder)
        self.group.wait()
        layers = {x.name: self.parts.open(x.parameter).layer for x in self.layers}
        if self.group.is_main and self.output.is_folder:
            where = {name: file for file, names in files.items() for name in names}
            size = sum((self.output.path / name).stat().st_size for name in files)
            dtypes = [each.dtype for each in self.source.tensors.values()]
            config = partial(compressed_config, dtypes=dtypes)
            finish_folder(self.source.files, self.output.path, where, size, config)
        self.group.wait()
        final = tuple(replace(x, curve=layers[x.name].curve) if x.name in layers else x for x in self.plan.layers)
        after = self._counts(shards)
        return Written(replace(self.plan, layers=final, after=after), layers, after, tuple(sorted(files)))

    def _counts(self, shards: Iterable[Shard]) -> Counts:
        total = Counts()
        for shard in shards:
            total += replace(count(shard.tensors, shard.layers), bytes=shard.bytes)
        numbers = self.group.sum(torch.tensor(list(vars(total).values()), dtype=torch.int64))
        return Counts(*numbers.tolist())


def deal(items: Iterable[_T], size: Callable[[_T], int], group: ProcessGroup) -> list[_T]:
    """Return the items of this process: the largest ones first, each is given to the process with the least so far."""
    loads, own = [0] * group.size, []
    for item in sorted(items, key=size, reverse=True):
        rank = loads.index(min(loads))
        loads[rank] += size(item)
        if rank == group.rank:
            own.append(item)
    return own

"""The price per bit of a file of a given size, estimated on samples, so that large weights are encoded about once.

Every weight is sampled in pieces. The ratio of its bytes to those of its sample, which is encoded as well, is known
exactly once it has been encoded; until then, that of a weight of the same shape is used.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tenreo.codec.threads import Task
from tenreo.compression.layer_encoding import check_finite, encode_at_price
from tenreo.compression.layer_pool import LayerPool
from tenreo.compression.price_search import search_price
from tenreo.distributed import SINGLE_PROCESS, ProcessGroup
from tenreo.planning.layers import LayerPlan
from tenreo.planning.pricing import Spread, price_for
from tenreo.planning.recipe import Recipe

_ELEMENTS, _PIECES = 1 << 15, 16  # of a sample
_WITHIN = 0.003  # accepted distance below the limit, as a fraction of it
_STEP = 2.0  # factor of the price of those layers that are encoded again: half a bit per weight


def sample(shape: Sequence[int], elements: Callable[[int, int], Tensor]) -> Tensor:
    """Return evenly spaced pieces of a weight, whole rows if these are short, or all of a small weight.

    Args:
        shape: shape of the weight.
        elements: function of a start and a number that returns these elements of the flattened weight.

    Returns:
        (rows, elements of a row), the weight itself, or (1, elements) of rows that are too long.
    """
    numel, row = math.prod(shape), math.prod(shape[1:])
    if numel <= _ELEMENTS:
        return elements(0, numel).reshape(*shape)
    unit = row if 2 * row <= _ELEMENTS else 1
    length = max(1, _ELEMENTS // _PIECES // unit)  # of a piece, in rows or elements
    pieces = min(_PIECES, _ELEMENTS // (length * unit))
    starts = [(numel // unit - length) * i // (pieces - 1) for i in range(pieces)]
    parts = [elements(start * unit, length * unit).reshape(-1) for start in starts]
    return torch.cat(parts).reshape(-1 if unit > 1 else 1, unit if unit > 1 else pieces * length)


class Prices:
    """Estimates of the bytes of all layers at a price; every process encodes the samples of its own layers.

    Args:
        layers: all layers that are compressed.
        samples: samples of the layers of this process, by name.
        jobs: number of threads.
        recipe: recipe of the compression.
        group: processes of the run.
    """

    def __init__(
        self, layers: Sequence[LayerPlan], samples: Mapping[str, Tensor], jobs: int | None, recipe: Recipe,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:  # fmt: skip
        self.layers, self.jobs, self.recipe, self.group = layers, jobs, recipe, group
        self.samples = {name: check_finite(name, part) for name, part in samples.items()}
        self.own = [layer for layer in layers if layer.name in samples]
        self._known: dict[float, dict[str, int]] = {}
        self.ratios: dict[str, float] = {}

    def first(self, room: int) -> float:
        """Return the price at which the layers are estimated to have `room` bytes, from their variances."""
        variances = torch.zeros(len(self.layers), dtype=torch.float64)
        for i, layer in enumerate(self.layers):
            if layer.name in self.samples:
                variances[i] = self.samples[layer.name].double().var(correction=0)
        # Every entry is zero in all processes but one, so that the sum does not depend on their number.
        known = self.group.sum(variances).tolist()
        pairs = zip(self.layers, known, strict=True)
        return price_for([Spread(x.numel, variance, 0.0, x.importance) for x, variance in pairs], room)

    def estimated(self, price: float) -> dict[str, int]:
        """Return the bytes of each layer at a price, estimated from its sample."""
        if price not in self._known:
            with LayerPool(lambda layer: self.samples[layer.name], self.jobs, None, None) as pool:
                self._known[price] = self.shared(pool.each(_sample_bytes, self.own, price, self.recipe))
        return {name: round(bytes * self.ratios.get(name, 1.0)) for name, bytes in self._known[price].items()}

    def shared(self, own: Mapping[str, int]) -> dict[str, int]:
        """Return the numbers of the layers of all processes by name, given those of this process."""
        numbers = torch.tensor([own.get(layer.name, 0) for layer in self.layers], dtype=torch.int64)
        return dict(zip((x.name for x in self.layers), self.group.sum(numbers).tolist(), strict=True))

    def correct(self, price: float, bytes: Mapping[str, int]) -> None:
        """Correct the estimates by the bytes of encoded layers, each at a price.

        Layers of the same shape that were not encoded are corrected alike.
        """
        self.ratios = {}
        estimated = self.estimated(price)
        known = {name: size / max(1, estimated[name]) for name, size in bytes.items()}
        by_shape = {layer.shape: known[layer.name] for layer in self.layers if layer.name in known}
        self.ratios = {x.name: known.get(x.name, by_shape.get(x.shape, 1.0)) for x in self.layers}

    def search(self, room: int, price: float) -> float:
        """Return the price at which the layers are estimated to have just less than `room` bytes."""
        weights = sum(layer.numel for layer in self.layers)
        return search_price(lambda x: sum(self.estimated(x).values()), room, weights, price, within=_WITHIN)

    def changed(self, total: int, goal: int, sizes: Mapping[str, int], prices: Mapping[str, float]) -> dict[str, float]:
        """Return other prices of some layers, the smallest first, at which a total size is estimated to reach a goal.

        Args:
            total: bytes of all files.
            goal: bytes that they should have.
            sizes: bytes of every layer as it is encoded.
            prices: price at which it was encoded.
        """
        factor = _STEP if total > goal else 1 / _STEP
        result: dict[str, float] = {}
        for layer in sorted(self.layers, key=lambda layer: layer.numel):
            old = prices[layer.name]
            before, after = (self.estimated(each)[layer.name] for each in (old, old * factor))
            change = round((after - before) * sizes[layer.name] / max(1, before))
            part = (goal - total) / change if change * (goal - total) > 0 else math.inf
            result[layer.name] = old * factor ** min(1.0, part)  # bytes are almost linear in the logarithm of the price
            total += change
            if part <= 1:
                break
        return result


def _sample_bytes(part: Tensor, layer: LayerPlan, task: Task, price: float, recipe: Recipe) -> int:
    encoded = encode_at_price(part, layer, task, price, recipe)
    return round(encoded.report.bytes_after * layer.numel / part.numel())


def representatives(layers: Iterable[LayerPlan]) -> list[LayerPlan]:
    """Return the first layer of every shape of several layers, or none if these have half of all elements."""
    layers = list(layers)
    often = Counter(layer.shape for layer in layers)
    chosen = list({layer.shape: layer for layer in reversed(layers) if often[layer.shape] > 1}.values())
    few = 2 * sum(layer.numel for layer in chosen) < sum(layer.numel for layer in layers)
    return sorted(chosen, key=lambda layer: layer.name) if few else []

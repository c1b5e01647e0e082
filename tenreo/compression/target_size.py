"""Encoding of all layers in a file of a given size."""

from collections.abc import Callable, Mapping

from torch import Tensor

from tenreo.codec.encode import decode
from tenreo.compression.layer_encoding import EncodedLayer, encode_at_price
from tenreo.compression.layer_pool import LayerPool
from tenreo.compression.price_search import search_part, search_price
from tenreo.compression.sampled_prices import Prices, sample
from tenreo.errors import TenreoError
from tenreo.planning.file_estimate import FileEstimate
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import Plan

_NEARLY = 0.99  # of a target size: a smaller file is enlarged by a lower price for a part of the weights
_GOAL = 0.995  # of a target size, at which the first encoding aims
_SAMPLED = 0.15  # part of all elements; the search on samples of more elements takes longer than it saves
_ROUNDS = 3  # of encodings of some layers
# Factors by which that price is below the lowest one at which all weights fit. At a price that is barely lower, a part
# of the weights would not be encoded with more bits.
_LOWER = (1.2, 2.0, 8.0)


def encode_to_size(pool: LayerPool, plan: Plan, estimate: FileEstimate, limit: int) -> dict[str, EncodedLayer]:
    """Encode all layers so that the file has nearly a given size.

    Args:
        pool: threads that encode the layers of a model.
        plan: plan with an estimate of the price per bit.
        estimate: size of the file for any choice of curves.
        limit: maximum size of the file in bytes.

    Returns:
        The encoded layers by name.

    Raises:
        TenreoError: when the file is larger than the limit at every price.
    """
    trials = _Trials(pool, plan, estimate, limit)
    trials.encode_by_samples()
    if trials.size < _NEARLY * limit:
        search_price(trials.encode, limit, sum(layer.numel for layer in plan.compressed), trials.price)
    for factor in _LOWER:
        if trials.size >= _NEARLY * limit or not trials.too_low:
            break
        encode_part = trials.encode_parts(max(trials.too_low) / factor)
        search_part(encode_part, limit, (trials.size, encode_part(1.0)))
    return trials.best


class _Trials:
    """Encodings of all layers at several prices: the largest one that fits, and the prices at which none does."""

    def __init__(self, pool: LayerPool, plan: Plan, estimate: FileEstimate, limit: int) -> None:
        self.pool, self.plan, self.estimate, self.limit = pool, plan, estimate, limit
        self.price = plan.price
        self.best: dict[str, EncodedLayer] = {}
        self.size = 0  # bytes of the file with the best encodings
        self.too_low: list[float] = []

    def encode(self, price: float) -> int:
        """Encode all layers at a price; return the bytes of the file."""
        size = self._add(self.pool.each(encode_at_price, self.plan.compressed, price, self.plan.recipe))
        if size > self.limit:
            self.too_low.append(price)
        return size

    def encode_by_samples(self) -> None:
        """Encode all layers at a price that is estimated on samples, and then some of them again if the size is missed.

        It does nothing if most weights are small: their samples would be as slow to encode as they are.
        """
        layers = self.plan.compressed
        samples = {layer.name: sample(layer.shape, self._elements_of(layer)) for layer in layers}
        if sum(part.numel() for part in samples.values()) > _SAMPLED * sum(layer.numel for layer in layers):
            return
        prices = Prices(layers, samples, self.pool.jobs, self.plan.recipe)
        fixed = self.estimate.file_size(self.plan.layers) - sum(layer.position_bytes or 0 for layer in layers)
        goal = int(self.limit * _GOAL)
        try:
            self.price = prices.search(goal - fixed, self.plan.price)
        except TenreoError:  # nearly all bytes are counts of symbols, which samples cannot estimate
            return
        encoded = self.pool.each(encode_at_price, layers, self.price, self.plan.recipe)
        used = dict.fromkeys(encoded, self.price)
        for _ in range(_ROUNDS):
            total = self._add(encoded)
            if _NEARLY * self.limit <= total <= self.limit:
                return
            sizes = {name: each.report.bytes_after for name, each in encoded.items()}
            changed = prices.changed(total, goal, sizes, used)
            used |= changed
            for price in set(changed.values()):
                some = [layer for layer in layers if changed.get(layer.name) == price]
                encoded = encoded | self.pool.each(encode_at_price, some, price, self.plan.recipe)

    def _elements_of(self, layer: LayerPlan) -> Callable[[int, int], Tensor]:
        weight = self.pool.weight_of(layer).reshape(-1)
        return lambda start, number: weight[start : start + number]

    def encode_parts(self, price: float) -> Callable[[float], int]:
        """Return a function that encodes a part, in [0, 1], of all layers at a price and returns the bytes of the file.

        One layer after another has the price; the next ones keep their best encoding so far. Those with the fewest bits
        per weight are first: what is zero in them costs little at any price, but levels that were chosen at a higher
        price cost many bits at a lower one.
        """
        before = self.best
        coarse = {name: decode(each.weight) for name, each in before.items()}
        layers = sorted(self.plan.compressed, key=lambda layer: before[layer.name].report.bytes_after / layer.numel)

        def encode(part: float) -> int:
            parts = {layer.name: min(max(part * len(layers) - i, 0.0), 1.0) for i, layer in enumerate(layers)}
            changed = [layer for layer in layers if parts[layer.name] > 0]
            return self._add(before | self.pool.each(encode_at_price, changed, price, self.plan.recipe, coarse, parts))

        return encode

    def _add(self, encoded: dict[str, EncodedLayer]) -> int:
        """Keep encodings if they are the best so far; return the bytes of the file."""
        size = self.estimate.file_size(encoded_plans(self.plan, encoded))
        if self.size < size <= self.limit:
            self.best, self.size = encoded, size
        return size


def encoded_plans(plan: Plan, encoded: Mapping[str, EncodedLayer]) -> list[LayerPlan]:
    """Return all layers of a plan; the encoded ones are updated."""
    return [encoded[layer.name].plan if layer.name in encoded else layer for layer in plan.layers]

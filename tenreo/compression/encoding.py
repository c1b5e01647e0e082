"""Encoding one layer of a plan: by its rate, or at a price of a bit; and several layers at a time."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tenreo.codec.codec import EncodedWeight, encode, nearest_neighbor_order, quantize, refined, squared_error
from tenreo.codec.constrained import constrained, quantiles
from tenreo.codec.energy import energy
from tenreo.codec.shape import CurveShape, Positions
from tenreo.codec.sharing import Crew, listen
from tenreo.compression.report import LayerReport
from tenreo.compression.tensors import stored_positions
from tenreo.errors import TenreoError
from tenreo.files.records import LayerRecord
from tenreo.planning.layers import LayerPlan
from tenreo.planning.recipe import Recipe

_LOOK = 0.2  # seconds between looks at how far layers are
Orders = dict[tuple[str, int], Tensor]  # (layer, groups) -> (columns,) int32, the order of its columns


class LayerPool:
    """Threads that work on the layers of a model, and together on the last ones, each with one thread of torch's.

    With several of those, FFTs and sums add in another order, so what is written would depend on their number.

    Args:
        model: whose layers they are.
        jobs: layers at a time; None takes one per core.
        progress: called with every layer that is done, from the calling thread.
        within: called now and then with a layer and the share of it that is done.
    """

    def __init__(
        self, model: nn.Module, jobs: int | None, progress: Callable[[LayerPlan], None] | None,
        within: Callable[[LayerPlan, float], None] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.progress, self.within = model, progress, within
        self.heard: SimpleQueue[tuple[LayerPlan, float]] = SimpleQueue()
        self.torch_threads = torch.get_num_threads()
        self.crew = Crew(jobs or os.cpu_count() or 1, lambda: torch.set_num_threads(1))

    def __enter__(self) -> LayerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.crew.stop()
        torch.set_num_threads(self.torch_threads)  # of threads that start later: each has a number of its own

    def each(self, task: Callable[..., Any], layers: Sequence[LayerPlan], *arguments: Any) -> dict[str, Any]:
        """What task(model, layer, *arguments) returns, by name of the layer."""
        # Largest first: the last layer to finish is then a small one.
        ordered = sorted(layers, key=lambda layer: -layer.columns)
        tasks = {self.crew.executor.submit(self._heard, task, layer, *arguments): layer for layer in ordered}
        pending = set(tasks)
        while pending:
            finished, pending = wait(pending, _LOOK, FIRST_COMPLETED)
            while self.within is not None and not self.heard.empty():
                self.within(*self.heard.get())
            for done in finished:
                done.result()
                if self.progress is not None:
                    self.progress(tasks[done])
        return {layer.name: done.result() for done, layer in tasks.items()}

    def _heard(self, task: Callable[..., Any], layer: LayerPlan, *arguments: Any) -> Any:
        listen(None if self.within is None else lambda share: self.heard.put((layer, share)))
        return task(self.model, layer, *arguments)

    def once(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """What a task returns, in one of the threads."""
        return self.crew.executor.submit(task, *arguments).result()


class Encoded(NamedTuple):
    """An encoded layer.

    Attributes:
        weight: its encoding.
        plan: the layer as it became.
        report: what was lost.
    """

    weight: EncodedWeight
    plan: LayerPlan
    report: LayerReport


def weight_of(model: nn.Module, layer: LayerPlan) -> Tensor:
    """The dense weight of a layer of a plan, detached.

    Raises:
        TenreoError: when it is not finite.
    """
    path, _, tensor = layer.parameter.rpartition(".")
    weight = model.get_submodule(path).get_parameter(tensor).detach()
    if not torch.isfinite(weight).all():
        raise TenreoError(f"{layer.name}: the weight holds NaN or infinity and can not be compressed")
    return weight


def order(model: nn.Module, layer: LayerPlan, orders: Orders) -> float:
    """Find the order of a layer's columns, unless it is known; return the seconds it took."""
    start = time.perf_counter()
    groups = layer.encoding.groups
    weight = weight_of(model, layer)
    if (layer.name, groups) not in orders:
        orders[layer.name, groups] = nearest_neighbor_order(weight, groups)
    return time.perf_counter() - start


def by_rate(model: nn.Module, layer: LayerPlan, orders: Orders, recipe: Recipe) -> Encoded:
    """Encode a layer with the curve of its plan, and refine it."""
    start, rounds = time.perf_counter(), recipe.of_layer(layer.own).refine
    weight, curve = weight_of(model, layer), layer.encoding
    try:
        unrefined = encode(
            weight, curve.groups, curve.coefficients_per_row, length=curve.length,
            order=orders[layer.name, curve.groups],
        )  # fmt: skip
        encoded = quantize(weight, refined(weight, unrefined, rounds), curve.precision, reassign=rounds > 0)
    except TenreoError as error:
        raise TenreoError(f"{layer.name}: {error}") from error
    return _reported(layer, weight, unrefined, encoded, recipe.positions, start)


def at_price(model: nn.Module, layer: LayerPlan, price: float, recipe: Recipe) -> Encoded:
    """Encode a layer along a trellis on a curve of one row.

    Args:
        model: that has the layer.
        layer: of the plan; its curve says precision and trellis.
        price: squared error that is worth one bit, of a layer of importance 1.
        recipe: says how positions lie in the file.
    """
    start = time.perf_counter()
    weight, curve = weight_of(model, layer), layer.encoding
    price = price / layer.importance
    try:
        first = quantiles(weight, price, curve.memory)
        encoded = constrained(weight, first, price, memory=curve.memory, precision=curve.precision)
    except TenreoError as error:
        raise TenreoError(f"{layer.name}: {error}") from error
    return _reported(layer, weight, first, encoded, recipe.positions, start)


def _reported(
    layer: LayerPlan, weight: Tensor, first: EncodedWeight, encoded: EncodedWeight, positions: Positions, start: float
) -> Encoded:
    """An encoded layer and its report; start is the time at which the work on it began."""
    lost, norm = squared_error(weight, encoded), energy(weight)
    if not math.isfinite(lost) or not math.isfinite(norm):
        raise TenreoError(
            f"{layer.name}: the weight has values up to {weight.abs().max():.3g}, and its curve leaves the range of "
            f"{weight.dtype}; exclude the layer, or scale it"
        )
    groups, per_row = encoded.coefficients.shape
    curve = CurveShape(groups, encoded.length, per_row, layer.encoding.precision, encoded.memory)
    record = LayerRecord(layer.shape, curve, positions=positions)
    stored = len(stored_positions(encoded.positions.cpu(), record, positions))
    report = LayerReport(
        name=layer.name,
        shape=layer.shape,
        curve=curve,
        squared_norm=norm,
        squared_error=lost,
        squared_error_unrefined=squared_error(weight, first),
        seconds=time.perf_counter() - start,
        bytes_before=weight.numel() * weight.element_size(),
        bytes_after=curve.coefficient_bytes(weight.element_size()) + stored,
    )
    return Encoded(encoded, replace(layer, curve=curve, position_bytes=stored), report)

"""Compressed layers as torch parametrizations, and models into them and back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.core.allocation import allocate
from tenreo.core.codec import EncodedWeight, decode, encode, light, project, refined, spectrum, thread
from tenreo.core.decoding import Places, places
from tenreo.core.precision import rounded
from tenreo.errors import TenreoError
from tenreo.layers import LayerPlan
from tenreo.plan import Plan, arranged, importance, resolve
from tenreo.recipe import Recipe
from tenreo.report import LayerReport, Report

Orders = dict[tuple[str, int], Tensor]  # (layer, groups) -> (columns,) int32, the chain through its columns


class CurveWeight(nn.Module):
    """Parametrization of a weight by the coefficients of a curve, at fixed positions.

    `forward` decodes; `right_inverse` fits the curve to a weight's columns by least squares, so that
    forward(right_inverse(forward(c))) == forward(c).

    Args:
        encoded: the weight; its coefficients are those that registration gives to the layer.
        precision: of the coefficients in a file; in memory they keep their dtype.
    """

    positions: Tensor
    samples: Tensor
    order: Tensor
    starts: Tensor

    def __init__(self, encoded: EncodedWeight, precision: str = "float32") -> None:
        super().__init__()
        self.precision = precision
        self.register_buffer("positions", encoded.positions)
        self.length = encoded.length
        self._place()
        self.register_load_state_dict_post_hook(CurveWeight._place)  # type: ignore[no-untyped-call]
        self.shape = encoded.shape
        self.groups, self.kept = encoded.coefficients.shape
        self.measured: dict[str, float | None] = {}  # against the dense weight: snr, snr_unrefined, signal
        self._known: Tensor | None = encoded.coefficients

    def forward(self, coefficients: Tensor) -> Tensor:
        """(groups, kept) -> weight of `shape`."""
        encoded = EncodedWeight(coefficients, self.positions, self.length, self.shape)
        return decode(encoded, Places(self.samples, self.order, self.starts))

    def _place(self, _: object = None) -> None:
        """Follow the positions, which come from a constructor or a state dict, and never change else."""
        for name, value in places(self.positions, self.length)._asdict().items():
            self.register_buffer(name, value, persistent=False)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Weight of `shape` -> (groups, kept)."""
        if self._known is not None:  # torch asks once while registering, before forward
            known, self._known = self._known, None
            return known
        return project(weight, self.positions, self.length, self.groups, self.kept)


def compress_(
    model: nn.Module,
    recipe: Recipe | Plan,
    *,
    jobs: int | None = None,
    progress: Callable[[LayerPlan], None] | None = None,
    orders: Orders | None = None,
) -> Report:
    """Compress a model in place.

    Args:
        model: any module; its Conv2d and Linear layers stay what they are.
        recipe: what was asked for, or the plan that `resolve` made of it.
        jobs: layers encoded at a time, by default one per core; never changes the result.
        progress: called twice with every layer, once its columns are in order and once it is encoded, from the
            calling thread.
        orders: the order of the columns of (layer, groups), where it is known already; those that are found are
            added, for who compresses the same weights again.

    Returns:
        Error, bytes and seconds of every layer, and the counts.

    Raises:
        TenreoError: as `resolve`, and when a weight is not finite; the model is then as before.
    """
    plan = recipe if isinstance(recipe, Plan) else resolve(recipe, model)
    if jobs is not None and jobs < 1:
        raise TenreoError(f"jobs: given {jobs}, needs at least 1")
    orders = {} if orders is None else orders
    pool = ThreadPoolExecutor(jobs or os.cpu_count())

    def each(task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        # Largest first: the last layer to finish is then a small one.
        layers = sorted(plan.compressed, key=lambda layer: -layer.columns)
        tasks = {pool.submit(task, model, layer, *arguments): layer for layer in layers}
        for done in as_completed(tasks):
            done.result()
            if progress is not None:
                progress(tasks[done])
        return {layer.name: done.result() for done, layer in tasks.items()}

    try:
        seconds = each(_thread, orders)
        if plan.recipe.allocate:
            plan = _allocated(model, plan, orders)
        encoded = each(_encode, orders, plan.recipe.refine)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for layer in plan.compressed:
        weight, report = encoded[layer.name]
        attach_(model.get_submodule(layer.name), weight, layer.precision).measured = {
            "snr": report.snr, "snr_unrefined": report.snr_unrefined, "signal": report.signal,
        }  # fmt: skip
    reports = (encoded[layer.name][1] for layer in plan.compressed)
    return Report(
        tuple(replace(r, seconds=r.seconds + seconds[r.name]) for r in reports), plan.before, plan.after
    )


def _weight(model: nn.Module, layer: LayerPlan) -> Tensor:
    return model.get_submodule(layer.name).weight.detach()  # type: ignore[operator, union-attr]


def _thread(model: nn.Module, layer: LayerPlan, orders: Orders) -> float:
    """Find the order of a layer's columns, unless it is known; return the seconds it took."""
    start = time.perf_counter()
    weight = _weight(model, layer)
    if not torch.isfinite(weight).all():
        raise TenreoError(f"{layer.name}: the weight holds NaN or infinity and can not be compressed")
    if (layer.name, layer.groups) not in orders:
        orders[layer.name, layer.groups] = thread(weight, layer.groups)
    return time.perf_counter() - start


def _allocated(model: nn.Module, plan: Plan, orders: Orders) -> Plan:
    """The plan with its coefficients where they lower the layers' relative errors most."""
    layers = plan.compressed

    def energies(layer: LayerPlan) -> NDArray[np.float64]:
        weight = _weight(model, layer)
        energy = spectrum(weight, orders[layer.name, layer.groups], layer.groups).double().square().sum(0)
        share = energy / energy.sum().clamp_min(1e-300) * importance(layer.name, plan.recipe)
        return share.cpu().numpy()  # type: ignore[no-any-return]

    kept = allocate(
        [energies(layer) for layer in layers], [x.kept for x in layers], [x.length for x in layers]
    )
    changed = {layer.name: replace(layer, kept=n) for layer, n in zip(layers, kept, strict=True)}
    return arranged(plan.recipe, model, (changed.get(layer.name, layer) for layer in plan.layers))


def _encode(
    model: nn.Module, layer: LayerPlan, orders: Orders, rounds: int
) -> tuple[EncodedWeight, LayerReport]:
    start = time.perf_counter()
    weight = _weight(model, layer)
    order = orders[layer.name, layer.groups]
    unrefined = encode(weight, layer.groups, layer.kept, length=layer.length, order=order)
    try:
        encoded = light(weight, refined(weight, unrefined, rounds), layer.precision, reassign=rounds > 0)
    except TenreoError as error:
        raise TenreoError(f"{layer.name}: {error}") from error
    report = LayerReport(
        layer.name, layer.shape, layer.groups, layer.length, layer.kept, layer.precision,
        weight.double().square().sum().item(), _noise(weight, encoded), _noise(weight, unrefined),
        time.perf_counter() - start,
        weight.numel() * weight.element_size(), layer.bytes(weight.element_size()),
    )  # fmt: skip
    return encoded, report


def _noise(weight: Tensor, encoded: EncodedWeight) -> float:
    return (weight.double() - decode(encoded).double()).square().sum().item()


def attach_(layer: nn.Module, encoded: EncodedWeight, precision: str = "float32") -> CurveWeight:
    """Replace a layer's weight by an encoded one; return the parametrization."""
    curve = CurveWeight(encoded, precision)
    requires_grad = bool(layer.weight.requires_grad)  # type: ignore[union-attr]
    parametrize.register_parametrization(layer, "weight", curve)
    layer.parametrizations.weight.original.requires_grad_(requires_grad)  # type: ignore[union-attr, operator]
    return curve


def curves(model: nn.Module) -> Iterator[tuple[str, nn.Module, CurveWeight]]:
    """Every compressed layer of a model: name, layer, parametrization."""
    for name, layer in model.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            curve = layer.parametrizations.weight[0]  # type: ignore[union-attr, index]
            if isinstance(curve, CurveWeight):
                yield name, layer, curve


@contextmanager
def as_stored(model: nn.Module) -> Iterator[None]:
    """Round a model's coefficients for a while to what a file would hold of them."""
    own: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for _, layer, curve in curves(model):
            if curve.precision != "float32":
                coefficients = layer.parametrizations.weight.original  # type: ignore[union-attr]
                own.append((coefficients, coefficients.clone()))  # type: ignore[arg-type, operator]
                coefficients.copy_(rounded(coefficients, curve.precision))  # type: ignore[operator, arg-type]
    try:
        yield
    finally:
        with torch.no_grad():
            for coefficients, values in own:
                coefficients.copy_(values)


def expand_(model: nn.Module) -> nn.Module:
    """Turn every compressed layer back into a plain dense one, in place, with its decoded weight.

    Returns:
        The same model.
    """
    for _, layer, _ in list(curves(model)):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return model

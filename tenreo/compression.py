"""Compressed layers as torch parametrizations, and models into them and back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.core.codec import EncodedWeight, decode, encode, project, refined
from tenreo.core.decoding import Places, places
from tenreo.errors import TenreoError
from tenreo.plan import LayerPlan, Plan, resolve
from tenreo.recipe import Recipe
from tenreo.report import LayerReport, Report


class CurveWeight(nn.Module):
    """Parametrization of a weight by the coefficients of a curve, at fixed positions.

    `forward` decodes; `right_inverse` fits the curve to a weight's columns by least squares, so that
    forward(right_inverse(forward(c))) == forward(c).

    Args:
        encoded: the weight; its coefficients are those that registration gives to the layer.
    """

    positions: Tensor
    samples: Tensor
    order: Tensor
    starts: Tensor

    def __init__(self, encoded: EncodedWeight) -> None:
        super().__init__()
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
) -> Report:
    """Compress a model in place.

    Args:
        model: any module; its Conv2d and Linear layers stay what they are.
        recipe: what was asked for, or the plan that `resolve` made of it.
        jobs: layers encoded at a time, by default one per core; never changes the result.
        progress: called with every layer that is done, from the calling thread.

    Returns:
        Error, bytes and seconds of every layer, and the counts.

    Raises:
        TenreoError: as `resolve`, and when a weight is not finite; the model is then as before.
    """
    plan = recipe if isinstance(recipe, Plan) else resolve(recipe, model)
    if jobs is not None and jobs < 1:
        raise TenreoError(f"jobs: given {jobs}, needs at least 1")
    encoded: dict[str, tuple[EncodedWeight, LayerReport]] = {}
    pool = ThreadPoolExecutor(jobs or os.cpu_count())
    try:
        # Largest first: the last layer to finish is then a small one.
        largest_first = sorted(plan.compressed, key=lambda layer: -layer.columns)
        tasks = {pool.submit(_encode, model, layer, plan.recipe.refine): layer for layer in largest_first}
        for task in as_completed(tasks):
            layer = tasks[task]
            encoded[layer.name] = task.result()
            if progress is not None:
                progress(layer)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for name, (weight, report) in encoded.items():
        attach_(model.get_submodule(name), weight).measured = {
            "snr": report.snr, "snr_unrefined": report.snr_unrefined, "signal": report.signal,
        }  # fmt: skip
    return Report(tuple(encoded[x.name][1] for x in plan.compressed), plan.before, plan.after)


def _encode(model: nn.Module, layer: LayerPlan, rounds: int) -> tuple[EncodedWeight, LayerReport]:
    weight = model.get_submodule(layer.name).weight.detach()  # type: ignore[operator, union-attr]
    if not torch.isfinite(weight).all():
        raise TenreoError(f"{layer.name}: the weight holds NaN or infinity and can not be compressed")
    start = time.perf_counter()
    unrefined = encode(weight, layer.groups, layer.kept)
    encoded = refined(weight, unrefined, rounds)
    report = LayerReport(
        layer.name, layer.shape, layer.groups, encoded.length, layer.kept,
        weight.double().square().sum().item(), _noise(weight, encoded), _noise(weight, unrefined),
        time.perf_counter() - start,
        weight.numel() * weight.element_size(),
        encoded.coefficients.numel() * weight.element_size() + encoded.positions.numel() * 4,
    )  # fmt: skip
    return encoded, report


def _noise(weight: Tensor, encoded: EncodedWeight) -> float:
    return (weight.double() - decode(encoded).double()).square().sum().item()


def attach_(layer: nn.Module, encoded: EncodedWeight) -> CurveWeight:
    """Replace a layer's weight by an encoded one; return the parametrization."""
    curve = CurveWeight(encoded)
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


def expand_(model: nn.Module) -> nn.Module:
    """Turn every compressed layer back into a plain dense one, in place, with its decoded weight.

    Returns:
        The same model.
    """
    for _, layer, _ in list(curves(model)):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return model

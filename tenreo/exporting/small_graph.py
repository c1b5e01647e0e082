"""The part of an ONNX model that decodes its weights.

A node that calls a function of `tenreo.exporting.decoder_functions` takes the place of every compressed weight.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenreo.codec.cosine import idct
from tenreo.codec.decoding import folded_index
from tenreo.codec.encode import EncodedWeight
from tenreo.codec.grid import exact_grid
from tenreo.codec.packing import unpack
from tenreo.codec.precision import pack_coefficients
from tenreo.codec.ramp import most_level
from tenreo.codec.shape import Basis, Precision
from tenreo.codec.trellis import path_bits
from tenreo.exporting.graph_nodes import FLOAT, GraphNodes
from tenreo.exporting.integer_streams import IntegerStreams, Numbers
from tenreo.exporting.stream_functions import BEFORE, TRIANGLE

_FEW = 16  # elements of a tensor that is stored as it is
_MOST_SHARED = 4096  # elements of a dense tensor that shares a node with others
_MOST_NUMBER = 1 << 24  # float32 represents smaller integers exactly
_MOST_PRODUCTS = 1 << 33  # multiplications of the transform of a curve, about a second
_VARIANCE = ".running_var"


class SmallGraph:
    """The nodes and the tensors that decode the weights of a model.

    Args:
        types: ONNX's number of the type of each weight in the graph, by name.
    """

    def __init__(self, types: Mapping[str, int]) -> None:
        self._types = types
        self._nodes, self._streams = GraphNodes(), IntegerStreams()
        self._tensors = self._nodes.tensors
        self._shared: dict[bool, list[tuple[str, Tensor]]] = {False: [], True: []}  # by whether grids are logarithmic

    def add_weight(self, name: str, weight: EncodedWeight, precision: Precision) -> bool:
        """Add a compressed weight; return False, and add nothing, if a runtime could not decode it.

        Args:
            name: name of the weight in the graph.
            weight: encoded weight.
            precision: number format of the coefficients.
        """
        positions, coefficients = weight.positions.cpu(), weight.coefficients.detach().cpu()
        if weight.length >= _MOST_NUMBER:
            return False
        self._tensors[f"{name}.shape"] = np.array(weight.shape, np.int64)
        if weight.basis is Basis.RAMP:
            self._add_ramp(name, positions.numpy().astype(np.int64), coefficients, weight.length, weight.memory)
            return True
        groups, per_row = coefficients.shape
        factors = _factors(weight.length, per_row, groups)
        values, scales, _ = pack_coefficients(coefficients, precision)
        stored = values.nbytes + (0 if scales is None else scales.nbytes)
        if factors is None or 4 * groups * weight.length <= stored:
            numbers = Numbers(f"{name}.numbers", positions.numpy().astype(np.int64))
            self._tensors[f"{name}.samples"] = idct(coefficients.float(), weight.length).numpy()
            inputs = ["samples", "shape"]
        else:
            numbers = Numbers(f"{name}.numbers", folded_index(positions, weight.length).numpy().astype(np.int64))
            self._tensors[f"{name}.factors"] = np.array(factors, np.int64)
            self._add_coefficients(f"{name}.coefficients", coefficients, precision)
            inputs = ["coefficients", "factors", "shape"]
        self._streams.add(numbers, f"length {weight.length}")
        self._call_for("Table" if inputs[0] == "samples" else "Curve", ["numbers", *inputs], name)
        return True

    def _add_ramp(self, name: str, positions: Any, coefficients: Tensor, length: int, memory: int) -> None:
        path = path_bits(positions, memory) if memory else None
        base = (length - 1) // 8 * 4  # the middle of all ramps of a stream is near 0; a multiple of 4 keeps the subsets
        offset, end, jump = coefficients.float()[0].tolist()
        step = float(torch.tensor(end) / most_level(length))
        middle = (length - 1) / 2 - base
        numbers = Numbers(f"{name}.numbers", positions - base, path, middle, f"{name}.steps")
        if self._streams.add(numbers, "ramp", 0 if path is None else memory):
            self._tensors[f"{name}.scalars"] = np.array([offset, step, jump], np.float32)
            self._call_for("TrellisRamp", ["numbers", "steps", "scalars", "shape"], name)
            return
        self._tensors[f"{name}.scalars"] = np.array([middle, offset, step, jump], np.float32)
        places = numbers.values
        self._tensors[f"{name}.sizes"] = np.array([max(0, places.max()) + 1, max(1, -places.min())], np.int64)
        self._call_for("Ramp", ["numbers", "scalars", "sizes", "shape"], name)

    def _add_coefficients(self, name: str, coefficients: Tensor, precision: Precision) -> None:
        values, scales, _ = pack_coefficients(coefficients, precision)
        if scales is None:
            self._tensors[name] = values
            return
        codes = unpack(values, precision.bits, coefficients.numel()).numpy() - (1 << (precision.bits - 1))
        self._streams.add(Numbers(f"{name}.numbers", codes), f"coefficients {precision}")
        bands, per_row = scales.shape[1], coefficients.shape[1]
        self._tensors |= {
            f"{name}.scales": scales.float().numpy(),
            f"{name}.bands": np.array([per_row // bands + 1, per_row // bands, per_row % bands], np.int64),
            f"{name}.shape": np.array(coefficients.shape, np.int64),
        }
        self._nodes.call("Coefficients", [f"{name}.{each}" for each in ("numbers", "scales", "bands", "shape")], [name])

    def _call_for(self, function: str, inputs: Sequence[str], name: str) -> None:
        """Add the node that decodes a weight, with a cast if the weight is not in float32."""
        kind = self._types.get(name, FLOAT)
        output = name if kind == FLOAT else f"{name}.float32"
        self._nodes.call(function, [f"{name}.{each}" for each in inputs], [output])
        if kind != FLOAT:
            self._nodes.add("Cast", [output], [name], to=kind)

    def add_dense(self, name: str, tensor: Tensor) -> None:
        """Add an uncompressed tensor, in the smallest form that has exactly its values."""
        logarithmic = name.endswith(_VARIANCE)
        halves = (torch.float16, torch.bfloat16)
        half = next((kind for kind in halves if torch.equal(tensor.to(kind).to(tensor.dtype), tensor)), None)
        if tensor.numel() <= _FEW or tensor.dtype != torch.float32:
            self._tensors[name] = tensor
        elif _grid_bits(tensor, logarithmic) < (16 if half else 32):
            if logarithmic or tensor.numel() <= _MOST_SHARED:
                self._shared[logarithmic].append((name, tensor))
            else:
                self._add_grid(name, tensor)
        elif half:
            self._tensors[f"{name}.half"] = tensor.to(half)
            self._nodes.add("Cast", [f"{name}.half"], [name], to=FLOAT)
        else:
            self._tensors[name] = tensor

    def _add_grid(self, name: str, tensor: Tensor) -> None:
        levels, middle, scale = _on_grid(tensor, logarithmic=False)
        self._tensors |= {
            f"{name}.scalars": np.array([middle, scale], np.float32), f"{name}.shape": np.array(tensor.shape, np.int64),
        }  # fmt: skip
        self._streams.add(Numbers(f"{name}.numbers", levels), "grid")
        self._nodes.call("Grid", [f"{name}.{each}" for each in ("numbers", "scalars", "shape")], [name])

    def _add_grids(self, name: str, tensors: Sequence[tuple[str, Tensor]], logarithmic: bool) -> None:
        """Add tensors that are decoded together and then split."""
        levels, middles, scales = zip(*(_on_grid(tensor, logarithmic) for _, tensor in tensors), strict=True)
        self._tensors |= {
            f"{name}.sizes": np.array([each.numel() for _, each in tensors], np.int64),
            f"{name}.middles": np.array(middles, np.float32), f"{name}.scales": np.array(scales, np.float32),
            f"{name}.blocks": self._streams.blocks_of(sum(map(len, levels))),
        }  # fmt: skip
        self._streams.add(Numbers(f"{name}.numbers", np.concatenate(levels)), "logarithmic" if logarithmic else "grid")
        inputs = [*(f"{name}.{each}" for each in ("numbers", "sizes", "middles", "scales", "blocks")), TRIANGLE, BEFORE]
        self._nodes.call("LogarithmicGrids" if logarithmic else "Grids", inputs, [f"{name}.values"])
        flat = [each if tensor.dim() == 1 else f"{each}.flat" for each, tensor in tensors]
        self._nodes.add("Split", [f"{name}.values", f"{name}.sizes"], flat, axis=0)
        for each, tensor in tensors:
            if tensor.dim() != 1:
                self._tensors[f"{each}.shape"] = np.array(tensor.shape, np.int64)
                self._nodes.add("Reshape", [f"{each}.flat", f"{each}.shape"], [each])

    def finish_(self, model: Any) -> None:
        """Add all nodes, tensors and functions to a model, in place, that lacks the weights."""
        for logarithmic, tensors in self._shared.items():
            if tensors:
                self._add_grids("logarithmic" if logarithmic else "dense", tensors, logarithmic)
        self._streams.add_to_(self._nodes)
        self._nodes.insert_into_(model)


def _factors(length: int, per_row: int, groups: int) -> tuple[int, int, int, int] | None:
    """Return how the transform of a curve is divided: a, b, rows of b coefficients, and zeros that fill the last row.

    None is returned if it would take too long, as for long curves whose length is a prime number.
    """

    def products(a: int) -> int:
        b = length // a
        return groups * length * (4 * -(-per_row // b) + 2 * b)

    a = min((a for a in range(1, math.isqrt(length) + 1) if length % a == 0), key=products)
    a = min((a, length // a), key=products)
    rows = -(-per_row // (length // a))
    possible = products(a) <= _MOST_PRODUCTS
    return (a, length // a, rows, rows * (length // a) - per_row) if possible else None


def _on_grid(tensor: Tensor, logarithmic: bool) -> tuple[NDArray[np.int64], int, float]:
    """Return a tensor's levels on its grid, minus their median; that median; and the scale of the grid."""
    grid = exact_grid(tensor, logarithmic)
    assert grid is not None
    levels = grid.levels(tensor.double()).flatten().to(torch.int64)
    middle = int(levels.median())
    return levels.numpy() - middle, middle, 2.0**grid.exponent


def _grid_bits(tensor: Tensor, logarithmic: bool) -> float:
    """Return the bits of the range of a tensor's levels on its grid; infinity if it has none."""
    grid = exact_grid(tensor, logarithmic)
    if grid is None:
        return math.inf
    levels = grid.levels(tensor.double())
    return math.log2(float(levels.max() - levels.min()) + 1)

"""ONNX models whose weights stay compressed: the runtime decodes them when it loads the model.

The optimizer of ONNX gets the weights as inputs, so that it neither folds nor merges them. Then nodes that call the
functions of `tenreo.exporting.decoder_functions` take the place of these inputs. The integers of several layers form
one stream, since every operator that a runtime evaluates costs time. The weights are those that `tenreo.load` decodes.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenreo.codec.cosine import idct
from tenreo.codec.decoding import folded_index
from tenreo.codec.grid import exact_grid
from tenreo.codec.packing import unpack
from tenreo.codec.precision import pack_coefficients
from tenreo.codec.prefix_code import Integers, PrefixCode, encode_integers, pack_by_planes, prefix_code
from tenreo.codec.ramp import most_level
from tenreo.codec.shape import Basis, Precision
from tenreo.codec.trellis import path_bits, window_subsets
from tenreo.compression.parametrization import Curve
from tenreo.exporting.decoder_functions import DOMAIN, function_protos, stream, stream_inputs, stream_name
from tenreo.exporting.onnx_names import all_nodes

_FEW = 16  # elements of a tensor that is stored as it is
_MOST_SHARED = 4096  # elements of a dense tensor that shares a node with others
_MOST_NUMBER = 1 << 24  # float32 represents smaller integers exactly
_STREAM_BYTES = 2000  # what a further stream costs, in bytes and in time to load
_MOST_PRODUCTS = 1 << 33  # multiplications of the transform of a curve, about a second
_MOST_TRELLIS_SYMBOLS = 2048
_VARIANCE = ".running_var"
_FLOAT, _FLOAT16, _BFLOAT16 = 1, 10, 16  # ONNX's numbers of the types


@dataclass
class _Numbers:
    """Integers that are a part of a stream; the tensor `name` will contain their first and last place in it."""

    name: str
    values: Integers
    path: Any = None  # bits of `path_bits`, if the integers are a path through a trellis


class SmallGraph:
    """The nodes and the tensors that decode the weights of a model.

    Args:
        types: ONNX's number of the type of each weight in the graph, by name.
    """

    def __init__(self, types: Mapping[str, int]) -> None:
        self._types = types
        self._nodes: list[Any] = []
        self._tensors: dict[str, Any] = {}
        self._streams: dict[tuple[int, str], list[_Numbers]] = defaultdict(list)  # by memory and kind
        self._stream_of: dict[str, str] = {}  # name of the stream, by name of its numbers
        self._shared: dict[bool, list[tuple[str, Tensor]]] = {False: [], True: []}  # by whether grids are logarithmic
        self._called: dict[str, str] = {}  # functions by name, with the text of those of streams

    def add_curve(self, curve: Curve) -> bool:
        """Add a compressed weight; return False, and add nothing, if a runtime could not decode it."""
        shape, name = curve.weight.curve, curve.parameter
        positions, coefficients = curve.weight.positions.cpu(), curve.coefficients.detach().cpu()
        if shape.length >= _MOST_NUMBER:
            return False
        self._tensors[f"{name}.shape"] = np.array(curve.weight.shape, np.int64)
        if shape.basis is Basis.RAMP:
            self._add_ramp(name, positions.numpy().astype(np.int64), coefficients, shape.length, shape.memory)
            return True
        factors = _factors(shape.length, shape.coefficients_per_row, shape.groups)
        samples_are_smaller = 4 * shape.groups * shape.length <= shape.coefficient_bytes(coefficients.element_size())
        if factors is None or samples_are_smaller:
            numbers = _Numbers(f"{name}.range", positions.numpy().astype(np.int64))
            self._tensors[f"{name}.samples"] = idct(coefficients.float(), shape.length).numpy()
            inputs = ["samples", "shape"]
        else:
            numbers = _Numbers(f"{name}.range", folded_index(positions, shape.length).numpy().astype(np.int64))
            self._tensors[f"{name}.factors"] = np.array(factors, np.int64)
            self._add_coefficients(name, coefficients, shape.precision)
            inputs = ["coefficients", "factors", "shape"]
        self._add_numbers(numbers, f"length {shape.length}")
        function = "Table" if inputs[0] == "samples" else "Curve"
        self._weight(function, ["range", *inputs], name)
        return True

    def _add_ramp(self, name: str, positions: Integers, coefficients: Tensor, length: int, memory: int) -> None:
        path = path_bits(positions, memory) if memory else None
        base = (length - 1) // 8 * 4  # the middle of all ramps of a stream is near 0; a multiple of 4 keeps the subsets
        offset, end, jump = coefficients.float()[0].tolist()
        step = float(torch.tensor(end) / most_level(length))
        places = positions - base
        self._tensors |= {
            f"{name}.scalars": np.array([(length - 1) / 2 - base, offset, step, jump], np.float32),
            f"{name}.sizes": np.array([max(0, places.max()) + 1, max(1, -places.min())], np.int64),
        }
        self._add_numbers(_Numbers(f"{name}.range", places, path), "ramp", 0 if path is None else memory)
        self._weight("Ramp", ["range", "scalars", "sizes", "shape"], name)

    def _add_coefficients(self, name: str, coefficients: Tensor, precision: Precision) -> None:
        values, scales, _ = pack_coefficients(coefficients, precision)
        target = f"{name}.coefficients"
        if scales is None:
            self._tensors[target] = values
            return
        codes = unpack(values, precision.bits, coefficients.numel()).numpy() - (1 << (precision.bits - 1))
        self._add_numbers(_Numbers(f"{target}.range", codes), f"coefficients {precision}")
        bands, per_row = scales.shape[1], coefficients.shape[1]
        self._tensors |= {
            f"{target}.scales": scales.float().numpy(),
            f"{target}.bands": np.array([per_row // bands + 1, per_row // bands, per_row % bands], np.int64),
            f"{target}.shape": np.array(coefficients.shape, np.int64),
        }
        self._call("Coefficients", [f"{target}.{each}" for each in ("range", "scales", "bands", "shape")], target)

    def add_dense(self, name: str, tensor: Tensor) -> None:
        """Add an uncompressed tensor, in the smallest form that has exactly its values."""
        logarithmic = name.endswith(_VARIANCE)
        halves = (torch.float16, torch.bfloat16)
        half = next((kind for kind in halves if torch.equal(tensor.to(kind).to(tensor.dtype), tensor)), None)
        if tensor.numel() <= _FEW or tensor.dtype != torch.float32:
            self._tensors[name] = tensor
        elif _grid_bits(tensor, logarithmic) < (16 if half else 32):
            if tensor.numel() <= _MOST_SHARED:
                self._shared[logarithmic].append((name, tensor))
            else:
                self._add_grids(f"{name}.grid", [(name, tensor)], logarithmic)
        elif half:
            self._tensors[f"{name}.half"] = tensor.to(half)
            self._node("Cast", [f"{name}.half"], [name], to=_FLOAT)
        else:
            self._tensors[name] = tensor

    def _add_grids(self, name: str, tensors: Sequence[tuple[str, Tensor]], logarithmic: bool) -> None:
        """Add tensors that are decoded together and then split."""
        levels, middles, scales = [], [], []
        for _, tensor in tensors:
            grid = exact_grid(tensor, logarithmic)
            assert grid is not None
            own = grid.levels(tensor.double()).flatten().to(torch.int64)
            middles.append(int(own.median()))
            scales.append(2.0**grid.exponent)
            levels.append(own.numpy() - middles[-1])
        sizes = np.array([each.numel() for _, each in tensors], np.int64)
        self._tensors |= {
            f"{name}.sizes": sizes, f"{name}.middles": np.array(middles, np.float32),
            f"{name}.scales": np.array(scales, np.float32),
        }  # fmt: skip
        self._add_numbers(_Numbers(f"{name}.range", np.concatenate(levels)), "logarithmic" if logarithmic else "grid")
        inputs = [f"{name}.{each}" for each in ("range", "sizes", "middles", "scales")]
        self._call("LogarithmicGrid" if logarithmic else "Grid", inputs, f"{name}.values")
        flat = [each if tensor.dim() == 1 else f"{each}.flat" for each, tensor in tensors]
        self._node("Split", [f"{name}.values", f"{name}.sizes"], flat, axis=0)
        for each, tensor in tensors:
            if tensor.dim() != 1:
                self._tensors[f"{each}.shape"] = np.array(tensor.shape, np.int64)
                self._node("Reshape", [f"{each}.flat", f"{each}.shape"], [each])

    def finish_(self, model: Any) -> None:
        """Add all nodes, tensors and functions to a model, in place, whose weights are inputs."""
        from onnx import helper, numpy_helper

        for logarithmic, tensors in self._shared.items():
            if tensors:
                self._add_grids("logarithmic" if logarithmic else "dense", tensors, logarithmic)
        streams = self._streams_first()
        made = [node for node in self._nodes if node.output[0] in streams]
        nodes = [*made, *(node for node in self._nodes if node.output[0] not in streams), *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        known = {each.name for each in model.graph.initializer}
        for name, tensor in self._tensors.items():
            assert name not in known, name
            model.graph.initializer.append(
                numpy_helper.from_array(tensor, name) if isinstance(tensor, np.ndarray) else _torch_tensor(tensor, name)
            )
        opset = next(each.version for each in model.opset_import if each.domain == "")
        model.functions.extend(function_protos(self._called, opset))
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))

    def _streams_first(self) -> set[str]:
        """Make the streams, and return their names."""
        names: set[str] = set()
        for (memory, _), parts in sorted(self._streams.items(), key=lambda each: each[0]):
            for cluster in _clusters(parts, 2 if memory else None):
                name = f"stream_{len(names)}"
                names.add(name)
                self._make_stream(name, cluster, memory)
        for node in self._nodes:
            if node.domain == DOMAIN and node.input[0] in self._stream_of:
                node.input.insert(0, self._stream_of[node.input[0]])
        return names

    def _make_stream(self, name: str, parts: Sequence[_Numbers], memory: int) -> None:
        start = 0
        for part in parts:
            self._tensors[part.name] = np.array([start, start + len(part.values)], np.int64)
            self._stream_of[part.name] = name
            start += len(part.values) + memory
        code = _trellis_code(parts, memory) if memory else encode_integers(np.concatenate([x.values for x in parts]))
        packed = pack_by_planes(code.bits)
        sizes = [code.width * code.count, *code.sizes, *([code.raw * code.count] if code.raw else [])]
        own = {
            "bytes": packed,
            "sizes": np.array([*sizes, 8 * len(packed) - sum(sizes)], np.int64),
            "counts": np.array(code.counts, np.int32),
            "ends": np.cumsum(code.counts).astype(np.int32),
            "offset": np.array(code.offset, np.int32),
            "shape": np.array([code.width, code.count], np.int64),
            # The two lowest bits are those of the path.
            "symbols": ((code.symbols << code.raw) + code.offset << (1 if memory else 0)).astype(np.int32),
            "path": window_subsets(memory) if memory else None,
            "lowest_shape": np.array([code.raw, code.count], np.int64),
        }
        inputs = ["bytes", "sizes", "offset", "shape"]
        function, text = "Planes", ""
        if len(code.symbols):
            inputs = stream_inputs(code.raw > 0, memory)
            function, text = (make(code.levels, code.raw > 0, memory, code.width > 8) for make in (stream_name, stream))
        self._tensors |= {f"{name}.{each}": own[each] for each in inputs}
        self._call(function, [f"{name}.{each}" for each in inputs], name, text)

    def _add_numbers(self, numbers: _Numbers, kind: str, memory: int = 0) -> None:
        if memory and not 2 <= len(np.unique(numbers.values >> 2)) <= _MOST_TRELLIS_SYMBOLS:
            memory = 0
        self._streams[memory, kind].append(numbers)

    def _weight(self, function: str, inputs: Sequence[str], name: str) -> None:
        """Add the node that decodes a weight, with a cast if the weight is not in float32."""
        kind = self._types.get(name, _FLOAT)
        output = name if kind == _FLOAT else f"{name}.float32"
        self._call(function, [f"{name}.{each}" for each in inputs], output)
        if kind != _FLOAT:
            self._node("Cast", [output], [name], to=kind)

    def _call(self, function: str, inputs: Sequence[str], output: str, text: str = "") -> None:
        self._called[function] = text
        self._node(function, inputs, [output], domain=DOMAIN)

    def _node(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> None:
        from onnx import helper

        self._nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, name=outputs[0], **attributes))


def small_model(model: Any, curves: Iterable[Curve], state: Mapping[str, Tensor]) -> list[str]:
    """Replace the initializers of an ONNX model, in place, by nodes that decode them.

    Args:
        model: ONNX model with dense weights that is not optimized; `state` has the names of its initializers.
        curves: compressed weights of the model.
        state: dense tensors by name.

    Returns:
        The names of the weights that stay dense, because a runtime could not decode them.
    """
    stored = {each.name: each for each in model.graph.initializer}
    floats = {
        name for name, each in stored.items() if each.data_type in (_FLOAT, _FLOAT16, _BFLOAT16) and name in state
    }
    graph, dense = SmallGraph({name: stored[name].data_type for name in floats}), []
    _optimize_(model, floats)
    used = {name for node in all_nodes(model.graph) for name in node.input}
    compressed = {curve.parameter: curve for curve in curves}
    for name in sorted(floats & used):
        if name in compressed and graph.add_curve(compressed[name]):
            continue
        if name in compressed:
            dense.append(name)
        graph.add_dense(name, state[name].detach().cpu())
    graph.finish_(model)
    return dense


def _optimize_(model: Any, hidden: set[str]) -> None:
    """Optimize a model in place, without looking at some of its initializers, which are then missing."""
    from onnx import helper
    from onnxscript import optimizer, rewriter

    kept = [each for each in model.graph.initializer if each.name not in hidden]
    as_inputs = [
        helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        for each in model.graph.initializer
        if each.name in hidden
    ]
    inputs = [each for each in model.graph.input if each.name not in hidden]
    _replace(model.graph.initializer, kept)
    _replace(model.graph.input, [*inputs, *as_inputs])
    for _ in range(2):
        model.CopyFrom(rewriter.rewrite(optimizer.optimize(model)))
    _replace(model.graph.input, [each for each in model.graph.input if each.name not in hidden])
    _replace(model.graph.value_info, [])
    for node in all_nodes(model.graph):
        _replace(node.metadata_props, [])
        node.doc_string = ""


def _replace(field: Any, values: Sequence[Any]) -> None:
    values = list(values)
    del field[:]
    field.extend(values)


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


def _grid_bits(tensor: Tensor, logarithmic: bool) -> float:
    """Return the bits of the range of a tensor's levels on its grid; infinity if it has none."""
    grid = exact_grid(tensor, logarithmic)
    if grid is None:
        return math.inf
    levels = grid.levels(tensor.double())
    return math.log2(float(levels.max() - levels.min()) + 1)


def _trellis_code(parts: Sequence[_Numbers], memory: int) -> PrefixCode:
    """Return the code of paths through a trellis, each after `memory` numbers that bring it to state 0."""
    start = np.zeros(memory, np.int64)
    integers = np.concatenate([each for x in parts for each in (start, x.values >> 2 << 1 | x.path.astype(np.int64))])
    code = prefix_code(integers, raw=1)
    assert code is not None
    return code


def _clusters(parts: Sequence[_Numbers], raw: int | None) -> list[list[_Numbers]]:
    """Divide numbers into streams: those with similar distributions share a code.

    Args:
        parts: numbers of the same kind.
        raw: lowest bits that a code does not contain; None if that is not known.
    """
    ordered = sorted(parts, key=lambda x: (float(np.abs(x.values).mean()), x.name))
    if raw is None:
        raw = max(0, int(math.log2(1 + float(np.abs(ordered[-1].values).mean()))) - 4)
    least = min(int(x.values.min()) for x in parts) >> raw
    size = (max(int(x.values.max()) for x in parts) >> raw) - least + 1
    clusters = [[x] for x in ordered]
    counts = [np.bincount((x.values >> raw) - least, minlength=size) for x in ordered]
    costs = [_bytes(each) for each in counts]
    while len(clusters) > 1:
        losses = [_bytes(a + b) - x - y for a, b, x, y in zip(counts, counts[1:], costs, costs[1:], strict=False)]
        i = int(np.argmin(losses))
        if losses[i] > _STREAM_BYTES:
            break
        clusters[i : i + 2] = [clusters[i] + clusters[i + 1]]
        counts[i : i + 2] = [counts[i] + counts[i + 1]]
        costs[i : i + 2] = [_bytes(counts[i])]
    return clusters


def _bytes(counts: NDArray[np.int64]) -> float:
    """Return the entropy of symbols in bytes."""
    used = counts[counts > 0]
    return float(-(used * np.log2(used / used.sum())).sum() / 8)


def _torch_tensor(tensor: Tensor, name: str) -> Any:
    """Return a torch tensor as one of ONNX."""
    from onnx import TensorProto, numpy_helper

    if tensor.dtype != torch.bfloat16:
        return numpy_helper.from_array(tensor.detach().cpu().numpy(), name)
    content = tensor.detach().cpu().contiguous().view(torch.int16).numpy().tobytes()
    return TensorProto(name=name, data_type=_BFLOAT16, dims=tensor.shape, raw_data=content)

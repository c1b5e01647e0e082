"""Streams of integers in an ONNX model.

The integers of several layers form one stream, since every operator that a runtime evaluates costs time.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenreo.codec.prefix_code import Integers, PrefixCode, encode_integers, pack, prefix_code
from tenreo.codec.trellis import window_subsets
from tenreo.exporting.graph_nodes import GraphNodes
from tenreo.exporting.stream_functions import MOST_BYTE_CODES, stream, stream_inputs, stream_name

_STREAM_BYTES = 6000  # what a further stream costs, in bytes and in time to load
_MOST_TRELLIS_SYMBOLS = 2048


@dataclass
class Numbers:
    """Integers that are a part of a stream; the tensor `name` will contain their first and last place in it."""

    name: str
    values: Integers
    path: Any = None  # bits of `path_bits`, if the integers are a path through a trellis


class IntegerStreams:
    """The integers of a model, which are divided into streams when all of them are known."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, str], list[Numbers]] = defaultdict(list)  # by memory and kind

    def add(self, numbers: Numbers, kind: str, memory: int = 0) -> bool:
        """Add integers; those of a kind may share a stream. Return whether the stream contains paths through a trellis.

        Args:
            numbers: the integers.
            kind: what they are.
            memory: memory of the trellis through which they are a path; 0: none.
        """
        if memory and not 2 <= len(np.unique(numbers.values >> 2)) <= _MOST_TRELLIS_SYMBOLS:
            memory = 0
        self._numbers[memory, kind].append(numbers)
        return memory > 0

    def add_to_(self, nodes: GraphNodes) -> None:
        """Add the streams to the nodes that use the integers."""
        clusters = [
            (cluster, memory)
            for (memory, _), parts in sorted(self._numbers.items(), key=lambda each: each[0])
            for cluster in _clusters(parts, 2 if memory else None)
        ]
        results_of: dict[str, list[str]] = {}
        for i, (cluster, memory) in enumerate(clusters):
            results = _add_stream(nodes, f"stream_{i}", cluster, memory)
            results_of |= {part.name: results for part in cluster}
        nodes.use_streams(results_of)


def _add_stream(nodes: GraphNodes, name: str, parts: Sequence[Numbers], memory: int) -> list[str]:
    """Add a node that decodes a stream, and the ranges of its parts; return the names of its results."""
    start = 0
    for part in parts:
        nodes.tensors[part.name] = np.array([start, start + len(part.values)], np.int64)
        start += len(part.values) + memory
    code = _trellis_code(parts, memory) if memory else encode_integers(np.concatenate([x.values for x in parts]))
    inputs, function, text = ["bytes", "sizes", "powers", "offset"], "Planes", ""
    if len(code.symbols):
        inputs = stream_inputs(code.levels, code.raw > 0, memory)
        traits = code.levels, code.raw > 0, memory, len(code.symbols) > MOST_BYTE_CODES
        function, text = stream_name(*traits), stream(*traits)
    own = _code_tensors(code, memory)
    nodes.tensors |= {f"{name}.{each}": own[each] for each in inputs}
    results = [name, f"{name}.values"] if memory else [name]
    nodes.call(function, [f"{name}.{each}" for each in inputs], results, text)
    return results


def _code_tensors(code: PrefixCode, memory: int) -> dict[str, Any]:
    """Return the inputs of the functions that decode a prefix code, by name."""
    packed = pack(code.bits)
    sizes = [width * size for width, size in zip(code.widths, code.sizes, strict=True)]
    sizes += [code.raw * code.count] if code.raw else []
    kind = np.uint8 if len(code.symbols) <= MOST_BYTE_CODES else np.int32
    powers = np.concatenate([_powers(width) for width in code.widths])
    return {
        "bytes": packed,
        "sizes": np.array([*sizes, 8 * len(packed) - sum(sizes)], np.int64),
        "shapes": np.array([(width, -1) for width in code.widths], np.int64).reshape(-1),
        "widths": np.array(code.widths, np.int64),
        "powers": powers.astype(np.uint8 if len(code.symbols) else np.float32),
        "raw_powers": _powers(code.raw).astype(np.float32),
        "offset": np.array(code.offset, np.int32),
        "lasts": (np.array(code.limits) - 1).astype(kind),
        "following": np.array(code.following).astype(kind),
        # The two lowest bits are those of the path.
        "symbols": ((code.symbols << code.raw) + code.offset << (1 if memory else 0)).astype(np.int32),
        "path": window_subsets(memory) if memory else None,
    }


def _powers(width: int) -> Integers:
    """Return what the bits of numbers count, the highest first."""
    return 1 << np.arange(width)[::-1]


def _trellis_code(parts: Sequence[Numbers], memory: int) -> PrefixCode:
    """Return the code of paths through a trellis, each after `memory` numbers that bring it to state 0."""
    start = np.zeros(memory, np.int64)
    integers = np.concatenate([each for x in parts for each in (start, x.values >> 2 << 1 | x.path.astype(np.int64))])
    code = prefix_code(integers, raw=1)
    assert code is not None
    return code


def _clusters(parts: Sequence[Numbers], raw: int | None) -> list[list[Numbers]]:
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

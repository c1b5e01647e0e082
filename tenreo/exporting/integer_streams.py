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

from tenreo.codec.prefix_code import (
    FIELDS,
    NUMBERS,
    Integers,
    PrefixCode,
    encode_integers,
    field_widths,
    pack,
    prefix_code,
)  # fmt: skip
from tenreo.codec.trellis import window_subsets
from tenreo.exporting.graph_nodes import GraphNodes
from tenreo.exporting.stream_functions import (
    FLAGS,
    MOST_BYTE_CODES,
    TRIANGLE,
    part,
    part_name,
    stream,
    stream_inputs,
    stream_name,
    table_name,
)  # fmt: skip

_STREAM_BYTES = 6000  # what a further stream costs, in bytes and in time to load
_MOST_TRELLIS_SYMBOLS = 2048


@dataclass
class Numbers:
    """Integers that are a part of a stream.

    Attributes:
        name: name of the tensor that will contain them or, for a path through a trellis, their places in a table.
        values: the integers.
        path: bits of `path_bits`, if the integers are a path through a trellis.
        middle: of a path, the position in the middle of the ramp.
        steps: of a path, the name of the tensor that will contain the steps of the table from the middle.
    """

    name: str
    values: Integers
    path: Any = None
    middle: float = 0.0
    steps: str = ""


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

    def add_to_(self, users: GraphNodes) -> None:
        """Add the streams to the nodes that use the integers."""
        clusters = [
            (cluster, memory)
            for (memory, _), parts in sorted(self._numbers.items(), key=lambda each: each[0])
            for cluster in _clusters(parts, 2 if memory else None)
        ]
        nodes, names = GraphNodes(), dict[str, str]()
        if clusters:
            nodes.call("Tables", [], [*map(table_name, FIELDS), TRIANGLE])
        for i, (cluster, memory) in enumerate(clusters):
            _add_stream(nodes, f"stream_{i}", cluster, memory)
            if memory:
                names |= _add_steps(nodes, f"stream_{i}", cluster)
        users.use_first(nodes, names)


def _add_stream(nodes: GraphNodes, name: str, parts: Sequence[Numbers], memory: int) -> None:
    """Add the nodes that decode a stream and divide it into its parts."""
    code = _trellis_code(parts, memory) if memory else encode_integers(np.concatenate([x.values for x in parts]))
    if not len(code.symbols):
        _add_numbers(nodes, f"{name}.unsigned", code.parts[0], code.widths[0], wide=True)
        nodes.tensors[f"{name}.offset"] = np.array(code.offset, np.int32)
        nodes.add("Add", [f"{name}.unsigned", f"{name}.offset"], [name])
    else:
        wide = len(code.symbols) > MOST_BYTE_CODES
        for i, (numbers, width, scale) in enumerate(zip(code.parts, code.widths, code.scales, strict=True)):
            _add_numbers(nodes, f"{name}.part_{i}", numbers, width, scale, wide)
        if code.raw and not memory:
            _add_numbers(nodes, f"{name}.below", code.below, code.raw, wide=True)
        tensors, inputs = _code_tensors(code, memory), stream_inputs(code.levels, code.raw > 0, memory)
        nodes.tensors |= {f"{name}.{each}": tensors[each] for each in inputs if each in tensors}
        traits = code.levels, code.raw > 0, memory, wide
        given = [*(f"{name}.{each}" for each in inputs), *([TRIANGLE] if code.levels else [])]
        results = [name, f"{name}.values"] if memory else [name]
        nodes.call(stream_name(*traits), given, results, stream(*traits))
    _split(nodes, name, parts, memory, _filled(len(code.parts[0])))


def _add_numbers(
    nodes: GraphNodes, name: str, numbers: Integers, width: int, scale: int = 1, wide: bool = False
) -> None:  # fmt: skip
    """Add a node that decodes numbers of a width, times a scale."""
    fields = field_widths(width)
    below = [width - sum(fields[: i + 1]) for i in range(len(fields))]
    nodes.tensors[f"{name}.weights"] = np.array([scale << each for each in below], np.int32)
    stored = {f"{name}.bits_{i}": each for i, each in zip(below, pack(numbers, width), strict=True)}
    nodes.tensors |= stored
    inputs = [f"{name}.weights", *stored, *map(table_name, fields)]
    nodes.call(part_name(width, wide), inputs, [name], part(width, wide))


def _split(nodes: GraphNodes, name: str, parts: Sequence[Numbers], memory: int, count: int) -> None:
    """Add a node that divides a stream of `count` numbers into its parts."""
    outputs: dict[str, int] = {}
    for i, each in enumerate(parts):
        outputs |= {f"{name}.start_{i}": memory, each.name: len(each.values)}
    outputs[f"{name}.unused"] = count - sum(outputs.values())
    outputs = {each: size for each, size in outputs.items() if size}
    nodes.tensors[f"{name}.sizes"] = np.array(list(outputs.values()), np.int64)
    nodes.add("Split", [name, f"{name}.sizes"], list(outputs), axis=0)


def _add_steps(nodes: GraphNodes, name: str, parts: Sequence[Numbers]) -> dict[str, str]:
    """Add the steps of the table of a stream for each middle; return their names by those that the parts use."""
    middles = sorted({each.middle for each in parts})
    for i, middle in enumerate(middles):
        nodes.tensors[f"{name}.middle_{i}"] = np.array(middle, np.float32)
        nodes.call("Steps", [f"{name}.values", f"{name}.middle_{i}"], [f"{name}.steps_{i}"])
    return {each.steps: f"{name}.steps_{middles.index(each.middle)}" for each in parts}


def _code_tensors(code: PrefixCode, memory: int) -> dict[str, Any]:
    """Return the tensors of the functions that decode a prefix code, by name."""
    kind = np.int32 if len(code.symbols) > MOST_BYTE_CODES else np.uint8
    lasts = [(limit - 1) * scale for limit, scale in zip(code.limits, code.scales, strict=False)]
    lengths = [_filled(len(each)) for each in code.parts[:-1]]
    blocks, padding = blocks_of(sum(lengths))
    return {
        "lasts": np.array(lasts).astype(kind),
        "lengths": np.array([*lengths, padding], np.int64),
        "blocks": blocks,
        "padding": np.zeros(padding, np.uint8),
        "offsets": np.cumsum([len(each) for each in code.parts[1:-1]], dtype=np.int32),
        # The two lowest bits are those of the path.
        "symbols": ((code.symbols << code.raw) + code.offset << (1 if memory else 0)).astype(np.int32),
        **({"subsets": window_subsets(memory), "path": pack(code.below, 1)[0]} if memory else {}),
    }


def _filled(count: int) -> int:
    """Return the count of numbers that fill whole bytes."""
    return -(-count // NUMBERS) * NUMBERS


def blocks_of(flags: int) -> tuple[NDArray[np.int64], int]:
    """Return the shape of the blocks of flags for the function `Places`, and the number of flags that are missing."""
    blocks = flags // FLAGS + 1
    side = math.isqrt(blocks)
    width = min(range(side, 2 * side + 1), key=lambda width: -blocks % width)
    height = -(-blocks // width)
    return np.array([height, width], np.int64), height * width * FLAGS - flags


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

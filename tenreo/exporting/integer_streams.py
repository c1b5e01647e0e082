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
    BEFORE,
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
        self._most = 1  # rows or columns of blocks of flags

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
            nodes.call("Tables", ["most"], [*map(table_name, FIELDS), TRIANGLE, BEFORE])
        for memory in sorted({memory for _, memory in clusters if memory}):
            nodes.tensors[f"subsets_{memory}"] = window_subsets(memory)
            nodes.call("SubsetTable", [f"subsets_{memory}"], [f"subset_table_{memory}"])
        for i, (cluster, memory) in enumerate(clusters):
            self._add_stream(nodes, f"stream_{i}", cluster, memory)
            if memory:
                names |= _add_steps(nodes, f"stream_{i}", cluster)
        nodes.tensors["most"] = np.array(self._most)
        users.use_first(nodes, names)

    def blocks_of(self, flags: int) -> NDArray[np.int64]:
        """Return the shape of the blocks of flags for the function `Places`, which have room for one more."""
        blocks = flags // FLAGS + 1
        side = math.isqrt(blocks)
        width = min(range(side, 2 * side + 1), key=lambda width: -blocks % width)
        height = -(-blocks // width)
        self._most = max(self._most, height, width)
        return np.array([height, width], np.int64)

    def _add_stream(self, nodes: GraphNodes, name: str, parts: Sequence[Numbers], memory: int) -> None:
        """Add the nodes that decode a stream and divide it into its parts."""
        code = _trellis_code(parts, memory) if memory else encode_integers(np.concatenate([x.values for x in parts]))
        if not len(code.symbols):
            _add_numbers(nodes, f"{name}.unsigned", code.parts[0], code.widths[0], wide=True)
            nodes.tensors[f"{name}.offset"] = np.array(code.offset, np.int32)
            nodes.add("Add", [f"{name}.unsigned", f"{name}.offset"], [name])
            _split(nodes, name, parts, memory, _filled(len(code.parts[0])))
            return
        size = _size(code, memory)
        factor = 4 if memory and size != "Long" else 1  # the lowest bits of a place in a table are those of its subset
        blocks = [self.blocks_of(len(numbers)) for numbers in code.parts[:-1]]
        counts = [*(FLAGS * int(each.prod()) for each in blocks), _filled(len(code.parts[-1]))]
        for i, (numbers, width, scale) in enumerate(zip(code.parts, code.widths, code.scales, strict=True)):
            _add_numbers(
                nodes, f"{name}.part_{i}", _filled_up(numbers, counts[i]), width, scale * factor, size == "Wide"
            )
        below = _filled_up(code.below, counts[0])
        if memory:
            nodes.tensors[f"{name}.path"] = pack(below, 1)[0]
        elif code.raw:
            _add_numbers(nodes, f"{name}.below", below, code.raw, wide=True)
        tensors = _code_tensors(code, memory, factor, size) | {f"blocks_{i}": each for i, each in enumerate(blocks)}
        nodes.tensors |= {f"{name}.{each}": values for each, values in tensors.items()}
        traits = code.levels, code.raw > 0, memory, size
        inputs = [f"{name}.{each}" for each in stream_inputs(*traits[:3])]
        inputs += [f"subset_table_{memory}"] if memory else []
        inputs += [TRIANGLE, BEFORE] if code.levels else []
        nodes.call(stream_name(*traits), inputs, [name, f"{name}.values"] if memory else [name], stream(*traits))
        _split(nodes, name, parts, memory, counts[0])


def _size(code: PrefixCode, memory: int) -> str:
    """Return which numbers of a stream do not fit into bytes; see `stream`."""
    if len(code.symbols) > MOST_BYTE_CODES:
        return "Wide"
    return "Long" if memory and 4 * len(code.symbols) > MOST_BYTE_CODES else ""


def _filled_up(numbers: Integers, count: int) -> Integers:
    """Append zeros until there are `count` numbers."""
    return np.append(numbers, np.zeros(count - len(numbers), np.int64))


def _add_numbers(
    nodes: GraphNodes, name: str, numbers: Integers, width: int, scale: int = 1, wide: bool = False
) -> None:  # fmt: skip
    """Add a node that decodes numbers of a width, times a scale; bytes are what they are stored as."""
    fields = field_widths(width)
    stored = pack(numbers, width)
    if fields == [8] and scale == 1 and not wide:
        nodes.tensors[name] = stored[0]
        return
    below = [width - sum(fields[: i + 1]) for i in range(len(fields))]
    nodes.tensors[f"{name}.weights"] = np.array([scale << each for each in below], np.int32)
    nodes.tensors |= {f"{name}.bits_{i}": each for i, each in zip(below, stored, strict=True)}
    inputs = [f"{name}.weights", *(f"{name}.bits_{i}" for i in below), *map(table_name, fields)]
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


def _code_tensors(code: PrefixCode, memory: int, factor: int, size: str) -> dict[str, Any]:
    """Return the tensors of the function that decodes a prefix code, by name; its ranks are multiples of the factor."""
    # The two lowest bits are those of the path.
    tensors = {"symbols": ((code.symbols << code.raw) + code.offset << (1 if memory else 0)).astype(np.int32)}
    if code.levels:
        lasts = [(limit - 1) * scale * factor for limit, scale in zip(code.limits, code.scales, strict=False)]
        tensors["lasts"] = np.array(lasts).astype(np.int32 if size == "Wide" else np.uint8)
    return tensors


def _filled(count: int) -> int:
    """Return the count of numbers that fill whole bytes."""
    return -(-count // NUMBERS) * NUMBERS


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

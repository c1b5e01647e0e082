"""The ONNX functions that decode streams of integers, in the textual syntax of `onnx.parser`.

They decode `tenreo.codec.prefix_code` and integers of fixed width. A runtime that decodes when it loads a model keeps
all intermediate results until the end, and spends most of the time on their memory. So numbers are bytes wherever
possible, and tensors get their shapes as bytes. A Gather of single numbers takes as long as ten sums, and a Where as
seven.

OpenVINO evaluates when it loads a model only what its operators can do without a plugin: neither CumSum nor BitShift,
no product and no maximum of bytes. Whatever follows one of these is decoded later, in several times the time.
"""

from tenreo.codec.prefix_code import FIELDS, field_widths

DOMAIN = "tenreo"
MOST_BYTE_CODES = 256  # codes of a stream whose numbers are bytes
FLAGS = 64  # in a block of the function `Places`
TRIANGLE, BEFORE = "triangle", "before"


def table_name(field: int) -> str:
    """Return the name of the table with the numbers of a width in every byte."""
    return f"fields_{field}"


def _tables() -> str:
    """Return the text of the function of the tables that all streams use."""
    lines = [
        f"Tables (most) => ({', '.join(map(table_name, FIELDS))}, {TRIANGLE}, {BEFORE}) {{",
        "zero = Constant <value_int = 0> ()", "one = Constant <value_int = 1> ()",
        "values = Constant <value_int = 256> ()", "column = Constant <value_ints = [-1, 1]> ()",
        f"side = Constant <value_int = {FLAGS}> ()",
        "bytes = Range (zero, values, one)", "rows = Reshape (bytes, column)",
    ]  # fmt: skip
    for field in FIELDS:
        weights = [1 << shift for shift in range(8 - field, -1, -field)]
        lines += [
            f"weights_{field} = Constant <value_ints = {weights}> ()",
            f"base_{field} = Constant <value_int = {1 << field}> ()",
            f"shifted_{field} = Div (rows, weights_{field})",
            f"numbers_{field} = Mod (shifted_{field}, base_{field})",
            f"{table_name(field)} = Cast <to = 6> (numbers_{field})",
        ]
    lines += [
        f"matrix = {DOMAIN}.Triangle (side, one)", f"{TRIANGLE} = Cast <to = 2> (matrix)",
        f"{BEFORE} = {DOMAIN}.Triangle (most, zero)",
    ]  # fmt: skip
    return "\n  ".join(lines) + "\n}"


FUNCTIONS = {
    # For each width of fields, the numbers in every byte, (256, 8 / width); and two triangles for `Places`, the second
    # with `most` rows. OpenVINO rounds when it divides bytes, so the quotients are those of int64.
    "Tables": _tables(),
    # A square matrix that is 1 where the row is less than the column plus `diagonal`, and 0 elsewhere.
    "Triangle": """
Triangle (side, diagonal) => (matrix) {
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  column = Constant <value_ints = [-1, 1]> ()
  columns = Range (zero, side, one)
  rows = Reshape (columns, column)
  ends = Add (columns, diagonal)
  before = Less (rows, ends)
  matrix = Cast <to = 6> (before)
}""",
    # The numbers in the fields of bytes, as bytes, times a weight.
    "Field": """
Field (bytes, table, weight) => (numbers) {
  all = Constant <value_ints = [-1]> ()
  weighted = Mul (table, weight)
  small = Cast <to = 2> (weighted)
  places = Cast <to = 6> (bytes)
  rows = Gather (small, places)
  numbers = Reshape (rows, all)
}""",
    # The same in int32.
    "WideField": """
WideField (bytes, table, weight) => (numbers) {
  all = Constant <value_ints = [-1]> ()
  weighted = Mul (table, weight)
  places = Cast <to = 6> (bytes)
  rows = Gather (weighted, places)
  numbers = Reshape (rows, all)
}""",
    # The elements of a vector at places, which are a vector, too. With GatherElements, ONNX Runtime loads a large model
    # in 80 % of the time, but OpenVINO takes several times as long, and ONNX's reference evaluator cannot run it.
    "Pick": """
Pick (vector, places) => (elements) {
  elements = Gather (vector, places)
}""",
    # The cumulative sum of flags, in rows of 64, whose number is the product of `blocks`, as products with triangles:
    # that of 64 flags each, plus the sum of all flags before these.
    "Places": """
Places (flags, blocks, triangle, before) => (places) {
  column = Constant <value_ints = [-1, 1]> ()
  begin = Constant <value_ints = [0, 0]> ()
  axis = Constant <value_ints = [1]> ()
  last = Constant <value_int = 63> ()
  row_shape = Constant <value_ints = [-1, 64]> ()
  height, width = Split <axis = 0, num_outputs = 2> (blocks)
  height_square = Concat <axis = 0> (height, height)
  width_square = Concat <axis = 0> (width, width)
  rows = Reshape (flags, row_shape)
  within = MatMulInteger (rows, triangle)
  counts = Gather <axis = 1> (within, last)
  matrix = Reshape (counts, blocks)
  across = Slice (before, begin, width_square)
  down = Slice (before, begin, height_square)
  left = MatMul (matrix, across)
  sums = ReduceSum <keepdims = 0> (matrix, axis)
  above = MatMul (sums, down)
  above_column = Reshape (above, column)
  earlier = Add (left, above_column)
  earlier_column = Reshape (earlier, column)
  places = Add (within, earlier_column)
}""",
    # Adds the ranks of the next parts to the numbers of a part of a prefix code that have a flag: the first flag gets
    # the first rank. Bytes of 255 keep what belongs to a flag.
    "Join": """
Join (numbers, next, flags, blocks, triangle, before) => (ranks) {
  none = Constant <value = uint8[1] {0}> ()
  all = Constant <value_ints = [-1]> ()
  places = tenreo.Places (flags, blocks, triangle, before)
  room = Concat <axis = 0> (none, next)
  flat_places = Reshape (places, all)
  candidates = tenreo.Pick (room, flat_places)
  mask = Sub (none, flags)
  found = Min (candidates, mask)
  ranks = Add (numbers, found)
}""",
    "WideJoin": """
WideJoin (numbers, next, flags, blocks, triangle, before) => (ranks) {
  none = Constant <value = int32[1] {0}> ()
  all = Constant <value_ints = [-1]> ()
  byte_flags = Cast <to = 2> (flags)
  places = tenreo.Places (byte_flags, blocks, triangle, before)
  room = Concat <axis = 0> (none, next)
  flat_places = Reshape (places, all)
  candidates = tenreo.Pick (room, flat_places)
  found = Mul (candidates, flags)
  ranks = Add (numbers, found)
}""",
    # For every bit of the second of two bytes, the subset by the window of bits that ends with it, (65536, 8) bytes.
    "SubsetTable": """
SubsetTable (subsets) => (table) {
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  pairs = Constant <value_int = 65536> ()
  column = Constant <value_ints = [-1, 1]> ()
  shifts = Constant <value_ints = [128, 64, 32, 16, 8, 4, 2, 1]> ()
  numbers = Range (zero, pairs, one)
  rows = Reshape (numbers, column)
  lowered = Div (rows, shifts)
  size = Shape (subsets)
  windows = Mod (lowered, size)
  table = Gather (subsets, windows)
}""",
    # The subsets of the positions on a path through a trellis, from its bits.
    "Subsets": """
Subsets (path, table) => (subsets) {
  all = Constant <value_ints = [-1]> ()
  begin = Constant <value_ints = [0]> ()
  end = Constant <value_ints = [-1]> ()
  none = Constant <value = uint8[1] {0}> ()
  values = Constant <value = int32 {256}> ()
  leading = Slice (path, begin, end)
  preceding = Concat <axis = 0> (none, leading)
  low = Cast <to = 6> (path)
  earlier = Cast <to = 6> (preceding)
  high = Mul (earlier, values)
  pairs = Add (high, low)
  rows = Gather (table, pairs)
  subsets = Reshape (rows, all)
}""",
}


def part_name(width: int, wide: bool) -> str:
    """Return the name of the function that decodes numbers of a width."""
    return f"{'Wide' * wide}Part{width}"


def part(width: int, wide: bool) -> str:
    """Return the text of a function that decodes numbers from the bytes of their fields, whose tables follow the bytes.

    Args:
        width: bits of a number.
        wide: whether the results are int32 instead of bytes.
    """
    count = len(field_widths(width))
    fields = [f"field_{i}" for i in range(count)] if count > 1 else ["numbers"]
    sums = ["field_0", *(f"sum_{i}" for i in range(1, count - 1)), "numbers"]
    inputs = [f"{kind}_{i}" for kind in ("bytes", "table") for i in range(count)]
    function = f"{DOMAIN}.{'Wide' * wide}Field"
    lines = [
        f"{part_name(width, wide)} (weights, {', '.join(inputs)}) => (numbers) {{",
        *split_lines("weights", "weight", count),
        *(f"{field} = {function} (bytes_{i}, table_{i}, weight_{i})" for i, field in enumerate(fields)),
        *(f"{sums[i]} = Add ({sums[i - 1]}, {fields[i]})" for i in range(1, count)),
    ]
    return "\n  ".join(lines) + "\n}"


def stream_name(levels: int, raw: bool, memory: int, size: str) -> str:
    """Return the name of the function of a stream with a prefix code."""
    return f"Stream{levels}" + ("Trellis" if memory else "Raw" if raw else "") + size


def stream_inputs(levels: int, raw: bool, memory: int) -> list[str]:
    """Return the names of the inputs of a stream with a prefix code that are not shared with other streams."""
    parts = [f"part_{i}" for i in range(levels + 1)]
    joined = ["lasts", *(f"blocks_{i}" for i in range(levels))] if levels else []
    lowest = ["path"] if memory else ["below"] if raw else []
    return [*parts, *joined, "symbols", *lowest]


def stream(levels: int, raw: bool, memory: int, size: str) -> str:
    """Return the text of a function that decodes a stream of numbers with a prefix code.

    With a trellis, its results are places in a table and that table, which contains the numbers.

    Args:
        levels: parts of the prefix code after the first.
        raw: whether the lowest bits of the numbers are stored as they are.
        memory: memory of the trellis, in bits, whose path the raw bits are; 0: no trellis.
        size: "Wide" if the codes do not fit into bytes, "Long" if only the places in the table do not.
    """
    shared = [*(["subset_table"] if memory else []), *([TRIANGLE, BEFORE] if levels else [])]
    inputs = [*stream_inputs(levels, raw, memory), *shared]
    results = "places, values" if memory else "numbers"
    lines = [f"{stream_name(levels, raw, memory, size)} ({', '.join(inputs)}) => ({results}) {{"]
    lines += _joined(levels, size == "Wide") if levels else []
    ranks = "ranks_0" if levels else "part_0"
    if memory:
        lines += _on_trellis(ranks, size)
    else:
        lines += [
            f"codes = Cast <to = 6> ({ranks})",
            f"{'found' if raw else 'numbers'} = {DOMAIN}.Pick (symbols, codes)",
            *(["numbers = Add (found, below)"] if raw else []),
        ]
    return "\n  ".join(lines) + "\n}"


def _on_trellis(ranks: str, size: str) -> list[str]:
    """Return the lines that find places in the table of all symbols with all subsets; the ranks are four times theirs.

    In a long stream, they are not, since they are bytes.
    """
    lines = [f"subsets = {DOMAIN}.Subsets (path, subset_table)"]
    subsets = "subsets"
    if size:
        lines.append("wide_subsets = Cast <to = 6> (subsets)")
        subsets = "wide_subsets"
    if size == "Long":
        lines += [
            f"codes = Cast <to = 6> ({ranks})", "four = Constant <value = int32 {4}> ()", "rows = Mul (codes, four)",
        ]  # fmt: skip
        ranks = "rows"
    lines += [
        f"places = Add ({ranks}, {subsets})",
        "column = Constant <value_ints = [-1, 1]> ()", "all = Constant <value_ints = [-1]> ()",
        "four_subsets = Constant <value = int32[4] {0, 1, 2, 3}> ()", "symbol = Reshape (symbols, column)",
        "pairs = Add (symbol, four_subsets)", "values = Reshape (pairs, all)",
    ]  # fmt: skip
    return lines


def _joined(levels: int, wide: bool) -> list[str]:
    """Return the lines that join the parts of a prefix code, where larger numbers than the last one have a flag."""
    lines = [f"one = Constant <value = {'int32' if wide else 'uint8'} {{1}}> ()"]
    lines += split_lines("lasts", "last", levels)
    for i in reversed(range(levels)):
        ranks = f"part_{levels}" if i == levels - 1 else f"ranks_{i + 1}"
        inputs = f"part_{i}, {ranks}, flags_{i}, blocks_{i}, {TRIANGLE}, {BEFORE}"
        lines += [
            f"complete_{i} = Min (part_{i}, last_{i})",
            f"longer_{i} = Sub (part_{i}, complete_{i})",
            f"flags_{i} = Min (longer_{i}, one)",
            f"ranks_{i} = {DOMAIN}.{'Wide' * wide}Join ({inputs})",
        ]
    return lines


def split_lines(vector: str, name: str, count: int) -> list[str]:
    """Return the lines that divide a vector into numbers."""
    if count == 1:
        return [f"{name}_0 = Squeeze ({vector})"]
    names = ", ".join(f"{name}_{i}" for i in range(count))
    return [f"{names} = Split <axis = 0, num_outputs = {count}> ({vector})"]

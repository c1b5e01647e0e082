"""The ONNX functions that decode streams of integers, in the textual syntax of `onnx.parser`.

They decode `tenreo.codec.prefix_code` and integers of fixed width. A runtime that decodes when it loads a model keeps
all intermediate results until the end, and spends most of the time on their memory. So numbers are bytes wherever
possible. A Gather of single numbers takes as long as ten sums, and a Where as seven.

OpenVINO evaluates when it loads a model only what its operators can do without a plugin: neither CumSum nor BitShift,
no product and no maximum of bytes. Whatever follows one of these is decoded later, in several times the time.
"""

from tenreo.codec.prefix_code import FIELDS, field_widths

DOMAIN = "tenreo"
MOST_BYTE_CODES = 256  # codes of a stream whose numbers are bytes
FLAGS = 64  # in a block of the function `Places`
TRIANGLE = "triangle"


def table_name(field: int) -> str:
    """Return the name of the table with the numbers of a width in every byte."""
    return f"fields_{field}"


def _tables() -> str:
    """Return the text of the function of the tables that all streams use."""
    lines = [
        f"Tables () => ({', '.join(map(table_name, FIELDS))}, {TRIANGLE}) {{",
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
    lines += [f"matrix = {DOMAIN}.Triangle (side, one)", f"{TRIANGLE} = Cast <to = 2> (matrix)"]
    return "\n  ".join(lines) + "\n}"


FUNCTIONS = {
    # For each width of fields, the numbers in every byte, (256, 8 / width); and a triangle for `Places`. OpenVINO
    # rounds when it divides bytes, so the quotients are those of int64.
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
    # The cumulative sum of flags, whose number is 64 times the product of `blocks`, as products with triangles: that of
    # 64 flags each, plus the sum of all flags before these.
    "Places": """
Places (flags, blocks, triangle) => (places) {
  all = Constant <value_ints = [-1]> ()
  column = Constant <value_ints = [-1, 1]> ()
  zero = Constant <value_int = 0> ()
  axis = Constant <value_ints = [1]> ()
  last = Constant <value_int = 63> ()
  row_shape = Constant <value_ints = [-1, 64]> ()
  height, width = Split <axis = 0, num_outputs = 2> (blocks)
  height_number = Squeeze (height)
  width_number = Squeeze (width)
  rows = Reshape (flags, row_shape)
  within = MatMulInteger (rows, triangle)
  counts = Gather <axis = 1> (within, last)
  matrix = Reshape (counts, blocks)
  across = tenreo.Triangle (width_number, zero)
  down = tenreo.Triangle (height_number, zero)
  left = MatMul (matrix, across)
  sums = ReduceSum <keepdims = 0> (matrix, axis)
  above = MatMul (sums, down)
  above_column = Reshape (above, column)
  before = Add (left, above_column)
  before_column = Reshape (before, column)
  sum = Add (within, before_column)
  places = Reshape (sum, all)
}""",
    # Adds the ranks of the next parts to the numbers of a part of a prefix code that have a flag; `places` say which of
    # the ranks, from 1 on. Bytes of 255 keep what belongs to a flag.
    "Join": """
Join (numbers, next, flags, places) => (ranks) {
  none = Constant <value = uint8[1] {0}> ()
  room = Concat <axis = 0> (none, next)
  candidates = Gather (room, places)
  mask = Sub (none, flags)
  found = Min (candidates, mask)
  ranks = Add (numbers, found)
}""",
    "WideJoin": """
WideJoin (numbers, next, flags, places) => (ranks) {
  none = Constant <value = int32[1] {0}> ()
  room = Concat <axis = 0> (none, next)
  candidates = Gather (room, places)
  found = Mul (candidates, flags)
  ranks = Add (numbers, found)
}""",
    # For every bit of bytes, the number that it forms with the preceding bits; `size` is 2^bits. The number consists
    # of the bits of the same byte and those of the byte before, so that tables have both for every byte.
    "Windows": """
Windows (bytes, size) => (windows) {
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  values = Constant <value_int = 256> ()
  column = Constant <value_ints = [-1, 1]> ()
  all = Constant <value_ints = [-1]> ()
  begin = Constant <value_ints = [0]> ()
  end = Constant <value_ints = [-1]> ()
  down = Constant <value_ints = [128, 64, 32, 16, 8, 4, 2, 1]> ()
  up = Constant <value_ints = [2, 4, 8, 16, 32, 64, 128, 256]> ()
  none = Constant <value = uint8[1] {0}> ()
  numbers = Range (zero, values, one)
  rows = Reshape (numbers, column)
  lowered = Div (rows, down)
  raised = Mul (rows, up)
  own_numbers = Mod (lowered, size)
  earlier_numbers = Mod (raised, size)
  own_table = Cast <to = 6> (own_numbers)
  earlier_table = Cast <to = 6> (earlier_numbers)
  leading = Slice (bytes, begin, end)
  preceding = Concat <axis = 0> (none, leading)
  places = Cast <to = 6> (bytes)
  earlier_places = Cast <to = 6> (preceding)
  own = Gather (own_table, places)
  earlier = Gather (earlier_table, earlier_places)
  sum = Add (own, earlier)
  windows = Reshape (sum, all)
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


def stream_name(levels: int, raw: bool, memory: int, wide: bool) -> str:
    """Return the name of the function of a stream with a prefix code."""
    return f"Stream{levels}" + (f"Trellis{memory}" if memory else "Raw" if raw else "") + ("Wide" if wide else "")


def stream_inputs(levels: int, raw: bool, memory: int) -> list[str]:
    """Return the names of the inputs of a stream with a prefix code."""
    parts = [f"part_{i}" for i in range(levels + 1)]
    joined = ["lasts", "lengths", "blocks", "padding"] if levels else []
    offsets = ["offsets"] if levels > 1 else []
    lowest = ["subsets", "path"] if memory else ["below"] if raw else []
    return [*parts, *joined, *offsets, "symbols", *lowest]


def stream(levels: int, raw: bool, memory: int, wide: bool) -> str:
    """Return the text of a function that decodes a stream of numbers with a prefix code.

    With a trellis, its results are places in a table and that table, which contains the numbers.

    Args:
        levels: parts of the prefix code after the first.
        raw: whether the lowest bits of the numbers are stored as they are.
        memory: memory of the trellis, in bits, whose path the raw bits are; 0: no trellis.
        wide: whether there are more than `MOST_BYTE_CODES` codes.
    """
    inputs = [*stream_inputs(levels, raw, memory), *([TRIANGLE] if levels else [])]
    results = "places, values" if memory else "numbers"
    lines = [f"{stream_name(levels, raw, memory, wide)} ({', '.join(inputs)}) => ({results}) {{"]
    lines += _joined(levels, wide) if levels else []
    lines.append(f"codes = Cast <to = 6> ({'ranks_0' if levels else 'part_0'})")
    if memory:
        lines += [
            f"size = Constant <value_int = {2 << memory}> ()", f"windows = {DOMAIN}.Windows (path, size)",
            f"row_size = Constant <value = int32 {{{2 << memory}}}> ()", "row = Mul (codes, row_size)",
            "places = Add (row, windows)",
            "column = Constant <value_ints = [-1, 1]> ()", "all = Constant <value_ints = [-1]> ()",
            "symbol = Reshape (symbols, column)", "subset = Cast <to = 6> (subsets)", "pairs = Add (symbol, subset)",
            "values = Reshape (pairs, all)",
        ]  # fmt: skip
    elif raw:
        lines += ["found = Gather (symbols, codes)", "numbers = Add (found, below)"]
    else:
        lines.append("numbers = Gather (symbols, codes)")
    return "\n  ".join(lines) + "\n}"


def _joined(levels: int, wide: bool) -> list[str]:
    """Return the lines that join the parts of a prefix code, where larger numbers than the last one have a flag."""
    lines = [f"one = Constant <value = {'int32' if wide else 'uint8'} {{1}}> ()"]
    lines += split_lines("lasts", "last", levels)
    for i in range(levels):
        lines += [
            f"complete_{i} = Min (part_{i}, last_{i})",
            f"longer_{i} = Sub (part_{i}, complete_{i})",
            f"flags_{i} = Min (longer_{i}, one)",
        ]
    flags = [f"flags_{i}" for i in range(levels)]
    if wide:
        lines += [f"byte_{flag} = Cast <to = 2> ({flag})" for flag in flags]
        flags = [f"byte_{flag}" for flag in flags]
    sums = ["places_0", *(f"sums_{i}" for i in range(1, levels))]
    lines += [
        f"flags = Concat <axis = 0> ({', '.join(flags)}, padding)",
        f"sums = {DOMAIN}.Places (flags, blocks, {TRIANGLE})",
        f"{', '.join(sums)}, unused = Split <axis = 0> (sums, lengths)",
        *(split_lines("offsets", "offset", levels - 1) if levels > 1 else []),
        *(f"places_{i} = Sub (sums_{i}, offset_{i - 1})" for i in range(1, levels)),
    ]
    for i in reversed(range(levels)):
        ranks = f"part_{levels}" if i == levels - 1 else f"ranks_{i + 1}"
        lines.append(f"ranks_{i} = {DOMAIN}.{'Wide' * wide}Join (part_{i}, {ranks}, flags_{i}, places_{i})")
    return lines


def split_lines(vector: str, name: str, count: int) -> list[str]:
    """Return the lines that divide a vector into numbers."""
    if count == 1:
        return [f"{name}_0 = Squeeze ({vector})"]
    names = ", ".join(f"{name}_{i}" for i in range(count))
    return [f"{names} = Split <axis = 0, num_outputs = {count}> ({vector})"]

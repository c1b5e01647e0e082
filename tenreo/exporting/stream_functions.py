"""The ONNX functions that decode streams of integers, in the textual syntax of `onnx.parser`.

They decode `tenreo.codec.prefix_code` and integers of fixed width. A runtime that decodes when it loads a model keeps
all intermediate results until the end, and spends most of the time on their memory. So numbers are bytes wherever
possible. A Gather of single numbers takes as long as ten sums, and a Where as seven.
"""

DOMAIN = "tenreo"
MOST_BYTE_CODES = 256  # codes of a stream whose numbers are bytes

FUNCTIONS = {
    # The bits of bytes, the highest first, are looked up in a table with a row for every byte. OpenVINO rounds when it
    # divides or shifts bytes, so the table is computed in int64.
    "Bits": """
Bits (bytes) => (bits) {
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  values = Constant <value_int = 256> ()
  column = Constant <value_ints = [-1, 1]> ()
  all = Constant <value_ints = [-1]> ()
  powers = Constant <value_ints = [128, 64, 32, 16, 8, 4, 2, 1]> ()
  two = Constant <value_int = 2> ()
  numbers = Range (zero, values, one)
  rows = Reshape (numbers, column)
  shifted = Div (rows, powers)
  lowest = Mod (shifted, two)
  table = Cast <to = 2> (lowest)
  places = Cast <to = 6> (bytes)
  octets = Gather (table, places)
  bits = Reshape (octets, all)
}""",
    # Bit planes of the shape (width, -1), as (count,) numbers. The bit of each plane counts as much as its entry in
    # `powers`, which are bytes, so the width is at most 8.
    "Numbers": """
Numbers (planes, shape, powers) => (numbers) {
  all = Constant <value_ints = [-1]> ()
  matrix = Reshape (planes, shape)
  product = MatMulInteger (powers, matrix)
  numbers = Reshape (product, all)
}""",
    # The same with `powers` in float32, for any width up to 24.
    "WideNumbers": """
WideNumbers (planes, powers) => (numbers) {
  all = Constant <value_ints = [-1]> ()
  width = Shape (powers)
  shape = Concat <axis = 0> (width, all)
  matrix = Reshape (planes, shape)
  ones_and_zeros = Cast <to = 1> (matrix)
  product = MatMul (powers, ones_and_zeros)
  numbers = Cast <to = 6> (product)
}""",
    # Joins the numbers of a part of a prefix code with those of the next part. Numbers up to `last` are complete; each
    # of the others begins `following` codes, and the next number says which one it is. Without a condition, complete
    # numbers are those that have nothing above `last`.
    "Join": """
Join (numbers, next, last, following, one, none) => (ranks) {
  axis = Constant <value_int = 0> ()
  beyond = Max (numbers, last)
  longer = Sub (beyond, last)
  flags = Min (longer, one)
  marks = Cast <to = 6> (flags)
  places = CumSum (marks, axis)
  room = Concat <axis = 0> (none, next)
  candidates = Gather (room, places)
  found = Mul (candidates, flags)
  groups = Sub (longer, flags)
  skipped = Mul (groups, following)
  complete = Min (numbers, last)
  first = Add (complete, flags)
  start = Add (first, skipped)
  ranks = Add (start, found)
}""",
    # A stream of numbers of fixed width.
    "Planes": """
Planes (bytes, sizes, powers, offset) => (numbers) {
  bits = tenreo.Bits (bytes)
  leading, unused = Split <axis = 0> (bits, sizes)
  unsigned = tenreo.WideNumbers (leading, powers)
  numbers = Add (unsigned, offset)
}""",
}


def stream_name(levels: int, raw: bool, memory: int, wide: bool) -> str:
    """Return the name of the function of a stream with a prefix code."""
    return f"Stream{levels}" + (f"Trellis{memory}" if memory else "Raw" if raw else "") + ("Wide" if wide else "")


def stream_inputs(levels: int, raw: bool, memory: int) -> list[str]:
    """Return the names of the inputs of a stream with a prefix code."""
    joined = ["lasts", "following"] if levels else []
    lowest = ["path"] if memory else ["raw_powers"] if raw else []
    return ["bytes", "sizes", "shapes", "widths", "powers", *joined, "symbols", *lowest]


def stream(levels: int, raw: bool, memory: int, wide: bool) -> str:
    """Return the text of a function that decodes a stream of numbers with a prefix code.

    With a trellis, its results are places in a table and that table, which contains the numbers.

    Args:
        levels: parts of the prefix code after the first.
        raw: whether the lowest bits of the numbers are stored as they are.
        memory: memory of the trellis, in bits, whose path the raw bits are; 0: no trellis.
        wide: whether there are more than `MOST_BYTE_CODES` codes.
    """
    planes = [f"planes_{i}" for i in range(levels + 1)] + (["lowest"] if raw else [])
    kind, number = ("int32", 6) if wide else ("uint8", 2)
    results = "places, values" if memory else "numbers"
    lines = [
        f"{stream_name(levels, raw, memory, wide)} ({', '.join(stream_inputs(levels, raw, memory))}) => ({results}) {{",
        f"bits = {DOMAIN}.Bits (bytes)",
        f"{', '.join(planes)}, unused = Split <axis = 0> (bits, sizes)",
        *_split("shapes", "shape", levels + 1),
        *_split("powers", "powers", levels + 1, "widths"),
    ]
    for i in range(levels + 1):
        lines += [
            f"integers_{i} = {DOMAIN}.Numbers (planes_{i}, shape_{i}, powers_{i})",
            f"part_{i} = Cast <to = {number}> (integers_{i})",
        ]
    if levels:
        lines += [f"one = Constant <value = {kind} {{1}}> ()", f"none = Constant <value = {kind}[1] {{0}}> ()"]
        lines += [*_split("lasts", "last", levels), *_split("following", "following", levels)]
    ranks = f"part_{levels}"
    for i in reversed(range(levels)):
        lines.append(f"ranks_{i} = {DOMAIN}.Join (part_{i}, {ranks}, last_{i}, following_{i}, one, none)")
        ranks = f"ranks_{i}"
    lines.append(f"codes = Cast <to = 6> ({ranks})")
    if memory:
        lines += _trellis(memory)
    elif raw:
        lines += [
            "found = Gather (symbols, codes)", f"below = {DOMAIN}.WideNumbers (lowest, raw_powers)",
            "numbers = Add (found, below)",
        ]  # fmt: skip
    else:
        lines.append("numbers = Gather (symbols, codes)")
    return "\n  ".join(lines) + "\n}"


def _split(vector: str, name: str, count: int, sizes: str = "") -> list[str]:
    """Return the lines that divide a vector into numbers, or into parts of given sizes."""
    if count == 1:
        return [f"{name}_0 = Identity ({vector})"]
    names = ", ".join(f"{name}_{i}" for i in range(count))
    if sizes:
        return [f"{names} = Split <axis = 0> ({vector}, {sizes})"]
    return [f"{names} = Split <axis = 0, num_outputs = {count}> ({vector})"]


def _trellis(memory: int) -> list[str]:
    """Return the lines that combine codes and windows of memory + 1 bits, for every number but the first `memory`."""
    lines = ["zero = Constant <value_ints = [0]> ()", "most = Constant <value_ints = [9223372036854775807]> ()"]
    windows = {1: "single"}
    # Nine bits do not fit into a byte.
    lines += ["single = Cast <to = 12> (lowest)" if memory > 7 else "single = Identity (lowest)"]
    kind = "uint32" if memory > 7 else "uint8"

    def window(bits: int) -> str:
        """Return the name of the windows of some bits, and add the lines that compute it from two shorter windows."""
        if bits not in windows:
            older, recent = bits // 2, bits - bits // 2
            far, near = window(older), window(recent)
            lines.extend([
                f"skip_{bits} = Constant <value_ints = [{older}]> ()",
                f"drop_{bits} = Constant <value_ints = [-{recent}]> ()",
                f"shift_{bits} = Constant <value = {kind} {{{recent}}}> ()",
                f"near_{bits} = Slice ({near}, skip_{bits}, most)",
                f"far_{bits} = Slice ({far}, zero, drop_{bits})",
                f'shifted_{bits} = BitShift <direction = "LEFT"> (far_{bits}, shift_{bits})',
                f"window_{bits} = Add (near_{bits}, shifted_{bits})",
            ])  # fmt: skip
            windows[bits] = f"window_{bits}"
        return windows[bits]

    last = window(memory + 1)
    return [
        *lines,
        "column = Constant <value_ints = [-1, 1]> ()",
        "all = Constant <value_ints = [-1]> ()",
        "symbol = Reshape (symbols, column)",
        "subsets = Cast <to = 6> (path)",
        "pairs = Add (symbol, subsets)",
        "values = Reshape (pairs, all)",
        f"warm_up = Constant <value_ints = [{memory}]> ()",
        f"windows = Constant <value = int32 {{{2 << memory}}}> ()",
        "steady = Slice (codes, warm_up, most)",
        "row = Mul (steady, windows)",
        f"entry = Cast <to = 6> ({last})",
        "places = Add (row, entry)",
    ]

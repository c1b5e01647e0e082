"""The ONNX functions that decode streams of integers, in the textual syntax of `onnx.parser`.

They decode `tenreo.codec.prefix_code` and integers of fixed width. Numbers are int32, and bits are uint8: the time is
spent on memory.
"""

DOMAIN = "tenreo"

FUNCTIONS = {
    # Bit i of N bytes is bit i / N of byte i % N, so that whole rows are shifted by the same number of bits.
    "Bits": """
Bits (bytes) => (bits) {
  row_shape = Constant <value_ints = [1, -1]> ()
  flat_shape = Constant <value_ints = [-1]> ()
  shifts = Constant <value = uint8[8, 1] {7, 6, 5, 4, 3, 2, 1, 0}> ()
  seven = Constant <value = uint8 {7}> ()
  row = Reshape (bytes, row_shape)
  highest = BitShift <direction = "LEFT"> (row, shifts)
  single = BitShift <direction = "RIGHT"> (highest, seven)
  bits = Reshape (single, flat_shape)
}""",
    # Bit planes, `shape` = (width, count), the highest first, as (count,) numbers; the width is at most 8.
    "Numbers": """
Numbers (planes, shape) => (numbers) {
  flat_shape = Constant <value_ints = [-1]> ()
  row_shape = Constant <value_ints = [1, -1]> ()
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  down = Constant <value_int = -1> ()
  unit = Constant <value = uint8 {1}> ()
  matrix = Reshape (planes, shape)
  width = Gather (shape, zero)
  highest = Sub (width, one)
  exponents = Range (highest, down, down)
  shifts = Cast <to = 2> (exponents)
  powers = BitShift <direction = "LEFT"> (unit, shifts)
  row = Reshape (powers, row_shape)
  product = MatMulInteger (row, matrix)
  numbers = Reshape (product, flat_shape)
}""",
    # The same for any width up to 24.
    "WideNumbers": """
WideNumbers (planes, shape) => (numbers) {
  flat_shape = Constant <value_ints = [-1]> ()
  row_shape = Constant <value_ints = [1, -1]> ()
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  down = Constant <value_int = -1> ()
  two = Constant <value_float = 2.0> ()
  matrix = Reshape (planes, shape)
  ones_and_zeros = Cast <to = 1> (matrix)
  width = Gather (shape, zero)
  highest = Sub (width, one)
  exponents = Range (highest, down, down)
  exponents_float = Cast <to = 1> (exponents)
  powers = Pow (two, exponents_float)
  row = Reshape (powers, row_shape)
  product = MatMul (row, ones_and_zeros)
  flat = Reshape (product, flat_shape)
  numbers = Cast <to = 6> (flat)
}""",
    # One depth of a canonical prefix code: codes below `count` end here, and the others have one of the next bits.
    # They are moved together with a scatter, since ONNX Runtime evaluates neither Compress nor NonZero beforehand.
    "Level": """
Level (prefixes, count, end, bits) => (ranks, longer, places, next) {
  zero = Constant <value = int32 {0}> ()
  one = Constant <value = int32 {1}> ()
  none = Constant <value = int32[1] {0}> ()
  first = Constant <value_ints = [0]> ()
  axis = Constant <value_int = 0> ()
  left = Sub (prefixes, count)
  longer = GreaterOrEqual (left, zero)
  ranks = Add (left, end)
  flags = Cast <to = 6> (longer)
  sums = CumSum (flags, axis)
  places = Sub (sums, one)
  size = Shape (bits)
  outside = Cast <to = 6> (size)
  targets = Where (longer, places, outside)
  numbers = Cast <to = 6> (bits)
  room = Concat <axis = 0> (numbers, none)
  filled = ScatterElements <axis = 0> (room, targets, left)
  rest = Slice (filled, first, size)
  twice = Add (rest, rest)
  next = Add (twice, numbers)
}""",
    "Merge": """
Merge (ranks, longer, places, deeper) => (merged) {
  found = Gather (deeper, places)
  merged = Where (longer, found, ranks)
}""",
    # A stream of numbers of fixed width.
    "Planes": """
Planes (bytes, sizes, offset, shape) => (numbers) {
  bits = tenreo.Bits (bytes)
  leading, unused = Split <axis = 0> (bits, sizes)
  unsigned = tenreo.WideNumbers (leading, shape)
  numbers = Add (unsigned, offset)
}""",
}


def stream_name(levels: int, raw: bool, memory: int, wide: bool) -> str:
    """Return the name of the function of a stream with a prefix code."""
    return f"Stream{levels}" + (f"Trellis{memory}" if memory else "Raw" if raw else "") + ("Wide" if wide else "")


def stream_inputs(raw: bool, memory: int) -> list[str]:
    """Return the names of the inputs of a stream with a prefix code."""
    shared = ["bytes", "sizes", "counts", "ends", "shape", "symbols"]
    return shared + (["path"] if memory else ["lowest_shape"] if raw else [])


def stream(levels: int, raw: bool, memory: int, wide: bool) -> str:
    """Return the text of a function that decodes a stream of numbers with a prefix code.

    Args:
        levels: depths of the prefix code after the first.
        raw: whether the lowest bits of the numbers are stored as they are.
        memory: memory of the trellis, in bits, whose path the raw bits are; 0: no trellis.
        wide: whether the shortest codes have more than eight bits.
    """
    planes = ["leading", *(f"bits_{i}" for i in range(1, levels + 1)), *(["lowest"] if raw else []), "unused"]
    lines = [
        f"{stream_name(levels, raw, memory, wide)} ({', '.join(stream_inputs(raw, memory))}) => (numbers) {{",
        f"bits = {DOMAIN}.Bits (bytes)",
        f"{', '.join(planes)} = Split <axis = 0> (bits, sizes)",
        *_split("counts", "count", levels + 1),
        *_split("ends", "end", levels + 1),
        f"prefixes_0 = {DOMAIN}.{'WideNumbers' if wide else 'Numbers'} (leading, shape)",
    ]
    for i in range(levels):
        lines.append(
            f"ranks_{i}, longer_{i}, places_{i}, prefixes_{i + 1} = "
            f"{DOMAIN}.Level (prefixes_{i}, count_{i}, end_{i}, bits_{i + 1})"
        )
    lines += [f"left = Sub (prefixes_{levels}, count_{levels})", f"all_{levels} = Add (left, end_{levels})"]
    for i in reversed(range(levels)):
        lines.append(f"all_{i} = {DOMAIN}.Merge (ranks_{i}, longer_{i}, places_{i}, all_{i + 1})")
    lines.append("found = Gather (symbols, all_0)")
    lines += _trellis(memory) if memory else _raw() if raw else ["numbers = Identity (found)"]
    return "\n  ".join(lines) + "\n}"


def _split(vector: str, name: str, count: int) -> list[str]:
    if count == 1:
        return [f"{name}_0 = Identity ({vector})"]
    names = ", ".join(f"{name}_{i}" for i in range(count))
    return [f"{names} = Split <axis = 0, num_outputs = {count}> ({vector})"]


def _raw() -> list[str]:
    return [f"below = {DOMAIN}.WideNumbers (lowest, lowest_shape)", "numbers = Add (found, below)"]


def _trellis(memory: int) -> list[str]:
    """Return the lines that look a window of memory + 1 bits up in a table, for every number but the first `memory`."""
    lines = ["zero = Constant <value_ints = [0]> ()", "most = Constant <value_ints = [9223372036854775807]> ()"]
    windows = {1: "single"}
    # Nine bits do not fit into a byte.
    lines += ["single = Cast <to = 12> (lowest)" if memory > 7 else "single = Identity (lowest)"]
    kind = "uint32" if memory > 7 else "uint8"

    def window(bits: int) -> str:
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
        f"entries = Cast <to = 6> ({last})",
        "subset = Gather (path, entries)",
        "below = Cast <to = 6> (subset)",
        f"warm_up = Constant <value_ints = [{memory}]> ()",
        "steady = Slice (found, warm_up, most)",
        "numbers = Add (steady, below)",
    ]

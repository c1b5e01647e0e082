"""The ONNX functions that decode a small model, in the textual syntax of `onnx.parser`.

A small model calls them where a dense model has initializers. They consist of standard operators that ONNX Runtime
evaluates once, when it loads the model. The functions of `tenreo.exporting.stream_functions` decode streams of numbers;
these turn them into tensors.
"""

import re
from typing import Any

from tenreo.errors import TenreoError
from tenreo.exporting import stream_functions
from tenreo.exporting.stream_functions import DOMAIN

OPSET = 14  # lowest version of the standard operators that has all that are used: Add of uint8
_SPLIT_COUNTS = 18  # version from which on Split needs the number of its outputs
_HEAD = f'<domain: "{DOMAIN}", opset_import: ["" : {{opset}}, "{DOMAIN}" : 1]>\n'

_FUNCTIONS = {
    # The samples of a ramp (tenreo.codec.ramp) at places; `scalars` are its middle, the offset, the step and the jump.
    # A cast to an integer rounds towards zero. OpenVINO loses the signs of a product with the result of Sign.
    "Samples": """
Samples (places, scalars) => (samples) {
  middle, offset, step, jump = Split <axis = 0, num_outputs = 4> (scalars)
  places_float = Cast <to = 1> (places)
  steps = Sub (places_float, middle)
  whole = Cast <to = 6> (steps)
  level = Cast <to = 1> (whole)
  one = Constant <value_float = 1.0> ()
  minus_one = Constant <value_float = -1.0> ()
  sign = Clip (level, minus_one, one)
  raised = Mul (level, step)
  lifted = Add (raised, offset)
  jumps = Mul (sign, jump)
  samples = Add (lifted, jumps)
}""",
    # A weight on a ramp, whose samples are looked up in a table: numbers below zero are places from the end of the
    # table. `sizes` are the numbers of samples from zero and below zero.
    "Ramp": """
Ramp (numbers, scalars, sizes, shape) => (weight) {
  above, below = Split <axis = 0, num_outputs = 2> (sizes)
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  above_count = Squeeze (above)
  below_count = Squeeze (below)
  first = Neg (below_count)
  from_zero = Range (zero, above_count, one)
  from_end = Range (first, zero, one)
  places = Concat <axis = 0> (from_zero, from_end)
  samples = tenreo.Samples (places, scalars)
  flat = tenreo.Pick (samples, numbers)
  weight = Reshape (flat, shape)
}""",
    # For the values of the table of a stream with a trellis, the three functions whose sum is a ramp: 1, the level, and
    # its sign.
    "Steps": """
Steps (values, middle) => (steps) {
  one = Constant <value_floats = [1.0]> ()
  least = Constant <value_float = -1.0> ()
  most = Constant <value_float = 1.0> ()
  rows = Constant <value_ints = [3, -1]> ()
  values_float = Cast <to = 1> (values)
  distance = Sub (values_float, middle)
  whole = Cast <to = 6> (distance)
  level = Cast <to = 1> (whole)
  sign = Clip (level, least, most)
  count = Shape (values)
  ones = Expand (one, count)
  flat = Concat <axis = 0> (ones, level, sign)
  steps = Reshape (flat, rows)
}""",
    # A weight on a ramp by places in that table; `scalars` are the offset, the step and the jump.
    "TrellisRamp": """
TrellisRamp (places, steps, scalars, shape) => (weight) {
  samples = MatMul (scalars, steps)
  indices = Cast <to = 6> (places)
  flat = tenreo.Pick (samples, indices)
  weight = Reshape (flat, shape)
}""",
    # Integer coefficients with a scale per row and band of frequencies, (rows, bands); the first `wider` bands have
    # one coefficient more than the others (tenreo.codec.precision).
    "Coefficients": """
Coefficients (numbers, scales, bands, shape) => (coefficients) {
  wide, narrow, wider = Split <axis = 0, num_outputs = 3> (bands)
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  own_float = Cast <to = 1> (numbers)
  matrix = Reshape (own_float, shape)
  count = Gather (shape, one)
  frequencies = Range (zero, count, one)
  border = Mul (wide, wider)
  in_wide = Div (frequencies, wide)
  beyond = Sub (frequencies, border)
  in_narrow = Div (beyond, narrow)
  later = Add (in_narrow, wider)
  first = Less (frequencies, border)
  band = Where (first, in_wide, later)
  scale = Gather <axis = 1> (scales, band)
  coefficients = Mul (matrix, scale)
}""",
    # The samples of a curve of `length` cosines at the positions of a folded signal (tenreo.codec.cosine). The
    # length is a b, frequency k is b i + j, and sample s is u + a v. With E(x) = exp(2 pi sqrt(-1) x),
    #   sample = Re sum over j of E(j v / b) E(j u / length) sum over i of Z[b i + j] E(i u / a)
    # and Z[k] = coefficient k times its scale times E(k / (4 length)). Angles are computed from integers.
    "Curve": """
Curve (numbers, coefficients, factors, shape) => (weight) {
  a, b, rows, padding = Split <axis = 0, num_outputs = 4> (factors)
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  none = Constant <value_ints = [0]> ()
  all = Constant <value_ints = [-1]> ()
  column = Constant <value_ints = [-1, 1]> ()
  pi = Constant <value_float = 3.14159265358979> ()
  half = Constant <value_float = 0.5> ()
  length = Mul (a, b)
  length_float = Cast <to = 1> (length)
  a_count = Squeeze (a)
  b_count = Squeeze (b)
  row_count = Squeeze (rows)
  i = Range (zero, row_count, one)
  j = Range (zero, b_count, one)
  u = Range (zero, a_count, one)
  i_column = Reshape (i, column)
  j_column = Reshape (j, column)
  u_column = Reshape (u, column)
  values = Cast <to = 1> (coefficients)
  pads = Concat <axis = 0> (none, none, none, padding)
  padded = Pad (values, pads)
  k_count = Mul (row_count, b_count)
  k = Range (zero, k_count, one)
  k_float = Cast <to = 1> (k)
  k_turns = Div (k_float, length_float)
  k_half = Mul (k_turns, half)
  k_angle = Mul (k_half, pi)
  k_cos = Cos (k_angle)
  k_sin = Sin (k_angle)
  later = Less (zero, k)
  later_float = Cast <to = 1> (later)
  one_float = Constant <value_float = 1.0> ()
  weights = Add (later_float, one_float)
  variances = Div (weights, length_float)
  scales = Sqrt (variances)
  scaled = Mul (padded, scales)
  real_flat = Mul (scaled, k_cos)
  imaginary_flat = Mul (scaled, k_sin)
  split_shape = Concat <axis = 0> (all, rows, b)
  real = Reshape (real_flat, split_shape)
  imaginary = Reshape (imaginary_flat, split_shape)
  ui = Mul (u_column, i)
  ui_cos, ui_sin = tenreo.Turns (ui, a)
  ui_cos_real = MatMul (ui_cos, real)
  ui_sin_imaginary = MatMul (ui_sin, imaginary)
  ui_cos_imaginary = MatMul (ui_cos, imaginary)
  ui_sin_real = MatMul (ui_sin, real)
  inner_real = Sub (ui_cos_real, ui_sin_imaginary)
  inner_imaginary = Add (ui_cos_imaginary, ui_sin_real)
  uj = Mul (u_column, j)
  uj_cos, uj_sin = tenreo.Turns (uj, length)
  turned_1 = Mul (inner_real, uj_cos)
  turned_2 = Mul (inner_imaginary, uj_sin)
  turned_3 = Mul (inner_real, uj_sin)
  turned_4 = Mul (inner_imaginary, uj_cos)
  turned_real = Sub (turned_1, turned_2)
  turned_imaginary = Add (turned_3, turned_4)
  jv = Mul (j_column, j)
  jv_cos, jv_sin = tenreo.Turns (jv, b)
  outer_real = MatMul (turned_real, jv_cos)
  outer_imaginary = MatMul (turned_imaginary, jv_sin)
  samples = Sub (outer_real, outer_imaginary)
  ordered = Transpose <perm = [0, 2, 1]> (samples)
  kept_shape = Constant <value_ints = [0, -1]> ()
  curve = Reshape (ordered, kept_shape)
  columns = Gather <axis = 1> (curve, numbers)
  weight = Reshape (columns, shape)
}""",
    # Cosines and sines of fractions of a full turn; reducing the integers first keeps the angles exact.
    "Turns": """
Turns (numerators, denominator) => (cosines, sines) {
  turn = Constant <value_float = 6.28318530717959> ()
  whole = Div (numerators, denominator)
  product = Mul (whole, denominator)
  remainder = Sub (numerators, product)
  top = Cast <to = 1> (remainder)
  bottom = Cast <to = 1> (denominator)
  fraction = Div (top, bottom)
  angles = Mul (fraction, turn)
  cosines = Cos (angles)
  sines = Sin (angles)
}""",
    # The samples of a table, (rows, samples), at positions.
    "Table": """
Table (numbers, samples, shape) => (weight) {
  columns = Gather <axis = 1> (samples, numbers)
  weight = Reshape (columns, shape)
}""",
    # A tensor on a grid (tenreo.codec.grid); `scalars` are the middle of its levels, and its scale.
    "Grid": """
Grid (numbers, scalars, shape) => (tensor) {
  middle, scale = Split <axis = 0, num_outputs = 2> (scalars)
  own_float = Cast <to = 1> (numbers)
  levels = Add (own_float, middle)
  values = Mul (levels, scale)
  tensor = Reshape (values, shape)
}""",
    # Tensors on grids, one after another: `middles` and `scales` have a number for each of them, and `sizes` the number
    # of its elements.
    "Grids": """
Grids (numbers, sizes, middles, scales, blocks, triangle, before) => (values) {
  levels, scale = tenreo.Levels (numbers, sizes, middles, scales, blocks, triangle, before)
  values = Mul (levels, scale)
}""",
    "LogarithmicGrids": """
LogarithmicGrids (numbers, sizes, middles, scales, blocks, triangle, before) => (values) {
  zero = Constant <value_float = 0.0> ()
  two = Constant <value_float = 2.0> ()
  levels, scale = tenreo.Levels (numbers, sizes, middles, scales, blocks, triangle, before)
  above = Greater (levels, zero)
  shift = Cast <to = 1> (above)
  steps = Sub (levels, shift)
  exponents = Mul (steps, scale)
  powers = Pow (two, exponents)
  none = Equal (levels, zero)
  values = Where (none, zero, powers)
}""",
    # The tensor of every level is the number of tensors that begin before it.
    "Levels": """
Levels (numbers, sizes, middles, scales, blocks, triangle, before) => (levels, scale) {
  all = Constant <value_ints = [-1]> ()
  first = Constant <value_ints = [0]> ()
  zero = Constant <value_int = 0> ()
  one = Constant <value = int32 {1}> ()
  no_flag = Constant <value = int32 {0}> ()
  flags_of_block = Constant <value_ints = [64]> ()
  counts = Cast <to = 6> (sizes)
  shape = Shape (sizes)
  tensors = Squeeze (shape)
  earlier = tenreo.Triangle (tensors, zero)
  starts = MatMul (counts, earlier)
  flags_shape = Concat <axis = 0> (blocks, flags_of_block)
  matrix = Expand (no_flag, flags_shape)
  nothing = Reshape (matrix, all)
  ones = Expand (one, shape)
  marks = ScatterElements <axis = 0> (nothing, starts, ones)
  flags = Cast <to = 2> (marks)
  begun = tenreo.Places (flags, blocks, triangle, before)
  begun_flat = Reshape (begun, all)
  numbered = Sub (begun_flat, one)
  count = Shape (numbers)
  tensor = Slice (numbered, first, count)
  own_float = Cast <to = 1> (numbers)
  middle = Gather (middles, tensor)
  levels = Add (own_float, middle)
  scale = Gather (scales, tensor)
}""",
}
_ALL = stream_functions.FUNCTIONS | _FUNCTIONS


def function_protos(called: dict[str, str], opset: int) -> list[Any]:
    """Return the functions that a model calls, and those that they call.

    Args:
        called: names and texts of the functions that are called or have a text of their own; other texts are empty.
        opset: version of the standard operators in the model.
    """
    import onnx

    if opset < OPSET:
        raise TenreoError(f"small: given a model with version {opset} of the operators of ONNX, needs {OPSET}")
    texts: dict[str, str] = {}  # a function is behind those that it calls, as ONNX's reference evaluator needs it

    def add(name: str, text: str) -> None:
        text = text or _ALL[name].strip()
        for other in _ALL:
            if f"{DOMAIN}.{other} " in text and other not in texts:
                add(other, called.get(other, ""))
        texts[name] = text

    for name, text in sorted(called.items()):
        if name not in texts:
            add(name, text)
    if opset < _SPLIT_COUNTS:
        texts = {name: re.sub(r", num_outputs = \d+", "", text) for name, text in texts.items()}
    return [onnx.parser.parse_function(_HEAD.format(opset=opset) + text) for text in texts.values()]

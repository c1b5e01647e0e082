"""A decoder in plain Python, written from the sentences of docs/format.md alone; an oracle for the test vectors.

It needs nothing but the standard library, and neither shares code with the package nor with the page's own decoder.
"""

import json
import math
import struct
import zlib
from pathlib import Path

# Format of `struct`, and bytes, of the elements of each dtype.
CODES = {
    "U64": "Q", "I64": "q", "F64": "d", "F32": "f", "U32": "I", "I32": "i", "F16": "e", "U16": "H", "I16": "h",
    "I8": "b", "U8": "B", "BOOL": "?", "BF16": "H",
}  # fmt: skip
TRELLIS = {1: "3 2", 2: "5 2", 3: "13 4", 4: "23 4", 5: "45 10", 6: "103 24", 7: "235 126", 8: "515 362"}


def read(path):
    """Return {name: (shape, list of numbers)} of the dense model."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    layers = json.loads(metadata.get("tenreo.layers", "{}"))
    stored, dtypes, checksums = {}, {}, metadata.get("tenreo.checksums", "")
    for i, (name, entry) in enumerate(sorted(header.items(), key=lambda pair: pair[1]["data_offsets"])):
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if checksums:
            assert zlib.crc32(data[begin:end]) == int(checksums[8 * i : 8 * i + 8], 16), name
        stored[name], dtypes[name] = (entry["shape"], elements(data[begin:end], entry["dtype"])), entry["dtype"]
    result = {}
    for layer, record in layers.items():
        name = f"{layer}.weight" if f"{layer}.weight.positions" in stored else layer
        parts = {part: stored.pop(f"{name}.{part}", None) for part in ("positions", "coefficients", "scales")}
        values = weight(record, dtypes[f"{name}.positions"], **parts)
        own = dtypes[f"{name}.coefficients"] if record.get("precision", "float32") == "float32" else "F32"
        result[name] = record["shape"], cast(values, record.get("dtype", own))
    described = json.loads(metadata.get("tenreo.dense", "{}"))
    if described:
        result.update(coded_dense(bytes(stored.pop("tenreo.dense")[1]), described))
    return result | stored


def elements(data, dtype):
    """Return the numbers of a tensor."""
    values = list(struct.unpack(f"<{len(data) // struct.calcsize(CODES[dtype])}{CODES[dtype]}", data))
    return [struct.unpack("<f", struct.pack("<I", x << 16))[0] for x in values] if dtype == "BF16" else values


def cast(values, dtype):
    """Round numbers to a dtype."""
    if dtype == "BOOL":
        return [bool(x) for x in values]
    if dtype not in ("F16", "BF16", "F32", "F64"):
        return [int(x) for x in values]
    if dtype != "BF16":
        return [struct.unpack(f"<{CODES[dtype]}", struct.pack(f"<{CODES[dtype]}", x))[0] for x in values]
    bits = [struct.unpack("<I", struct.pack("<f", x))[0] for x in values]
    return [struct.unpack("<f", struct.pack("<I", (x + 0x7FFF + (x >> 16 & 1)) >> 16 << 16))[0] for x in bits]


def unpacked(data, width, count):
    """Return packed integers of a width in bits."""
    whole = int.from_bytes(bytes(data), "little")
    return [whole >> (i * width) & ((1 << width) - 1) for i in range(count)]


def weight(record, dtype, positions, coefficients, scales):
    """Return the numbers of a compressed parameter."""
    size, groups, length, kept = math.prod(record["shape"]), record["groups"], record["length"], record["kept"]
    columns, bits = size // groups, max(1, math.ceil(math.log2(length)))
    ramp, places = record.get("basis") == "ramp", positions[1]
    if record.get("positions") == "coded":
        places = coded_positions(bytes(places), columns, length, size // record["shape"][0], ramp)
    elif dtype == "U8":
        places = unpacked(places, bits, columns)
    rows = integer_rows(record, coefficients[1], scales[1]) if scales else split(coefficients[1], kept)
    if ramp:
        (offset, end, jump), most = rows[0], (length - 1) // 2
        levels = [math.trunc(place - (length - 1) / 2) for place in places]
        return [offset + end * level / most + jump * ((level > 0) - (level < 0)) for level in levels]
    result = []
    for row in rows:
        curve = [
            sum(
                y * math.sqrt((2 if k else 1) / length) * math.cos(math.pi * (2 * sample + 1) * k / (2 * length))
                for k, y in enumerate(row)
            )
            for sample in range(length)
        ]
        result += [curve[place] for place in places]
    return result


def split(values, length):
    """Divide numbers into rows."""
    return [values[i : i + length] for i in range(0, len(values), length)]


def integer_rows(record, stored, scales):
    """Return the rows of integer coefficients times their scales."""
    width, kept = {"int8": 8, "int6": 6}[record["precision"]], record["kept"]
    if record.get("coefficients") == "coded":
        integers = coded_integers(bytes(stored), record["groups"] * kept)
    else:
        integers = [i - (1 << (width - 1)) for i in unpacked(stored, width, record["groups"] * kept)]
    bands = max(1, min(16, kept // 64))
    band = [i for i in range(bands) for _ in range(kept // bands + (i < kept % bands))]
    rows = split(integers, kept)
    return [[i * own[band[k]] for k, i in enumerate(row)] for row, own in zip(rows, split(scales, bands), strict=True)]


def coded_positions(data, columns, length, per_output, ramp):
    """Return coded positions."""
    kind, code = data[0], data[5:]
    if kind == 15:
        positions = unpacked(code, max(1, math.ceil(math.log2(length))), columns)
    else:
        positions = arithmetic_positions(Decoder(code), kind, columns, length, per_output, ramp)
    assert zlib.crc32(struct.pack(f"<{columns}i", *positions)) == int.from_bytes(data[1:5], "little")
    return positions


def arithmetic_positions(decoder, kind, columns, length, per_output, ramp):
    """Return the positions of an arithmetic code."""
    memory, ways = kind % 16, 2 if kind % 16 else 1
    if kind // 16 == 8:
        extra = decoder.own_byte()
        classes, division = extra % 8 + 1, "above" if extra // 8 else "before"
        number = number_block(4 * ((length - 1) // 2)) + 1
    else:
        classes, division = kind // 16 % 8 + 1, "inputs" if kind // 128 else "outputs"
        number = 1 + (per_output - 1 if division == "inputs" else (columns - 1) // per_output)
    of_block = [0] * number
    if classes > 1:
        (counts,) = decoder.counts(1, classes)
        of_block = [decoder.symbol_with(counts) for _ in of_block]
    ranges = symbol_ranges(length, ways, ramp)
    counts = decoder.counts(classes * ways, len(ranges))
    first, second = (int(code, 8) >> 1 for code in TRELLIS.get(memory, "0 0").split())
    state, positions = 0, []
    for j in range(columns):
        block = block_of(j, division, positions, length, per_output)
        start, size = ranges[decoder.symbol_with(counts[ways * of_block[block] + (state & 1 if memory else 0)])]
        index = start + (decoder.symbol([1] * size) if size > 1 else 0)
        positions.append(2 * index + (state & 1) if memory else index)
        if memory:
            state = state >> 1 ^ (first if state & 1 else 0) ^ (second if index & 1 else 0)
    return positions


def block_of(j, division, positions, length, per_output):
    """Return the block of a column."""

    def level(k):
        return abs(math.trunc(positions[k] - (length - 1) / 2)) if k >= 0 else 0

    if division == "before":
        return number_block(2 * level(j - 1) + level(j - 2))
    if division == "above":
        return number_block(2 * level(j - per_output) + level(j - per_output - 1) + level(j - per_output + 1))
    return j % per_output if division == "inputs" else j // per_output


def number_block(number):
    """Return the block of a weighted sum of levels."""
    exponent = 0
    while number >> exponent >= 8:
        exponent += 1
    return 4 * exponent + (number >> exponent)


def symbol_ranges(length, ways, ramp):
    """Return the smallest index, and the number of indices, of every symbol."""
    indices = (length + ways - 1) // ways
    if not ramp:
        return [(k, 1) for k in range(indices)]
    center, ranges, number = length // 2 // ways, [], 0
    while number < max(center, indices - center):
        size = 1 << max(0, number.bit_length() - 5)
        if number < center:
            ranges.append((center - number - size, size))
        if number < indices - center:
            ranges.append((center + number, size))
        number += size
    return sorted(ranges)


def coded_integers(data, count):
    """Return coded integers."""
    (counts,) = Decoder(data[4:]).counts(1, count)
    integers = [-(x + 1) // 2 if x % 2 else x // 2 for x in counts]
    assert zlib.crc32(struct.pack(f"<{count}i", *integers)) == int.from_bytes(data[:4], "little")
    return integers


def coded_dense(data, described):
    """Return the coded dense tensors."""
    sizes = {name: math.prod(shape) for name, (_, *shape) in described.items()}
    integers, result = iter(coded_integers(data, sum(sizes.values()) + 2 * len(sizes))), {}
    for name, (dtype, *shape) in described.items():
        exponent, median = next(integers), next(integers)
        levels, step = [next(integers) + median for _ in range(sizes[name])], 2.0**exponent
        values = [level * step for level in levels]
        if name.endswith(".running_var") and dtype in ("F16", "BF16", "F32", "F64"):
            values = [0.0 if k == 0 else 2.0 ** ((k - (k > 0)) * step) for k in levels]
        result[name] = shape, cast(values, dtype)
    return result


class Decoder:
    """The arithmetic decoder."""

    def __init__(self, code):
        self.start(code)

    def start(self, code):
        self.code, self.place = code + bytes(7), 7
        self.offset, self.size = int.from_bytes(self.code[:7], "big"), (1 << 56) - 1

    def own_byte(self):
        """Return the byte before the arithmetic code, which then begins after it."""
        first = self.code[0]
        self.start(self.code[1:-7])
        return first

    def symbol(self, counts):
        unit, below, symbol = self.size // sum(counts), 0, 0
        target = self.offset // unit
        while not below <= target < below + counts[symbol]:
            below, symbol = below + counts[symbol], symbol + 1
        self.offset, self.size = self.offset - below * unit, counts[symbol] * unit
        while self.size < 1 << 48:
            byte = self.code[self.place] if self.place < len(self.code) else 0
            self.offset, self.size, self.place = 256 * self.offset + byte, 256 * self.size, self.place + 1
        return symbol

    def symbol_with(self, counts):
        symbol = self.symbol(counts)
        counts[symbol] -= 1
        return symbol

    def counts(self, rows, columns):
        table = [[1 + 32 // 2 ** min(5, abs(i - j)) for j in range(32)] for i in range(32)]
        result = []
        for _ in range(rows):
            row, previous = [], 0
            for _ in range(columns):
                length = self.symbol(table[previous])
                table[previous][length] += 24
                low = self.symbol([1] * (1 << (length - 1))) if length > 1 else 0
                row.append((1 << (length - 1)) + low if length else 0)
                previous = length
            result.append(row)
        return result

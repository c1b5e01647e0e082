"""The sizes of an encoded weight, compared with those of its tensors."""

import pytest
import torch

from tenreo.codec.packing import pack
from tenreo.codec.precision import pack_coefficients
from tenreo.codec.shape import CurveShape, Precision, bands


def test_bands_are_at_least_64_wide_and_at_most_16():
    assert [bands(n) for n in (1, 63, 128, 1024, 10**6)] == [1, 1, 2, 16, 16]


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize(("groups", "length", "per_row"), [(1, 1, 1), (4, 1000, 130), (8, 4097, 4097)])
def test_bytes_agree_with_the_packed_tensors(precision, groups, length, per_row):
    shape = CurveShape(groups, length, per_row, precision)
    columns = 5003
    positions = pack(torch.arange(columns) % length, shape.position_bits)
    values, scales, _ = pack_coefficients(torch.randn(groups, per_row), precision)
    tensors = [positions, values] if scales is None else [positions, values, scales]
    assert shape.columns(groups * columns) == columns
    assert shape.bytes(groups * columns) == sum(t.numel() * t.element_size() for t in tensors)
    assert shape.coefficients == groups * per_row
    assert shape.scales == (0 if scales is None else scales.numel())


def test_full_precision_coefficients_have_the_size_of_the_weights_dtype():
    full, half = (CurveShape(2, 10, 5, precision) for precision in (Precision.FLOAT32, Precision.FLOAT16))
    assert full.bytes(20, itemsize=8) - full.bytes(20) == 2 * 5 * 4
    assert half.bytes(20, itemsize=8) == half.bytes(20)


def test_bits_of_every_precision():
    assert {p: p.bits for p in Precision} == {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int6": 6}
    assert [p for p in Precision if p.is_integer] == ["int8", "int6"]

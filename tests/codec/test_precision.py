import numpy as np
import pytest
import torch

import tenreo
from tenreo.codec.precision import (
    StoredCoefficients,
    fake_quantize,
    pack_coefficients,
    quantize_bands,
    unpack_coefficients,
)
from tenreo.codec.shape import CurveShape, Precision
from tenreo.errors import TenreoError


def spectrum(per_row, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, per_row, generator=generator) * torch.logspace(1, -2, per_row)


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("per_row", [1, 2, 63, 200, 3000])
def test_packing_agrees_with_fake_quantizing_and_quantizing_twice_changes_nothing(precision, per_row):
    coefficients = spectrum(per_row)
    coefficients[0] = 0
    once = fake_quantize(coefficients, precision)
    assert torch.equal(fake_quantize(once, precision), once)
    for code in (False, True):
        stored = pack_coefficients(coefficients, precision, code)
        shape = CurveShape(4, per_row, per_row, precision)
        assert torch.equal(unpack_coefficients(stored, shape).float(), once)
        assert stored.coded == (code and precision.is_integer and per_row > 2)
        assert torch.equal(pack_coefficients(once, precision, code).values, stored.values)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT6])
def test_coded_integers_have_about_the_size_of_their_entropy(precision):
    coefficients = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0))
    stored = pack_coefficients(coefficients, precision, code=True)
    codes, _ = quantize_bands(coefficients, precision.bits)
    counts = torch.unique(codes, return_counts=True)[1].double()
    entropy = -(counts * (counts / counts.sum()).log2()).sum().item() / 8
    assert entropy < len(stored.values) < 1.03 * entropy


@pytest.mark.parametrize("place", [0, 5, -1])
def test_damaged_coded_integers_are_refused(place):
    values, scales, _ = pack_coefficients(spectrum(3000), Precision.INT8, code=True)
    values[place] ^= 4
    with pytest.raises(TenreoError, match=r"coefficients: the stream has .*; the file is damaged"):
        unpack_coefficients(StoredCoefficients(values, scales, True), CurveShape(4, 3000, 3000, Precision.INT8))


@pytest.mark.parametrize("bits", [6, 8])
def test_integers_are_rounded_to_the_nearest_step_unless_clipped(bits):
    coefficients = spectrum(1000)
    codes, scales = quantize_bands(coefficients, bits)
    top = 2 ** (bits - 1) - 1
    assert codes.abs().max() == top and torch.equal(codes, codes.round())
    for band, code, scale in zip(
        np.array_split(coefficients, 15, 1), np.array_split(codes, 15, 1), scales.float().T, strict=True
    ):
        inside = torch.as_tensor(code).abs() < top
        gap = (torch.as_tensor(band) - torch.as_tensor(code) * scale[:, None]).abs()
        assert (gap <= 0.5001 * scale[:, None])[inside].all()


def test_clipping_has_a_smaller_error_than_scaling_to_the_largest_value():
    coefficients = spectrum(1000)
    naive_scale = coefficients.abs().amax() / 31
    naive = (coefficients / naive_scale).round() * naive_scale
    error = lambda x: (x - coefficients).square().sum()  # noqa: E731
    assert error(fake_quantize(coefficients, Precision.INT6)) < error(naive) / 4


def test_columns_move_to_the_nearest_sample_of_the_quantized_curve():
    weight = torch.from_numpy(np.random.default_rng(0).laplace(size=(4, 4000)).astype(np.float32))
    quantized = tenreo.encode(weight, 4, 300, refine=4, length=1024, precision="int6")
    curve = tenreo.decode(
        tenreo.EncodedWeight(quantized.coefficients, torch.arange(1024, dtype=torch.int32), 1024, (4, 1024))
    )
    nearest = torch.cdist(weight.T.double(), curve.T.double()).min(1).values.square().sum()
    lost = (weight - tenreo.decode(quantized)).double().square().sum()
    assert lost == pytest.approx(nearest.item(), rel=1e-5)
    paper = tenreo.encode(weight, 4, 300, precision="int6")
    assert torch.equal(paper.positions, tenreo.encode(weight, 4, 300).positions)


def test_shorter_curves_have_a_similar_error():
    weight = torch.from_numpy(np.random.default_rng(0).laplace(size=(4, 20_000)).astype(np.float32))
    snr = lambda e: 10 * torch.log10(weight.square().sum() / (weight - tenreo.decode(e)).square().sum())  # noqa: E731
    short = tenreo.encode(weight, 4, 1000, refine=6, length=4096)
    assert short.length == 4096 and short.positions.min() >= 0 and short.positions.max() < 4096
    assert snr(short) > snr(tenreo.encode(weight, 4, 1000, refine=6)) - 2
    with pytest.raises(TenreoError, match="given length=20001, needs 1 to 20000"):
        tenreo.encode(weight, 4, 10, length=20_001)
    with pytest.raises(TenreoError, match="given coefficients_per_row=11, needs 1 to 10 "):
        tenreo.encode(weight, 4, 11, length=10)


def test_rejects_values_outside_the_range_and_unknown_precisions():
    with pytest.raises(TenreoError, match="does not fit into float16; choose bfloat16"):
        fake_quantize(torch.tensor([[1e6]]), Precision.FLOAT16)
    with pytest.raises(TenreoError, match="is too large for int6"):
        tenreo.encode(torch.full((64, 64), 3e38), 4, 8, precision="int6")  # even the mean overflows
    with pytest.raises(TenreoError, match="given precision 'int5', needs one of float32"):
        tenreo.encode(torch.randn(8, 8), 4, 4, precision="int5")

import pytest
import torch
from torch.nn.functional import conv2d, linear

import tenreo
from tenreo.codec.distortion import energy
from tenreo.codec.encode import project, refined
from tenreo.codec.shape import CurveShape
from tenreo.errors import TenreoError


def test_equals_the_reference_implementation(golden):
    cases, tensors = golden
    assert len(cases) == 12
    for case in cases:
        name = case["name"]
        weight = tensors[f"{name}.weight"]
        per_row = int(weight.numel() // case["groups"] / case["rate"])
        encoded = tenreo.encode(weight, case["groups"], per_row)
        assert torch.equal(encoded.positions, tensors[f"{name}.index"]), name
        torch.testing.assert_close(encoded.coefficients, tensors[f"{name}.coefficients"], atol=2e-5, rtol=1e-4)
        decoded = tenreo.decode(encoded)
        torch.testing.assert_close(decoded, tensors[f"{name}.decoded"], atol=2e-5, rtol=1e-4)
        x = tensors[f"{name}.input"]
        if weight.dim() == 2:
            y = linear(x, decoded)
        else:
            y = conv2d(x, decoded, stride=case.get("stride", 1), padding=case.get("padding", 0))
        torch.testing.assert_close(y, tensors[f"{name}.output"], atol=2e-4, rtol=1e-4)


def test_encoding_with_all_frequencies_is_exact():
    weight = torch.randn(12, 8, 3, 3)
    encoded = tenreo.encode(weight, 4, 216)
    torch.testing.assert_close(tenreo.decode(encoded), weight)


def test_positions_are_a_permutation_and_the_error_is_the_energy_that_is_cut_off():
    weight = torch.randn(16, 16)
    whole, half = tenreo.encode(weight, 2, 128), tenreo.encode(weight, 2, 64)
    assert sorted(half.positions.tolist()) == list(range(128))
    error = (tenreo.decode(half) - weight).square().sum()
    torch.testing.assert_close(error, whole.coefficients[:, 64:].square().sum())


def test_positions_need_not_be_a_permutation():
    encoded = tenreo.EncodedWeight(torch.randn(2, 3), torch.tensor([0, 0, 4, 4], dtype=torch.int32), 5, (8,))
    row = tenreo.decode(encoded).reshape(2, 4)
    assert torch.equal(row[:, 0], row[:, 1]) and torch.equal(row[:, 2], row[:, 3])


def test_decode_has_the_exact_adjoint():
    encoded = tenreo.encode(torch.randn(6, 10), 2, 7)

    def function(c):
        return tenreo.decode(tenreo.EncodedWeight(c, encoded.positions, encoded.length, encoded.shape))

    c = encoded.coefficients.double().requires_grad_()
    assert torch.autograd.gradcheck(function, c)
    w = torch.randn(6, 10, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((function(c) * w).sum(), c)
    torch.testing.assert_close(gradient, project(w, encoded.positions, CurveShape(2, encoded.length, 7)))


@pytest.mark.parametrize(
    ("groups", "per_row", "match"),
    [(7, 1, "groups=7"), (0, 1, "groups=0"), (4, 0, "coefficients_per_row=0"), (4, 26, "coefficients_per_row=26")],
)
def test_rejects_arguments_that_do_not_fit_the_weight(groups, per_row, match):
    with pytest.raises(TenreoError, match=match):
        tenreo.encode(torch.randn(10, 10), groups, per_row)


def test_a_gpu_decodes_like_the_cpu(gpu):
    encoded = tenreo.encode(torch.randn(64, 32, 3, 3), 4, 500)
    there = encoded.to(gpu)
    torch.testing.assert_close(tenreo.decode(there).cpu(), tenreo.decode(encoded), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("factor", [1e-30, 1e-25, 1.0, 1e30])
def test_the_relative_error_does_not_depend_on_the_scale_of_the_weight(factor):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    plain, scaled = (tenreo.encode(w, 4, 256, refine=4) for w in (weight, weight * factor))
    ratio = [
        10 * torch.log10(w.double().square().sum() / (w.double() - tenreo.decode(e).double()).square().sum()).item()
        for w, e in ((weight, plain), (weight * factor, scaled))
    ]
    assert ratio[0] > 8 and ratio[1] == pytest.approx(ratio[0], abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [260.0, 3e-7])
def test_16_bit_weights_within_the_range_of_their_dtype(dtype, value):
    weight = torch.full((64, 64), value, dtype=dtype)
    decoded = tenreo.decode(tenreo.encode(weight, 4, 64, refine=2))
    assert decoded.dtype == dtype
    torch.testing.assert_close(decoded, weight, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    "weight",
    [
        torch.full((256, 256), 6e4).half(),
        6e4 * torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).sign().half(),
        torch.full((64, 64), 3e38),
    ],
    ids=["constant", "signs", "float32"],
)
def test_rejects_a_weight_whose_curve_exceeds_the_range(weight):
    with pytest.raises(TenreoError, match="whose curve exceeds the range of"):
        tenreo.encode(weight, 4, 256)


def test_refining_16_bit_weights_never_increases_the_error():
    signs = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).sign().bfloat16()
    for weight in (signs, torch.randn(256, 256, generator=torch.Generator().manual_seed(1)).bfloat16()):
        paper = tenreo.encode(weight, 4, 4096)
        errors = [
            (weight.double() - tenreo.decode(e).double()).square().sum() for e in (refined(weight, paper, 12), paper)
        ]
        assert errors[0] <= errors[1]
    assert errors[0] < errors[1]


def test_measuring_an_error_does_not_change_the_weight():
    weight = torch.randn(8, 8, dtype=torch.float64)
    before = weight.clone()
    assert energy(weight, torch.ones(8, 8)) > 0 and torch.equal(weight, before)

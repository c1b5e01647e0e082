import numpy as np
import oracle
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenreo.codec.cosine import dct, idct
from tenreo.errors import TenreoError

lengths = st.integers(1, 70).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@settings(deadline=None, max_examples=200)
@given(lengths)
def test_equals_the_literal_cosine_matrix(size):
    length, count = size
    x = torch.randn(3, length, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    basis = oracle.cosine_matrix(length)[:count]
    np.testing.assert_allclose(dct(x, count), x.numpy() @ basis.T, atol=1e-12)
    np.testing.assert_allclose(idct(x[:, :count], length), x[:, :count].numpy() @ basis, atol=1e-12)


@pytest.mark.parametrize("length", [4096, 9973, 36864])
def test_float32_agrees_with_scipy(length):
    x = torch.randn(4, length)
    exact = scipy.fft.dct(x.double().numpy(), norm="ortho")
    np.testing.assert_allclose(dct(x), exact, atol=2e-5)
    np.testing.assert_allclose(idct(torch.tensor(exact).float(), length), x, atol=2e-5)


@pytest.mark.parametrize("length", [1, 2, 9, 64])
def test_is_orthonormal(length):
    x = torch.randn(2, length, dtype=torch.float64)
    torch.testing.assert_close(dct(x).norm(), x.norm())  # Parseval
    torch.testing.assert_close(idct(dct(x), length), x)


@pytest.mark.parametrize(("length", "count"), [(1, 1), (8, 3), (8, 5), (8, 8), (9, 5), (9, 6), (7, 7)])
def test_gradients(length, count):
    x = torch.randn(2, length, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, count, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: dct(s, count), x)
    assert torch.autograd.gradcheck(lambda c: idct(c, length), y)
    assert torch.autograd.gradgradcheck(lambda c: idct(c, length).square(), y)
    # The adjoints are exact: <dct x, y> == <x, idct y>.
    torch.testing.assert_close((dct(x, count) * y).sum(), (x * idct(y, length)).sum())


def test_half_precision_is_computed_in_float32():
    x = torch.randn(2, 100).to(torch.bfloat16)
    assert dct(x, 10).dtype == torch.bfloat16
    torch.testing.assert_close(dct(x, 10), dct(x.float(), 10).to(torch.bfloat16))


def test_gradients_after_inference_mode():
    with torch.inference_mode():
        idct(torch.ones(1, 3), 11)
    y = torch.ones(1, 3, requires_grad=True)
    idct(y, 11).sum().backward()
    assert y.grad is not None


@pytest.mark.parametrize("count", [0, 9])
def test_rejects_impossible_sizes(count):
    with pytest.raises(TenreoError, match=f"given {count} coefficients for 8 samples"):
        dct(torch.ones(8), count)

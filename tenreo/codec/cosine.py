"""The orthonormal cosine transform (DCT-II) and its inverse, along the last axis, by real FFTs.

Fold a signal x of length L: the even samples come first, then the odd ones in reverse order. If V is the Fourier
transform of the folded signal, X[k] = scale[k] * Re(V[k] * exp(-i pi k / 2L)) (J. Makhoul, "A fast cosine transform in
one and two dimensions", 1980). The upper half of X follows from the lower half of V: with W[k] = scale[k] * V[k] *
exp(-i pi k / 2L), X[k] = Re W[k] and X[L-k] = -Im W[k]. So a real FFT is enough, and coefficients beyond `count` are
not computed.

If few frequencies are kept, Q short FFTs replace the long one (decimation in time): the folded samples q, q + Q, q + 2Q
and so on are a signal of L / Q samples with the spectrum V[k] * exp(2 pi i k q / L), which they represent if there are
at most L / 2Q frequencies. These Q *branches* follow one another in a folded signal; `branches` returns their number.
A transform of several short rows takes a half to a third of the time of one long row.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from tenreo.errors import TenreoError

LONG = 1 << 23  # with this many samples or more, rows are transformed one by one to save memory


def dct(signal: Tensor, count: int | None = None) -> Tensor:
    """Return the first `count` orthonormal DCT-II coefficients of a signal.

    Differentiable; the adjoint is `idct`. Half-precision input is computed in float32.

    Args:
        signal: (..., length) floating point.
        count: number of coefficients, in [1, length]; by default all.

    Returns:
        (..., count), of the signal's dtype.

    Raises:
        TenreoError: if `count` is not in [1, length].
    """
    length = signal.shape[-1]
    count = length if count is None else count
    _check(count, length)
    result: Tensor = _Dct.apply(signal, count)
    return result


def idct(coefficients: Tensor, length: int) -> Tensor:
    """Return the signal of `length` samples with given low-frequency coefficients; all others are zero.

    Differentiable; the adjoint is `dct(_, count)`. Half-precision input is computed in float32.

    Args:
        coefficients: (..., count) floating point, 1 <= count <= length.
        length: number of samples.

    Returns:
        (..., length), of the coefficients' dtype.

    Raises:
        TenreoError: if the number of coefficients is not in [1, length].
    """
    _check(coefficients.shape[-1], length)
    result: Tensor = _Idct.apply(coefficients, length)
    return result


def _check(count: int, length: int) -> None:
    if not 1 <= count <= length:
        raise TenreoError(f"cosine: given {count} coefficients for {length} samples, needs 1 to {length}")


class _Dct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, count: int) -> Tensor:
        ctx.length = signal.shape[-1]
        return _forward(signal, count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Idct.apply(gradients[0], ctx.length), None


class _Idct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, length: int) -> Tensor:
        ctx.count = coefficients.shape[-1]
        return _inverse(coefficients, length)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Dct.apply(gradients[0], ctx.count), None


def _forward(signal: Tensor, count: int) -> Tensor:
    if signal.dim() > 1 and signal.shape[-1] >= LONG:
        return _row_by_row(_forward, signal, count)
    return dct_folded(fold(signal, branches(signal.shape[-1], count)), count)


def _inverse(coefficients: Tensor, length: int) -> Tensor:
    if coefficients.dim() > 1 and length >= LONG:
        return _row_by_row(_inverse, coefficients, length)
    folded = idct_folded(coefficients, length)
    folded = torch.unflatten(folded, -1, (branches(length, coefficients.shape[-1]), -1)).mT.flatten(-2)
    signal = torch.empty_like(folded)
    evens = (length + 1) // 2
    signal[..., ::2] = folded[..., :evens]
    signal[..., 1::2] = folded[..., evens:].flip(-1)
    return signal


def _row_by_row(transform: Callable[[Tensor, int], Tensor], rows: Tensor, count: int) -> Tensor:
    """Transform (..., n) to (..., count) row by row, to save memory."""
    result = rows.new_empty(*rows.shape[:-1], count)
    for row, transformed in zip(rows.reshape(-1, rows.shape[-1]), result.view(-1, count), strict=True):
        transformed.copy_(transform(row, count))
    return result


def branches(length: int, count: int) -> int:
    """Return the number of branches of a folded signal of `length` samples and `count` coefficients: 4, 2 or 1."""
    return next((q for q in (4, 2) if length % q == 0 and 2 * q * count <= length), 1)


def fold(signal: Tensor, branches: int = 1) -> Tensor:
    """Return a folded signal, (..., length), of a number of branches that divides the length."""
    folded = torch.cat([signal[..., ::2], signal[..., 1::2].flip(-1)], dim=-1)
    return torch.unflatten(folded, -1, (-1, branches)).mT.flatten(-2)


def dct_folded(folded: Tensor, count: int) -> Tensor:
    """Return the `dct` of a folded signal, (..., length) -> (..., count); not differentiable."""
    length = folded.shape[-1]
    half = length // 2 + 1  # with several branches, `count` is smaller
    x = torch.unflatten(at_least_float32(folded), -1, (branches(length, count), -1))
    spectrum = torch.fft.rfft(x)[..., : min(count, half)]  # (..., branches, at most half)
    spectrum = spectrum * _twiddle(length, spectrum.shape[-1], False, x.dtype, x.device)
    low: Tensor = spectrum.real.sum(-2) if x.shape[-2] > 1 else spectrum.real.squeeze(-2)
    if count > half:
        high = -spectrum.imag.squeeze(-2)[..., length - count + 1 : length - half + 1].flip(-1)
        low = torch.cat([low, high], dim=-1)
    return low.to(folded.dtype).contiguous()


def idct_folded(coefficients: Tensor, length: int) -> Tensor:
    """Return the folded `idct` of coefficients, (..., count) -> (..., length); not differentiable."""
    count = coefficients.shape[-1]
    half = length // 2 + 1
    y = at_least_float32(coefficients)
    spectrum = y[..., :half]
    if count > length - half:
        imag = torch.zeros_like(spectrum)
        imag[..., length - count + 1 :] = -y[..., length - half + 1 :].flip(-1)
        spectrum = torch.complex(spectrum.contiguous(), imag)
    scaled = spectrum.unsqueeze(-2) * _twiddle(length, spectrum.shape[-1], True, y.dtype, y.device)
    folded: Tensor = torch.fft.irfft(scaled, n=length // scaled.shape[-2]).to(coefficients.dtype)
    return folded.flatten(-2)


def at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32 if it is in half precision, whose sums stop growing at a few hundred equal numbers."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def twiddles(length: int, count: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the factors of `dct` and of `idct` of `count` coefficients, which later calls use while these exist.

    Otherwise only the latest factors are kept, and new ones are copied to the device, which a CUDA graph cannot do.

    Args:
        length: number of samples.
        count: number of coefficients.
        dtype: of the coefficients.
        device: of the coefficients.
    """
    dtype, count = torch.promote_types(dtype, torch.float32), min(count, length // 2 + 1)
    return _twiddle(length, count, False, dtype, device), _twiddle(length, count, True, dtype, device)


_existing: WeakValueDictionary[tuple[Any, ...], Tensor] = WeakValueDictionary()


@lru_cache(maxsize=64)
def _twiddle(length: int, count: int, inverse: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the factors of each branch's spectrum, (branches, count) complex, for frequencies k < count.

    For branch q they are exp(-i pi k (4 q + 1) / 2 length) times the orthonormal scale, or the inverse.
    """
    key = length, count, inverse, dtype, device
    existing = _existing.get(key)
    if existing is not None:
        return existing
    # The result is kept for later calls, which may need gradients, so it must not be an inference tensor.
    with torch.inference_mode(False), torch.no_grad():
        k = torch.arange(count, dtype=torch.float64, device="cpu")
        scale = torch.full_like(k, math.sqrt(2 / length))
        scale[0] = math.sqrt(1 / length)
        q = torch.arange(branches(length, count), dtype=torch.float64, device="cpu")[:, None]
        phase = torch.polar(scale.expand(len(q), count), -math.pi * k * (4 * q + 1) / (2 * length))
        if inverse:
            # irfft divides by the length of a branch, and counts every frequency except the first twice.
            phase = phase.conj().resolve_conj() * (length // len(q))
            phase[:, 1:] /= 2
        made: Tensor = phase.to(device, torch.complex128 if dtype == torch.float64 else torch.complex64)
        _existing[key] = made
        return made

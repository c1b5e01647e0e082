"""Decoding as one operation of torch, and its adjoint, each the other's derivative.

weight = idct(coefficients)[:, positions]; adjoint: sum the columns that share a sample, then dct. The curve
stays folded, as the transform makes it (`tenreo.core.cosine.fold`): columns look for their sample there. Being
operations of their own, both are opaque to `torch.compile`, and autocast leaves them alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tenreo.core.cosine import dct_folded, fold, idct_folded


class Places(NamedTuple):
    """Positions made ready for decoding.

    Attributes:
        samples: (columns,) int32, the sample of the folded curve that each column takes.
        order: (columns,) int32, the columns sorted by sample.
        starts: (length + 1,) int32, where in that order each sample's columns begin; empty when every
            sample has exactly one.
    """

    samples: Tensor
    order: Tensor
    starts: Tensor


def places(positions: Tensor, length: int) -> Places:
    """Make positions ready, once for every later decoding.

    Args:
        positions: (columns,) integers in [0, length).
        length: samples on the curve.
    """
    samples = fold(positions, length)
    counts = torch.bincount(samples, minlength=length)  # (length,)
    order = torch.argsort(samples, stable=True).to(torch.int32)
    starts = order.new_empty(0)
    if not bool((counts == 1).all()):
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return Places(samples.to(torch.int32), order, starts)


@torch.library.custom_op("tenreo::decode", mutates_args=())
def decode_columns(
    coefficients: Tensor, samples: Tensor, order: Tensor, starts: Tensor, length: int
) -> Tensor:
    """(groups, kept) -> (groups, columns): every column's sample of the curve.

    Args:
        coefficients: (groups, kept) floating point.
        samples: of `places`, like order and starts, which only a backward pass looks at.
        order: the columns sorted by sample.
        starts: where each sample's columns begin.
        length: samples on the curve.
    """
    return idct_folded(coefficients, length).index_select(1, samples)


@torch.library.custom_op("tenreo::decode_adjoint", mutates_args=())
def decode_adjoint(
    gradient: Tensor, samples: Tensor, order: Tensor, starts: Tensor, length: int, kept: int
) -> Tensor:
    """(groups, columns) -> (groups, kept): the adjoint of `decode_columns`."""
    return dct_folded(_sum_by_sample(gradient, samples, order, starts, length), kept)


def _sum_by_sample(gradient: Tensor, samples: Tensor, order: Tensor, starts: Tensor, length: int) -> Tensor:
    """(groups, columns) -> (groups, length), in the same order of addition every time."""
    if not gradient.is_cuda:
        # A row is added in order: deterministic, and index_add_ with 32-bit indices takes 10 to 20 times as long.
        where = samples.long().expand_as(gradient)
        return gradient.new_zeros(len(gradient), length).scatter_add_(1, where, gradient)
    if starts.numel() == 0:
        return gradient.index_select(1, order)
    return segment_sum(gradient, order, starts)


def segment_sum(gradient: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """(groups, columns) -> (groups, length): columns of each sample, as `places` sorted them, without atomics."""
    ordered = gradient.t().index_select(0, order)  # (columns, groups)
    sums = torch.segment_reduce(ordered, "sum", offsets=starts, axis=0, unsafe=True, initial=0)
    return sums.t().contiguous()


@decode_columns.register_fake
def _(coefficients: Tensor, samples: Tensor, order: Tensor, starts: Tensor, length: int) -> Tensor:
    return coefficients.new_empty(coefficients.shape[0], samples.shape[0])


@decode_adjoint.register_fake
def _(gradient: Tensor, samples: Tensor, order: Tensor, starts: Tensor, length: int, kept: int) -> Tensor:
    return gradient.new_empty(gradient.shape[0], kept)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, samples, order, starts, ctx.length = inputs[:5]
    ctx.kept = values.shape[1]
    ctx.save_for_backward(samples, order, starts)


def _decode_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    adjoint = decode_adjoint(gradient.contiguous(), *ctx.saved_tensors, ctx.length, ctx.kept)
    return adjoint, None, None, None, None


def _adjoint_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return decode_columns(gradient.contiguous(), *ctx.saved_tensors, ctx.length), None, None, None, None, None


decode_columns.register_autograd(_decode_backward, setup_context=_keep)
decode_adjoint.register_autograd(_adjoint_backward, setup_context=_keep)

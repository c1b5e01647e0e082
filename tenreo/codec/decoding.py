"""Decoding as one operation of torch, and its adjoint, each the other's derivative.

weight = idct(coefficients)[:, positions]; adjoint: sum the columns that share a sample, then dct. The curve
stays folded, as the transform makes it (`tenreo.codec.cosine.fold`): columns gather their samples there. Being
operations of their own, both are opaque to `torch.compile`, and autocast leaves them alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tenreo.codec.cosine import dct_folded, fold, idct_folded


class GatherIndex(NamedTuple):
    """Positions prepared for decoding.

    Attributes:
        samples: (columns,) int32, the sample of the folded curve that each column takes.
        order: (columns,) int32, the columns sorted by sample.
        starts: (length + 1,) int32, where in that order each sample's columns begin; empty when every
            sample has exactly one.
    """

    samples: Tensor
    order: Tensor
    starts: Tensor


def gather_index(positions: Tensor, length: int) -> GatherIndex:
    """Prepare positions, once for every later decoding.

    Args:
        positions: (columns,) integers in [0, length).
        length: samples on the curve.
    """
    index = fold(positions, length)
    counts = torch.bincount(index, minlength=length)  # (length,)
    order = torch.argsort(index, stable=True).to(torch.int32)
    starts = order.new_empty(0)
    if not bool((counts == 1).all()):
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return GatherIndex(index.to(torch.int32), order, starts)


@torch.library.custom_op("tenreo::decode", mutates_args=())
def decode_columns(coefficients: Tensor, index: Tensor, order: Tensor, starts: Tensor, length: int) -> Tensor:
    """(groups, coefficients_per_row) -> (groups, columns): every column's sample of the curve.

    Args:
        coefficients: (groups, coefficients_per_row) floating point.
        index: of `gather_index`, like order and starts, which only a backward pass looks at.
        order: the columns sorted by sample.
        starts: where each sample's columns begin.
        length: samples on the curve.
    """
    return idct_folded(coefficients, length).index_select(1, index)


@torch.library.custom_op("tenreo::decode_adjoint", mutates_args=())
def decode_adjoint(
    gradient: Tensor, index: Tensor, order: Tensor, starts: Tensor, length: int, coefficients_per_row: int
) -> Tensor:
    """(groups, columns) -> (groups, coefficients_per_row): the adjoint of `decode_columns`."""
    return dct_folded(_sum_by_sample(gradient, index, order, starts, length), coefficients_per_row)


def _sum_by_sample(gradient: Tensor, index: Tensor, order: Tensor, starts: Tensor, length: int) -> Tensor:
    """(groups, columns) -> (groups, length), in the same order of addition every time."""
    if not gradient.is_cuda:
        # A row is added in order: deterministic, and index_add_ with 32-bit indices takes 10 to 20 times as long.
        where = index.long().expand_as(gradient)
        return gradient.new_zeros(len(gradient), length).scatter_add_(1, where, gradient)
    if starts.numel() == 0:
        return gradient.index_select(1, order)
    return segment_sum(gradient, order, starts)


def segment_sum(gradient: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """(groups, columns) -> (groups, length): columns of each sample, as `gather_index` sorted them, without atomics."""
    ordered = gradient.t().index_select(0, order)  # (columns, groups)
    sums = torch.segment_reduce(ordered, "sum", offsets=starts, axis=0, unsafe=True, initial=0)
    return sums.t().contiguous()


@decode_columns.register_fake
def _(coefficients: Tensor, index: Tensor, order: Tensor, starts: Tensor, length: int) -> Tensor:
    return coefficients.new_empty(coefficients.shape[0], index.shape[0])


@decode_adjoint.register_fake
def _(gradient: Tensor, index: Tensor, order: Tensor, starts: Tensor, length: int, coefficients_per_row: int) -> Tensor:
    return gradient.new_empty(gradient.shape[0], coefficients_per_row)


def _save_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, index, order, starts, ctx.length = inputs[:5]
    ctx.coefficients_per_row = values.shape[1]
    ctx.save_for_backward(index, order, starts)


def _decode_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    adjoint = decode_adjoint(gradient.contiguous(), *ctx.saved_tensors, ctx.length, ctx.coefficients_per_row)
    return adjoint, None, None, None, None


def _adjoint_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return decode_columns(gradient.contiguous(), *ctx.saved_tensors, ctx.length), None, None, None, None, None


decode_columns.register_autograd(_decode_backward, setup_context=_save_context)
decode_adjoint.register_autograd(_adjoint_backward, setup_context=_save_context)

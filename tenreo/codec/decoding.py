"""Decoding as two custom operators that torch can compile and export: gathering samples of a curve, and its adjoint.

The curve stays folded (see `tenreo.codec.cosine`), and the positions are converted once to indices of the folded
curve, which saves a copy per decoding. Decoding is linear, so each operator is the derivative of the other. The
derivatives are registered twice: on the custom operators for `torch.compile`, and as autograd functions for
`torch.func`.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from tenreo.codec.cosine import at_least_float32, branches, dct_folded, idct_folded
from tenreo.codec.ramp import decode_ramp
from tenreo.codec.shape import Basis
from tenreo.errors import TenreoError


def curve_index(positions: Tensor, length: int, count: int, basis: Basis) -> Tensor:
    """Convert positions to the form from which `decode_columns` decodes.

    Args:
        positions: (columns,) integers in [0, length).
        length: samples on the curve.
        count: coefficients per row.
        basis: functions of the curve.
    """
    if basis is Basis.RAMP:
        return positions.to(index_type(length, positions.device))
    return folded_index(positions, length, branches(length, count))


def positions_of_index(index: Tensor, length: int, count: int, basis: Basis) -> Tensor:
    """Return the positions, (columns,) int32, of a `curve_index`."""
    if basis is Basis.RAMP:
        return index.to(torch.int32, copy=True)
    return unfolded_positions(index, length, branches(length, count))


def index_type(length: int, device: torch.device) -> torch.dtype:
    """Return the dtype of a `curve_index`: the smallest that represents it, but int32 on CUDA, which gathers by it."""
    small = torch.uint8 if length <= 2**8 else torch.int16 if length <= 2**15 else torch.int32
    return torch.int32 if device.type == "cuda" else small


def folded_index(positions: Tensor, length: int, branches: int = 1) -> Tensor:
    """Convert positions on a curve to indices of the folded curve, of the dtype `index_type`.

    >>> folded_index(torch.tensor([0, 1, 2, 3]), length=4)
    tensor([0, 3, 1, 2], dtype=torch.uint8)

    Args:
        positions: (columns,) integers in [0, length).
        length: samples on the curve.
        branches: number of branches of the folded curve; divides the length.
    """
    half = positions >> 1
    folded = torch.where(positions % 2 == 0, half, length - 1 - half)
    folded = folded % branches * (length // branches) + folded // branches
    return folded.to(index_type(length, positions.device))


def unfolded_positions(index: Tensor, length: int, branches: int = 1) -> Tensor:
    """Return the positions, (columns,) int32, of a `folded_index`."""
    index, evens, branch = index.to(torch.int32), (length + 1) // 2, length // branches
    index = index % branch * branches + index // branch
    return torch.where(index < evens, 2 * index, 2 * (length - index) - 1)


def is_tracing() -> bool:
    """Return whether torch.jit.trace is running.

    Raises:
        TenreoError: if torch.onnx.export is running; ONNX has no operator for decoding.
    """
    _refuse_onnx()
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def _refuse_onnx() -> None:
    if torch.onnx.is_in_onnx_export():
        raise TenreoError("onnx: ONNX has no operator that decodes a compressed weight; use tenreo.export(model, path)")


class SortedColumns(NamedTuple):
    """The columns sorted by their samples; used by the backward pass on CUDA only."""

    order: Tensor  # (columns,) int32, columns in ascending order of their samples
    # (length + 1,) int32, index into `order` of the first column of each sample; None if every sample has one column
    starts: Tensor | None


def sort_columns(index: Tensor, length: int) -> SortedColumns:
    """Sort columns by their samples; on a GPU, the CPU waits for the result.

    Args:
        index: (columns,) result of `folded_index`.
        length: samples on the curve.
    """
    index = index.to(torch.int32)
    counts = torch.bincount(index, minlength=length)  # (length,)
    order = torch.argsort(index, stable=True).to(torch.int32)
    if bool((counts == 1).all()):
        return SortedColumns(order, None)
    return SortedColumns(order, torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32))


def decode_columns(
    coefficients: Tensor, index: Tensor, length: int, columns: SortedColumns | None = None,
    basis: Basis = Basis.COSINE,
) -> Tensor:  # fmt: skip
    """Return every column's sample of the curve: (groups, coefficients_per_row) -> (groups, columns).

    Args:
        coefficients: (groups, coefficients_per_row) floating point.
        index: (columns,) result of `curve_index`.
        length: samples on the curve.
        columns: result of `sort_columns`, if available; otherwise CUDA sorts in every backward pass.
        basis: functions of the curve.
    """
    if basis is Basis.RAMP:
        return decode_ramp(coefficients, index, length)
    order, starts = columns or (None, None)
    # The compiler and the tracer do not support autograd functions with jvp. Otherwise the kernels are called without
    # the custom operators, whose dispatch takes longer than the decoding of a small layer.
    opaque = torch.compiler.is_compiling() or is_tracing() or isinstance(coefficients, FakeTensor)
    apply = gather_samples if opaque else _Decode.apply
    decoded: Tensor = apply(coefficients, index, length, order, starts)
    return decoded


def _gather_samples(coefficients: Tensor, index: Tensor, length: int) -> Tensor:
    return idct_folded(coefficients, length).index_select(1, index.to(torch.int32))


def _gather_adjoint(
    gradient: Tensor, index: Tensor, length: int, coefficients_per_row: int, order: Tensor | None, starts: Tensor | None
) -> Tensor:
    sums = _sum_by_sample(gradient.contiguous(), index, length, order, starts)
    return dct_folded(sums, coefficients_per_row).to(gradient.dtype)


@torch.library.custom_op("tenreo::decode", mutates_args=())
def gather_samples(
    coefficients: Tensor, index: Tensor, length: int, order: Tensor | None = None, starts: Tensor | None = None
) -> Tensor:
    """Gather samples of a curve: (groups, coefficients_per_row) -> (groups, columns).

    `order` and `starts`, those of `SortedColumns`, are used by the backward pass only.
    """
    return _gather_samples(coefficients, index, length)


@torch.library.custom_op("tenreo::decode_adjoint", mutates_args=())
def gather_adjoint(
    gradient: Tensor, index: Tensor, length: int, coefficients_per_row: int, order: Tensor | None = None,
    starts: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Apply the adjoint of `gather_samples`: (groups, columns) -> (groups, coefficients_per_row)."""
    return _gather_adjoint(gradient, index, length, coefficients_per_row, order, starts)


def _sum_by_sample(gradient: Tensor, index: Tensor, length: int, order: Tensor | None, starts: Tensor | None) -> Tensor:
    """Sum the columns at each sample, (groups, columns) -> (groups, length), always in the same order of addition.

    Half precision is summed in float32.
    """
    if not gradient.is_cuda:
        # Each row is added in order: deterministic. index_add_ with 32-bit indices would take 10 to 20 times as long.
        samples = index.long().expand_as(gradient)
        gradient = at_least_float32(gradient)
        return gradient.new_zeros(len(gradient), length).scatter_add_(1, samples, gradient)
    if order is None:
        order, starts = sort_columns(index, length)
    return gradient.index_select(1, order) if starts is None else segment_sum(gradient, order, starts)


def segment_sum(gradient: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sum sorted columns at each sample, (groups, columns) -> (groups, length), without atomic operations."""
    if len(gradient) == 1:  # with one-dimensional data, CUDA adds the columns of a sample in parallel
        row = at_least_float32(gradient[0].index_select(0, order))
        return torch.segment_reduce(row, "sum", offsets=starts, axis=0, unsafe=True, initial=0)[None]
    ordered = at_least_float32(gradient.t().index_select(0, order))  # (columns, groups)
    sums = torch.segment_reduce(ordered, "sum", offsets=starts, axis=0, unsafe=True, initial=0)
    return sums.t().contiguous()


@gather_samples.register_fake
def _(
    coefficients: Tensor, index: Tensor, length: int, order: Tensor | None = None, starts: Tensor | None = None
) -> Tensor:
    _refuse_onnx()  # the ONNX exporter compiles, so `decode_columns` does not call is_tracing()
    return coefficients.new_empty(coefficients.shape[0], index.shape[0])


@gather_adjoint.register_fake
def _(
    gradient: Tensor, index: Tensor, length: int, coefficients_per_row: int, order: Tensor | None = None,
    starts: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return gradient.new_empty(gradient.shape[0], coefficients_per_row)


def _vmap(operator: Any, info: Any, in_dims: Any, values: Tensor, *others: Any) -> tuple[Tensor, int]:
    """Implement `torch.vmap` for decoding and its adjoint: treat a batch of matrices as one matrix with more rows."""
    if in_dims[0] is None or any(dim is not None for dim in in_dims[1:]):
        raise NotImplementedError("vmap over the positions of a compressed weight")
    result = operator(values.movedim(in_dims[0], 0).flatten(0, 1), *others)  # (batch * groups, ...)
    return result.reshape(info.batch_size, -1, result.shape[1]), 0


for _operator in (gather_samples, gather_adjoint):
    _operator.register_vmap(partial(_vmap, _operator))


def _save_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    coefficients, index, ctx.length, order, starts = inputs
    ctx.coefficients_per_row = coefficients.shape[-1]
    ctx.save_for_backward(index, order, starts)


def _samples_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    index, order, starts = ctx.saved_tensors
    adjoint = gather_adjoint(gradient, index, ctx.length, ctx.coefficients_per_row, order, starts)
    return adjoint, None, None, None, None


gather_samples.register_autograd(_samples_backward, setup_context=_save_context)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        coefficients: Tensor, index: Tensor, length: int, order: Tensor | None, starts: Tensor | None
    ) -> Tensor:
        return _gather_samples(coefficients, index, length)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[1], *inputs[3:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        index, order, starts = ctx.saved_tensors
        adjoint = _Adjoint.apply(gradients[0], index, ctx.length, ctx.coefficients_per_row, order, starts)
        return adjoint, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        index, order, starts = ctx.saved_tensors
        decoded: Tensor = _Decode.apply(tangents[0], index, ctx.length, order, starts)
        return decoded

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        return _vmap(_Decode.apply, info, in_dims, *inputs)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        gradient: Tensor, index: Tensor, length: int, coefficients_per_row: int, order: Tensor | None,
        starts: Tensor | None,
    ) -> Tensor:  # fmt: skip
        return _gather_adjoint(gradient, index, length, coefficients_per_row, order, starts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, index, ctx.length, ctx.coefficients_per_row, order, starts = inputs
        ctx.save_for_backward(index, order, starts)
        ctx.save_for_forward(index, order, starts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        index, order, starts = ctx.saved_tensors
        decoded = _Decode.apply(gradients[0], index, ctx.length, order, starts)
        return decoded, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        index, order, starts = ctx.saved_tensors
        adjoint: Tensor = _Adjoint.apply(tangents[0], index, ctx.length, ctx.coefficients_per_row, order, starts)
        return adjoint

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        return _vmap(_Adjoint.apply, info, in_dims, *inputs)

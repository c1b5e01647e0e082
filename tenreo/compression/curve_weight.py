"""The parametrization of one weight by a curve: decoding, fitting, state dict and device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from tenreo.codec.cosine import twiddles
from tenreo.codec.decoding import (
    SortedColumns,
    curve_index,
    decode_columns,
    index_type,
    is_tracing,
    positions_of_index,
    sort_columns,
)
from tenreo.codec.encode import EncodedWeight, project
from tenreo.codec.shape import Basis, CurveShape, Precision
from tenreo.compression.column_order import can_have_channels_last, channels_first, channels_last
from tenreo.compression.decoded_weight import DecodedWeight
from tenreo.compression.kept_weight import KeptWeight
from tenreo.errors import TenreoError
from tenreo.files.records import LayerErrors
from tenreo.planning.recipe import Recipe

_POSITIONS = "positions"  # key in a state dict


class CurveWeight(nn.Module):
    """Parametrization of a weight by the coefficients of a curve, with fixed positions.

    `forward` decodes; `right_inverse` fits the curve to a weight's columns by least squares, so that
    forward(right_inverse(forward(c))) == forward(c).

    Positions are in the state dict but are not a buffer. Weight averaging changes all buffers and all values of a state
    dict, but an average of positions has no meaning.

    Args:
        encoded: encoded weight; its coefficients become the layer's parameter at registration.
        precision: number format of the coefficients in a file; in memory they keep their dtype.
        errors: errors relative to the dense weight, if known.

    Attributes:
        recipe: recipe that the model was compressed with, which `save` uses if it is given none.
        digest: digest of the model's dense tensors, which files state as their origin; empty if unknown.
        initial: coefficients that the registration as a parametrization takes; None after it.
        coded: the entropy-coded positions, kept so that they are coded only once; None if they have not been coded.
    """

    recipe: Recipe | None = None
    digest = ""
    coded: Tensor | None = None

    def __init__(self, encoded: EncodedWeight, precision: Precision, errors: LayerErrors) -> None:
        super().__init__()
        groups, per_row = encoded.coefficients.shape
        self.curve = CurveShape(groups, encoded.length, per_row, precision, encoded.memory, encoded.basis)
        self.shape = encoded.shape
        self.errors = errors
        self._index: Tensor  # (columns,), with channels last if the weight has them last
        self._channels_last = False
        self._dtype = encoded.coefficients.dtype  # that of the coefficients in the last decoding
        self._sorted: SortedColumns | None  # on CUDA
        self._twiddles: tuple[Tensor, ...] | None  # held so that decoding finds them
        self._lent: Tensor | None  # copy of the positions in the last state dict; changing it is an error
        self._kept: KeptWeight
        self._set_positions(encoded.positions)
        self.initial: Tensor | None = encoded.coefficients

    @property
    def positions(self) -> Tensor:
        """A copy of the positions, (columns,) int32 in [0, length)."""
        curve, index = self.curve, self._index
        if self._channels_last:
            index = channels_first(index, self.shape, curve.groups)
        return positions_of_index(index, curve.length, curve.coefficients_per_row, curve.basis)

    def forward(self, coefficients: Tensor) -> Tensor:
        """Decode coefficients, (groups, coefficients_per_row), to a weight of shape `shape`."""
        return self._decode(coefficients)

    def keeps(self, coefficients: Tensor) -> bool:
        """Return whether `kept` may be called: in evaluation mode, after the last state dict has been checked."""
        return not self.training and self._lent is None and KeptWeight.may_stand_for(coefficients)

    def kept(self, coefficients: Tensor) -> Tensor:
        """Return the weight of the last call, decoded again if the coefficients have changed since."""
        return self._kept.get(coefficients, self._decode)

    def train(self, mode: bool = True) -> CurveWeight:
        """Set the mode, and release the kept weight."""
        self._kept = KeptWeight()
        return super().train(mode)

    def _decode(self, coefficients: Tensor) -> Tensor:
        compiling = torch.compiler.is_compiling()
        if not compiling:  # the compiler cannot trace these steps
            self._prepare(coefficients)
        curve = self.curve
        columns = decode_columns(coefficients, self._index, curve.length, self._sorted, curve.basis)
        if self._channels_last:
            weight = columns.reshape(self.shape[0], *self.shape[2:], self.shape[1]).movedim(-1, 1)
        else:
            weight = columns.reshape(self.shape)
        return weight if compiling or is_tracing() else weight.as_subclass(DecodedWeight)

    def _prepare(self, coefficients: Tensor) -> None:
        """Check the last state dict, and move what decoding needs to the coefficients' device."""
        if self._lent is not None:
            lent, self._lent = self._lent, None
            # Averaging equal positions can round them down by one; such a change is harmless and is ignored.
            if lent._version and bool(((lent - self.positions.to(lent.device)).abs() > 1).any()):
                raise TenreoError(
                    "positions: they were overwritten in the state dict of a compressed model, which does not change "
                    "the model; use load_state_dict"
                )
        if self._index.device != coefficients.device or self._index.is_inference():
            self._set_index(self._index.to(coefficients.device))
        if self._twiddles is None or self._dtype != coefficients.dtype:
            self._dtype = coefficients.dtype
            self._hold_twiddles()

    def _set_positions(self, positions: Tensor) -> None:
        curve = self.curve
        index = curve_index(positions, curve.length, curve.coefficients_per_row, curve.basis)
        self._set_index(channels_last(index, self.shape, curve.groups) if self._channels_last else index)

    def _set_index(self, index: Tensor) -> None:
        """Set the index, and on CUDA all that follows from it, which compiled code and CUDA graphs cannot compute."""
        with torch.inference_mode(False):  # a backward pass cannot use tensors that were made in inference mode
            index = index.to(index_type(self.curve.length, index.device))
            self._index = index.clone() if index.is_inference() else index
            self._sorted = self._twiddles = self._lent = None
            if index.is_cuda and self.curve.basis is Basis.COSINE:
                self._sorted = sort_columns(self._index, self.curve.length)
                self._hold_twiddles()
        self._kept, self.coded = KeptWeight(), None

    def _hold_twiddles(self) -> None:
        curve, self._twiddles = self.curve, ()
        if curve.basis is Basis.COSINE:
            self._twiddles = twiddles(curve.length, curve.coefficients_per_row, self._dtype, self._index.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CurveWeight:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # What `fn` does to a weight; it must not be given the weight itself, which would have to be decoded.
        like = self._index.new_empty(2, 2, 2, 2, dtype=self._dtype)
        like = fn(like.to(memory_format=torch.channels_last) if self._channels_last else like)
        last = not like.is_contiguous() and can_have_channels_last(self.shape, self.curve.groups)
        index = fn(self._index)
        if last != self._channels_last:
            index = (channels_last if last else channels_first)(index, self.shape, self.curve.groups)
        self._dtype, self._channels_last = like.dtype, last
        self._set_index(index)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        with torch.inference_mode(False):  # such a tensor would not count the changes that `_prepare` looks for
            self._lent = destination[prefix + _POSITIONS] = self.positions

    def end_loan(self) -> None:
        """Drop the copy of the positions that the last state dict contains, after a caller that did not change it."""
        self._lent = None

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        name = prefix + _POSITIONS
        unexpected_keys += [key for key in state_dict if strict and key.startswith(prefix) and key != name]
        if name not in state_dict:
            missing_keys += [name] if strict else []
            return
        given, length = state_dict[name], self.curve.length
        if given.is_floating_point() or given.shape != self._index.shape:
            error_msgs.append(f"{name}: given {given.dtype} {list(given.shape)}, needs {len(self._index)} integers")
        elif given.numel() and not 0 <= int(given.min()) <= int(given.max()) < length:
            error_msgs.append(f"{name}: given positions outside [0, {length})")
        else:
            device = given.device if self._index.is_meta else self._index.device
            self._set_positions(given.to(device))

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_sorted": None,
            "_twiddles": None,
            "_lent": None,
            "_kept": KeptWeight(),
            "coded": None,
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> CurveWeight:
        constants = (*(self._sorted or ()), *(self._twiddles or ()))
        memo.update((id(each), each) for each in constants)  # computing them again would wait for a GPU
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(deepcopy({**self.__dict__, "_lent": None, "_kept": KeptWeight()}, memo))
        return copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._set_index(self._index)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Fit coefficients, (groups, coefficients_per_row), to a weight of shape `shape`."""
        if self.initial is not None:  # registration calls this once, and must get the encoded coefficients unchanged
            initial, self.initial = self.initial, None
            return initial
        return project(weight, self.positions, self.curve)

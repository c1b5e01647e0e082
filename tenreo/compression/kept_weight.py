"""Keeping the decoded weight of a layer in evaluation, so that a served model decodes every weight only once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class KeptWeight:
    """The decoded weight of one layer, kept until the coefficients change."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[int, int, int], Tensor] | None = None  # state of the coefficients, decoded weight

    @staticmethod
    def may_stand_for(coefficients: Tensor) -> bool:
        """Return whether a kept weight may be used instead of decoding: without gradients, for plain parameters.

        Transforms of torch.func pass tensors that are not parameters, tensors of inference mode count no changes, and
        tracers and other modes of torch's dispatcher have to see the decoding.
        """
        if torch.is_grad_enabled() or type(coefficients) is not nn.Parameter or coefficients.is_inference():
            return False
        if is_in_torch_dispatch_mode() or torch.compiler.is_compiling():
            return False
        return not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]

    def get(self, coefficients: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the weight of the last call, decoded again if the coefficients have changed since.

        Args:
            coefficients: the layer's parameter; another parameter counts as a change, too.
            decode: function that returns the weight of coefficients.
        """
        # Read before decoding, because another thread may change the coefficients meanwhile.
        state = id(coefficients), coefficients._version, coefficients.data_ptr()
        kept = self._kept
        if kept is None or kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():  # so that it can be used outside of inference mode
                kept = self._kept = state, decode(coefficients)
        return kept[1]

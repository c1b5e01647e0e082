"""The read-only weight that a compressed layer returns; in-place edits raise an error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tenreo.errors import TenreoError

_ALLOWED = ("requires_grad_", "rename_", "detach_")  # in-place methods that do not change values


class DecodedWeight(Tensor):
    """A decoded tensor that refuses in-place edits, because the next decoding would discard them.

    Operations on it return plain tensors. Without this class, `torch.nn.init` and tools that merge updates into
    `layer.weight.data`, such as those for low-rank adaptation, would silently leave the layer unchanged.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def data(self) -> DecodedWeight:
        """The same values without gradients, also read-only."""
        return super().detach().as_subclass(DecodedWeight)

    @data.setter
    def data(self, value: Tensor) -> None:
        """Raise an error."""
        _refuse()

    def detach(self) -> DecodedWeight:
        """Return the same values without gradients, also read-only."""
        return super().detach().as_subclass(DecodedWeight)

    def __setitem__(self, index: Any, value: Any) -> None:
        _refuse()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return super().detach().clone().as_subclass(Tensor)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def _refuse(*_: Any, **__: Any) -> None:
    raise TenreoError(
        "weight: the weight of a compressed layer is decoded from its coefficients, so an in-place change would be "
        "lost; assign a tensor to layer.weight, which fits the coefficients to it, or call tenreo.expand_(model) first"
    )


for _name in dir(Tensor):
    _in_place = _name.endswith("_") and not _name.startswith("_") and _name not in _ALLOWED
    if _in_place or (_name.startswith("__i") and hasattr(Tensor, f"__{_name[3:]}")):
        setattr(DecodedWeight, _name, _refuse)

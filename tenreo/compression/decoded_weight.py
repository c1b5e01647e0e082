"""The weight of a compressed layer as it is seen from outside: a value that changing in place would not change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tenreo.errors import TenreoError

_HARMLESS = ("requires_grad_", "rename_", "detach_")


class DecodedWeight(Tensor):
    """A tensor that refuses to be changed in place, because it was decoded and the change would be lost.

    Operations on it give plain tensors. Without this class, merging an update into `layer.weight.data`, as tools for
    low-rank adaptation do, and `torch.nn.init` would silently leave the layer as it is.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def data(self) -> DecodedWeight:
        """The same values, without gradients."""
        return super().detach().as_subclass(DecodedWeight)

    @data.setter
    def data(self, value: Tensor) -> None:
        """Refused."""
        _refuse()

    def detach(self) -> DecodedWeight:
        """The same values, without gradients."""
        return super().detach().as_subclass(DecodedWeight)

    def __setitem__(self, index: Any, value: Any) -> None:
        _refuse()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return super().detach().clone().as_subclass(Tensor)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def _refuse(*_: Any, **__: Any) -> None:
    raise TenreoError(
        "weight: is decoded from the coefficients of a compressed layer, and a change in place would be lost; "
        "assign a tensor to layer.weight, which fits the coefficients to it, or call tenreo.expand_(model) first"
    )


for _name in dir(Tensor):
    _in_place = _name.endswith("_") and not _name.startswith("_") and _name not in _HARMLESS
    if _in_place or (_name.startswith("__i") and hasattr(Tensor, f"__{_name[3:]}")):
        setattr(DecodedWeight, _name, _refuse)

"""Building models without random initialization, for models whose values are read from a file."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_RANDOM_FILLS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


class Uninitialized(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which tensors are not filled with random numbers.

    Untouched memory pages are never allocated, and random initialization would take longer than reading the file.

    >>> with Uninitialized():
    ...     layer = torch.nn.Linear(3, 2)
    >>> layer.weight.shape
    torch.Size([2, 3])
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, unless it fills a tensor with random numbers."""
        return args[0] if func in _RANDOM_FILLS else func(*args, **(kwargs or {}))

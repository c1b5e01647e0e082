"""The exponential moving average of a model's weights over the steps of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Averaged parameters and running statistics: average += (1 - decay) * (value - average).

    Early in a run the decay is (1 + step) / (10 + step), so that the start is soon forgotten
    (TensorFlow's ExponentialMovingAverage).

    Args:
        model: averaged from how it is now.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.values = {name: t.detach().clone() for name, t in _tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Include the weights after one step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.values.values()), list(_tensors(model).values()), 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averages into the model for a while."""
        own = {name: t.detach().clone() for name, t in _tensors(model).items()}
        self.copy_to(model)
        try:
            yield
        finally:
            _copy(model, own)

    def copy_to(self, model: nn.Module) -> None:
        """Give a model the averages for good."""
        _copy(model, self.values)

    def state_dict(self) -> dict[str, Tensor | int]:
        """All that a later run needs to go on."""
        return {**self.values, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Go on from `state_dict`; raises KeyError or RuntimeError when it is of another model."""
        self.steps = int(state["steps"])
        for name, value in self.values.items():
            value.copy_(torch.as_tensor(state[name]))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    floating = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.detach() for name, t in floating if t.is_floating_point()}


def _copy(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, tensor in _tensors(model).items():
        tensor.copy_(values[name])

"""Exponential moving average of the weights of a model during training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tenreo.codec.cosine import at_least_float32


class ExponentialMovingAverage:
    """Averages of parameters and running statistics: average += (1 - decay) * (value - average).

    The decay of step n is at most (1 + n) / (10 + n), which reduces the influence of the initial weights (as in
    TensorFlow's ExponentialMovingAverage).

    Args:
        model: model whose current weights are the initial averages.
        decay: decay per step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        # In half precision, the small part of a new weight would be lost in the rounding.
        self.values = {name: at_least_float32(t).clone() for name, t in _tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the averages with the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        weights = [at_least_float32(t) for t in _tensors(model).values()]
        torch._foreach_lerp_(list(self.values.values()), weights, 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averages inside the context, and restore its weights afterwards."""
        weights = {name: t.clone() for name, t in _tensors(model).items()}
        self.copy_to(model)
        try:
            yield
        finally:
            _copy(model, weights)

    def copy_to(self, model: nn.Module) -> None:
        """Replace the weights of a model by the averages."""
        _copy(model, self.values)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the averages and the number of steps."""
        return {**self.values, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Load the result of `state_dict`; raises KeyError or RuntimeError if it belongs to another model."""
        self.steps = int(state["steps"])
        for name, value in self.values.items():
            value.copy_(torch.as_tensor(state[name], device=value.device))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point parameters and buffers of a model, by name."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.detach() for name, t in tensors if t.is_floating_point()}


def _copy(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, tensor in _tensors(model).items():
        tensor.copy_(values[name])

"""Tensors that were made in torch's inference mode, which can be neither trained nor changed outside of it."""

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def make_trainable_(model: nn.Module) -> None:
    """Replace a model's tensors that were made in inference mode by equal ones, in place; tied tensors stay tied.

    Call this outside of inference mode.
    """
    replaced: dict[int, tuple[Tensor, Tensor]] = {}  # by `id`; the old tensor is kept so that its id stays unique
    for module in model.modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is None or is_lazy(value) or not value.is_inference():
                continue
            if id(value) not in replaced:
                copy = value.detach().clone()
                is_parameter = isinstance(value, nn.Parameter)
                replaced[id(value)] = value, nn.Parameter(copy, value.requires_grad) if is_parameter else copy
            setattr(module, name, replaced[id(value)][1])

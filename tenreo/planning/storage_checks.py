"""Checks that a file can store the tensors of a model: for a plan, and again when the file is written."""

from collections.abc import Container, Mapping

import torch
from torch import Tensor, nn

from tenreo.errors import TenreoError
from tenreo.files.safetensors import check_plain, check_values
from tenreo.modules.ties import has_values, stored_state
from tenreo.planning.recipe import DenseDtype


def check_storable(model: nn.Module, dtype: DenseDtype, compressed: Container[str]) -> None:
    """Raise unless a file can store a model once some of its parameters are compressed.

    Values are checked only where there are some: a model on the meta device can be planned.

    Args:
        model: model, which may have compressed layers already.
        dtype: number format of dense tensors in the file.
        compressed: names of the parameters that will be compressed.

    Raises:
        TenreoError: naming a tensor that a file cannot store.
    """
    state = model.state_dict()
    check_tensors("plan", state)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in stored_state(model).items():
        try:
            check_plain(name, tensor, values=False)
        except ValueError as error:
            raise TenreoError(f"plan: a file cannot store the model: {error}") from error
        if not tensor.is_meta:
            check_values("plan: a file cannot store the model", {name: tensor}, {name: tensor}, parameters)
            if name not in compressed and ".parametrizations." not in f".{name}":
                stored_dense(name, tensor, dtype)


def check_tensors(source: str, state: Mapping[str, object]) -> None:
    """Raise if an entry of a state dict is not a tensor with values, as results of `get_extra_state` may be.

    Raises:
        TenreoError: naming the entry; the message begins with the source.
    """
    for name, value in state.items():
        if value is not None and not has_values(value):
            raise TenreoError(
                f"{source}: {name} is a {type(value).__name__}; a file can store only tensors with values"
            )


def stored_dense(name: str, tensor: Tensor, dtype: DenseDtype) -> Tensor:
    """Return a dense tensor in the number format in which a file stores it; integers stay as they are.

    Raises:
        TenreoError: if a value does not fit into the format.
    """
    if dtype == DenseDtype.FLOAT32 or not tensor.is_floating_point():
        return tensor
    cast = tensor.to(getattr(torch, dtype))
    if not torch.equal(torch.isfinite(cast), torch.isfinite(tensor)):
        raise TenreoError(
            f"{name}: a value of {tensor.abs().max():.3g} does not fit into {dtype}; choose dense_dtype bfloat16"
        )
    return cast

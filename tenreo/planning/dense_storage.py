"""Storage of the uncompressed tensors of a model: their form in a file, and checks that the file can store them.

Coded tensors are rounded. Their step, relative to the magnitude of a tensor, is a fixed fraction of the relative error
of the compressed weights, so that both contribute alike to the error of the outputs (docs/research/size.md).
"""

import math
from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor, nn

from tenreo.errors import TenreoError
from tenreo.files.layout import DENSE
from tenreo.files.safetensors import check_plain, check_values
from tenreo.modules.ties import has_values, stored_state
from tenreo.planning.recipe import DenseDtype

_FRACTION = 0.1  # of the step and the relative error of the compressed weights
_UNKNOWN_SNR, _MOST_SNR = 30.0, 100.0  # in dB, of layers whose error is unknown, and the most that makes a difference


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
    """Raise if a file cannot store an entry of a state dict, whatever its values.

    Raises:
        TenreoError: if an entry is not a tensor with values, as results of `get_extra_state` may be, or has the name
            of the tensor in which a file stores coded tensors. The message begins with the source, and names the entry.
    """
    if DENSE in state:
        raise TenreoError(
            f"{source}: {DENSE} is a name that files reserve for themselves; rename the module or the tensor"
        )
    for name, value in state.items():
        if value is not None and not has_values(value):
            raise TenreoError(
                f"{source}: {name} is a {type(value).__name__}; a file can store only tensors with values"
            )


def stored_dense(name: str, tensor: Tensor, dtype: DenseDtype) -> Tensor:
    """Return a dense tensor in the number format in which a file stores it; coded ones and integers stay as they are.

    Raises:
        TenreoError: if a value does not fit into the format.
    """
    if dtype in (DenseDtype.FLOAT32, DenseDtype.CODED) or not tensor.is_floating_point():
        return tensor
    cast = tensor.to(getattr(torch, dtype))
    if not torch.equal(torch.isfinite(cast), torch.isfinite(tensor)):
        raise TenreoError(
            f"{name}: a value of {tensor.abs().max():.3g} does not fit into {dtype}; choose dense_dtype bfloat16"
        )
    return cast


def dense_step(layers: Iterable[tuple[int, float | None]]) -> float:
    """Return the relative step of coded dense tensors.

    >>> round(dense_step([(1000, 20.0), (3000, 24.0)]), 4)
    0.0071

    Args:
        layers: number of weights, and SNR in dB or None if it is unknown, of every compressed layer.
    """
    known = [(numel, min(max(snr, 0.0), _MOST_SNR)) for numel, snr in layers if snr is not None and math.isfinite(snr)]
    total = sum(numel for numel, _ in known)
    mean = sum(numel * snr for numel, snr in known) / total if total else _UNKNOWN_SNR
    return _FRACTION * math.exp(-mean / 20 * math.log(10))

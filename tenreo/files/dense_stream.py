"""Dense tensors of a file that are coded together in one tensor of bytes, `tenreo.dense`.

The header lists their names, dtypes and shapes under the key of the same name. Running variances have logarithmic
grids, and running means have the steps of the corresponding deviations.
"""

from collections.abc import Container, Mapping

import torch
from torch import Tensor

from tenreo.codec.grid import Grid, decode_levels, encode_levels, grid_of
from tenreo.errors import TenreoError
from tenreo.files.header import Header
from tenreo.files.layout import DENSE, TensorRecord
from tenreo.files.safetensors import DTYPES, TORCH_DTYPES, record

_MEAN, _VARIANCE = ".running_mean", ".running_var"
_NORMAL = 1e-5  # is added to variances, as BatchNorm does by default, since a deviation of zero is no scale


def encode_dense(
    tensors: Mapping[str, Tensor], parameters: Container[str], step: float
) -> tuple[Tensor, dict[str, TensorRecord]]:
    """Encode the tensors that can be rounded: parameters, BatchNorm statistics and integers.

    Other floating-point buffers, such as frequencies and masks, may need any digit of their values.

    Args:
        tensors: tensors on the CPU by name.
        parameters: names of the tensors that are parameters.
        step: relative distance of neighboring levels (`tenreo.codec.grid.grid_of`).

    Returns:
        (bytes,) uint8, and the records of the encoded tensors by name, in the order of the stream; empty if none can be
        encoded.
    """
    grids = _grids(tensors, parameters, step)
    stream = encode_levels((grid, tensors[name]) for name, grid in grids.items()) if grids else None
    if stream is None:
        return torch.zeros(0, dtype=torch.uint8), {}
    return torch.from_numpy(stream), {name: record(tensors[name]) for name in grids}


def rounded_dense(tensors: Mapping[str, Tensor], parameters: Container[str], step: float) -> dict[str, Tensor]:
    """Return the tensors that `encode_dense` encodes, as `decode_dense` returns them."""
    return {
        name: grid.values(grid.levels(tensors[name].double())).to(tensors[name].dtype)
        for name, grid in _grids(tensors, parameters, step).items()
    }


def _grids(tensors: Mapping[str, Tensor], parameters: Container[str], step: float) -> dict[str, Grid]:
    """Return the grids of the tensors that are encoded, by name."""
    return {name: grid for name in sorted(tensors) if (grid := _grid(name, tensors, parameters, step)) is not None}


def _grid(name: str, tensors: Mapping[str, Tensor], parameters: Container[str], step: float) -> Grid | None:
    tensor = tensors[name]
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        return None  # no file can store it
    variance = tensors.get(name.removesuffix(_MEAN) + _VARIANCE) if name.endswith(_MEAN) else None
    if name.endswith(_VARIANCE) and tensor.is_floating_point():
        return grid_of(tensor, step, logarithmic=True)
    if variance is not None:
        return grid_of(tensor, step, scale=(variance.double() + _NORMAL).sqrt())
    return grid_of(tensor, step) if name in parameters or not tensor.is_floating_point() else None


def decode_dense(header: Header, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file by name, with those of the stream instead of the stream itself.

    Raises:
        TenreoError: if the stream is damaged.
    """
    if not header.coded:
        return dict(tensors)
    sizes = [(each.numel, name.endswith(_VARIANCE) and each.is_floating) for name, each in header.coded.items()]
    try:
        decoded = decode_levels(tensors[DENSE].numpy(), sizes)
    except TenreoError as error:
        raise TenreoError(f"{header.path}: {error}") from error
    plain = {name: tensor for name, tensor in tensors.items() if name != DENSE}
    for (name, each), values in zip(header.coded.items(), decoded, strict=True):
        plain[name] = values.to(TORCH_DTYPES[each.dtype]).reshape(each.shape)
    return plain

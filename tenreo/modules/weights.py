"""The weights of a model that can be compressed: floating-point parameters of two dimensions or more."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from tenreo.codec.shape import CurveShape
from tenreo.files.records import MOST_DIMENSIONS

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Hooks of pruning, spectral_norm and weight_norm compute `weight` from parameters with these endings.
_HOOK_SUFFIXES = ("_orig", "_v", "_g")


@dataclass(frozen=True)
class Weight:
    """A tensor of a module, with its names.

    Attributes:
        module: module that has the tensor.
        tensor: name of the tensor in the module, such as weight, in_proj_weight or weight_ih_l0.
        path: name of the module in the model.
    """

    module: nn.Module
    tensor: str
    path: str

    @property
    def parameter(self) -> str:
        """The name in the state dict of the dense model."""
        return f"{self.path}.{self.tensor}" if self.path else self.tensor

    @property
    def name(self) -> str:
        """The name of the layer: the module's name, followed by the tensor's unless that is "weight".

        A weight of the model itself has the name of the tensor.

        >>> layer = nn.Linear(4, 4)
        >>> [Weight(layer, *names).name for names in (("weight", "fc"), ("in_proj_weight", "attn"), ("weight", ""))]
        ['fc', 'attn.in_proj_weight', 'weight']
        """
        return self.path if self.path and self.tensor == "weight" else self.parameter

    @property
    def curve(self) -> CurveShape | None:
        """The shape of the encoding if the tensor is compressed already, None otherwise."""
        if not parametrize.is_parametrized(self.module, self.tensor):
            return None
        curve = getattr(self.module.get_submodule(f"parametrizations.{self.tensor}.0"), "curve", None)
        return curve if isinstance(curve, CurveShape) else None

    @property
    def value(self) -> Tensor:
        """The tensor, detached; decoded if it is compressed."""
        value: Tensor = getattr(self.module, self.tensor)
        return value.detach()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor; () for a lazy layer without values."""
        value: Any = getattr(self.module, self.tensor)
        return () if is_lazy(value) else tuple(value.shape)

    @property
    def norm(self) -> float:
        """The Euclidean norm; 1 if it is zero, not finite, or unknown because the tensor has no values."""
        value = self.value
        norm = 1.0 if value.is_meta else value.double().norm().item()
        return norm if math.isfinite(norm) and norm > 0 else 1.0


def find_weights(model: nn.Module) -> dict[str, Weight]:
    """Return every weight of a model, by the name of its layer.

    >>> list(find_weights(nn.TransformerEncoderLayer(8, 2, 16)))
    ['self_attn.in_proj_weight', 'self_attn.out_proj', 'linear1', 'linear2']
    """
    weights = (
        Weight(module, tensor, path)
        for path, module in model.named_modules()
        if ".parametrizations." not in f".{path}."
        for tensor in _tensors(module)
    )
    return {weight.name: weight for weight in weights}


def _tensors(module: nn.Module) -> Iterator[str]:
    """Return the names of a module's parameters of two dimensions or more, including those that hooks compute."""
    names: dict[str, Any] = dict(module._parameters)
    if parametrize.is_parametrized(module):
        names |= dict.fromkeys(module.get_submodule("parametrizations")._modules)
    computed = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
    sources = [name + suffix for name in computed for suffix in _HOOK_SUFFIXES]
    hooked = [name for name in computed if any(name + suffix in names for suffix in _HOOK_SUFFIXES)]
    for name in (*(name for name in names if name not in sources), *hooked):
        value = getattr(module, name)
        if isinstance(value, Tensor) and (is_lazy(value) or (value.dim() > 1 and not _is_integer(value))):
            yield name


def _is_integer(value: Tensor) -> bool:
    return not value.is_floating_point() and not value.is_complex()


def parameter_names(model: nn.Module) -> Mapping[int, list[str]]:
    """Return all names of every parameter of a model, by the parameter's `id`."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def why_incompressible(weight: Weight, names: Mapping[int, list[str]]) -> str:
    """Return why a tensor cannot be replaced by a curve; an empty text if it can. The names are `parameter_names`."""
    module, tensor = weight.module, weight.tensor
    if isinstance(module, torch.jit.ScriptModule):
        return "its layer is compiled by torch.jit; use the layer that it was made from"
    if parametrize.is_parametrized(module, tensor):
        kind = type(module.get_submodule(f"parametrizations.{tensor}.0")).__name__
        return f"its weight is parametrized already ({kind}); tenreo.expand_ or remove_parametrizations makes it dense"
    value = module._parameters.get(tensor)
    if weight.shape and (0 in weight.shape or len(weight.shape) > MOST_DIMENSIONS):
        return f"its weight has the shape {list(weight.shape)}, needs 2 to {MOST_DIMENSIONS} dimensions, none of them 0"
    if value is None:
        return "its weight is computed by a hook, for example of pruning or weight_norm; remove the hook first"
    if is_lazy(value):
        return "its weight is not initialized yet; run the model once"
    if type(value.data) is not Tensor:
        return f"its weight is a {type(value.data).__name__}, not a plain tensor"
    if value.dtype not in _DTYPES:
        return f"its weight is {value.dtype}, not one of {', '.join(str(dtype) for dtype in _DTYPES)}"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and (module.sparse or module.max_norm is not None):
        return "its weight has sparse gradients or is renormalized in place"
    own = names[id(value)]
    return f"its weight is shared: {' and '.join(own[:3])} are one tensor" if len(own) > 1 else ""

"""Rules: which weights are compressed, and the reference size of progressive rates.

A rule is looked up by the qualified names of a model's class and its base classes, so torchvision is never imported. It
decides by the traits of a weight, which follow from its module, or from its name and shape in a file.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from tenreo.files.layout import TensorRecord, layer_name
from tenreo.files.records import MOST_DIMENSIONS
from tenreo.modules.layer_types import CONVOLUTIONS
from tenreo.modules.weights import Weight, find_weights, parameter_names, why_incompressible

_GENERAL_LEAST = 4096  # elements of a weight, so that the gain exceeds the overhead
MOST_COLORS = 4  # input channels of a first convolution
# Parts of the names of tensors that are no weights, although they have several dimensions.
_NO_WEIGHTS = re.compile("bias|mask|embed|norm|freq|log|table|token|scale|anchor|cache|running|index|window|std")


@dataclass(frozen=True)
class Traits:
    """What decides whether a weight is compressed.

    Attributes:
        name: name of the layer.
        parameter: name of the weight in the state dict of the dense model.
        shape: shape of the weight.
        is_matrix: whether it multiplies inputs or is looked up by them.
        is_convolution: whether it is the kernel of a convolution.
        is_depthwise: whether every output channel of the convolution has a single input channel.
        is_first: whether the convolution is the first one, over images. A one-dimensional one is often a filter bank
            of 10^5 elements, as large as any other layer.
        why_incompressible: reason why no curve can replace it; empty if one can.
    """

    name: str
    parameter: str
    shape: tuple[int, ...]
    is_matrix: bool
    is_convolution: bool
    is_depthwise: bool
    is_first: bool
    why_incompressible: str = ""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def traits_of_model(model: nn.Module) -> list[Traits]:
    """Return the traits of every weight of a model, in the model's order."""
    weights, names = find_weights(model), parameter_names(model)
    first = next((name for name, weight in weights.items() if isinstance(weight.module, CONVOLUTIONS)), None)

    def traits(weight: Weight) -> Traits:
        """Return the traits of a weight of the model."""
        layer = weight.module
        return Traits(
            name=weight.name, parameter=weight.parameter, shape=weight.shape, is_matrix=_is_matrix(weight),
            is_convolution=isinstance(layer, CONVOLUTIONS),
            is_depthwise=isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels > 1,
            is_first=weight.name == first and _covers_area(weight.shape),
            why_incompressible=why_incompressible(weight, names),
        )  # fmt: skip

    return [traits(weight) for weight in weights.values()]


def traits_of_tensors(tensors: Mapping[str, TensorRecord]) -> list[Traits]:
    """Return the traits of every tensor of two dimensions or more in files, in the order of the files.

    Names and shapes do not tell an embedding or a recurrent layer from a linear one, which all are matrices. The first
    convolution over images is the one with the fewest input channels, if these can be colors.

    >>> (traits,) = traits_of_tensors({"conv1.weight": TensorRecord("F16", (64, 3, 7, 7))})
    >>> traits.name, traits.is_matrix, traits.is_first
    ('conv1', True, True)

    Args:
        tensors: dtypes and shapes by name.
    """
    floating = {name: each for name, each in tensors.items() if each.is_floating and len(each.shape) > 1}
    inputs = {n: each.shape[1] for n, each in floating.items() if _names_weight(n) and each.shape[1] > 1}
    kernels = {name: count for name, count in inputs.items() if _covers_area(floating[name].shape)}
    fewest = min(kernels.values(), default=0)
    first = next((name for name, count in kernels.items() if count == fewest <= MOST_COLORS), None)

    def traits(name: str, shape: tuple[int, ...]) -> Traits:
        """Return the traits of a tensor of a file."""
        fits = 0 not in shape and len(shape) <= MOST_DIMENSIONS
        why = "" if fits else f"it has the shape {list(shape)}, needs 2 to {MOST_DIMENSIONS} dimensions, none of them 0"
        if not why and layer_name(name) != name and layer_name(name) in tensors:
            why = f"the tensor {layer_name(name)} has the name of its layer"
        convolution = len(shape) > 2
        return Traits(
            name=layer_name(name), parameter=name, shape=shape, is_matrix=_names_weight(name),
            is_convolution=convolution, is_depthwise=convolution and shape[1] == 1, is_first=name == first,
            why_incompressible=why,
        )  # fmt: skip

    return [traits(name, each.shape) for name, each in floating.items()]


def _covers_area(shape: tuple[int, ...]) -> bool:
    """Whether a kernel has two spatial dimensions or more, not counting those of length 1."""
    return sum(n > 1 for n in shape[2:]) > 1


def _names_weight(name: str) -> bool:
    """Whether the name of a tensor of several dimensions is that of a weight."""
    own = name.rpartition(".")[2]
    return own == "weight" or not _NO_WEIGHTS.search(own.lower())


@dataclass(frozen=True)
class Rule:
    """The choice of weights for a class of models.

    Attributes:
        name: name of the rule in a plan's reason to leave a weight dense.
        reference_numel: N_ref of progressive rates.
        condition: function of a weight's traits and its layer's name relative to the module of the rule; returns
            whether the weight is compressed.
        prefix: name of the module of the rule, followed by a dot; empty if that is the whole model.
    """

    name: str
    reference_numel: int
    condition: Callable[[Traits, str], bool]
    prefix: str = ""

    def compresses(self, weight: Traits) -> bool:
        """Whether a weight is compressed; the general rule applies outside the module."""
        rule = self if weight.name.startswith(self.prefix) else GENERAL
        return rule.condition(weight, weight.name.removeprefix(self.prefix))


def rule_for(model: nn.Module) -> Rule:
    """Return the rule of the only module in a model whose class has one, and the general rule otherwise."""
    rules = [(path, rule) for path, module in model.named_modules() if (rule := _class_rule(module)) is not None]
    if len(rules) != 1:
        return GENERAL
    path, rule = rules[0]
    return replace(rule, prefix=f"{path}." if path else "")


def _class_rule(module: nn.Module) -> Rule | None:
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__)
    return next((_BY_CLASS[name] for name in names if name in _BY_CLASS), None)


def _resnet(weight: Traits, name: str) -> bool:
    return name == "fc" or (weight.is_convolution and len(weight.shape) == 4 and weight.shape[2] <= 3)


def _mobilenet_v2(weight: Traits, name: str) -> bool:
    block = re.match(r"features\.(\d+)\.", name)
    late = block is not None and int(block[1]) >= 8
    return name == "classifier.1" or (late and weight.is_convolution and weight.shape[2:] == (1, 1))


def _general(weight: Traits, name: str) -> bool:
    return weight.is_matrix and weight.numel >= _GENERAL_LEAST and not weight.is_depthwise and not weight.is_first


def _is_matrix(weight: Weight) -> bool:
    """Whether a weight multiplies inputs or is looked up by them."""
    layer = weight.module
    if isinstance(layer, nn.MultiheadAttention):
        return weight.tensor in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        return weight.tensor.startswith("weight_")
    if isinstance(layer, (*CONVOLUTIONS, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)):
        return weight.tensor == "weight"
    # Hugging Face's Conv1D is a linear layer with a transposed weight. Its name avoids importing the package.
    if any(c.__module__ == "transformers.pytorch_utils" for c in type(layer).__mro__):
        return weight.tensor == "weight"
    return _stacks_matrices(weight.shape)


def _stacks_matrices(shape: tuple[int, ...]) -> bool:
    """Whether a tensor of a model's own holds several matrices, such as those of the experts of a mixture.

    Tables of positions have a first dimension of 1, and are left dense.
    """
    return len(shape) == 3 and min(shape) > 1


GENERAL = Rule("general", 64 * 64, _general)
_BY_CLASS = {
    "torchvision.models.resnet.ResNet": Rule("ResNet", 64 * 64, _resnet),
    "torchvision.models.mobilenetv2.MobileNetV2": Rule("MobileNet-V2", 384 * 64, _mobilenet_v2),
}

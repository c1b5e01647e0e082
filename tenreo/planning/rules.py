"""Rules: which weights of a model class are compressed, and the reference size of its progressive rates.

A rule is looked up by the qualified names of the class and its base classes, so torchvision is never imported.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from tenreo.modules.layer_types import CONVOLUTIONS
from tenreo.modules.weights import Weight


@dataclass(frozen=True)
class Rule:
    """The choice of weights for a class of models.

    Attributes:
        name: name of the rule in a plan's reason to leave a weight dense.
        reference_numel: N_ref of progressive rates.
        condition: function of a weight, its layer's name relative to the module of the rule, and whether the layer is
            the first convolution; returns whether the weight is compressed.
        prefix: name of the module of the rule, followed by a dot; empty if that is the whole model.
    """

    name: str
    reference_numel: int
    condition: Callable[[Weight, str, bool], bool]
    prefix: str = ""

    def compresses(self, weight: Weight, first: bool) -> bool:
        """Whether a weight is compressed; the general rule applies outside the module."""
        rule = self if weight.name.startswith(self.prefix) else _GENERAL
        return rule.condition(weight, weight.name.removeprefix(self.prefix), first)


def rule_for(model: nn.Module) -> Rule:
    """Return the rule of the only module in a model whose class has one, and the general rule otherwise."""
    rules = [(path, rule) for path, module in model.named_modules() if (rule := _class_rule(module)) is not None]
    if len(rules) != 1:
        return _GENERAL
    path, rule = rules[0]
    return replace(rule, prefix=f"{path}." if path else "")


def _class_rule(module: nn.Module) -> Rule | None:
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__)
    return next((_BY_CLASS[name] for name in names if name in _BY_CLASS), None)


def _resnet(weight: Weight, name: str, first: bool) -> bool:
    layer = weight.module
    return name == "fc" or (isinstance(layer, nn.Conv2d) and layer.kernel_size[0] <= 3)


def _mobilenet_v2(weight: Weight, name: str, first: bool) -> bool:
    block = re.match(r"features\.(\d+)\.", name)
    late = block is not None and int(block[1]) >= 8
    layer = weight.module
    return name == "classifier.1" or (late and isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))


def _general(weight: Weight, name: str, first: bool) -> bool:
    layer = weight.module
    depthwise = isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels > 1
    large = weight.value.numel() >= 4096
    return _is_matrix(weight) and large and not depthwise and not first


def _is_matrix(weight: Weight) -> bool:
    """Whether a weight multiplies inputs: that of a convolution, a linear layer or a projection of attention."""
    layer = weight.module
    if weight.tensor in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
        return isinstance(layer, nn.MultiheadAttention)
    # Hugging Face's Conv1D is a linear layer with a transposed weight. Its name avoids importing the package.
    kinds = (*CONVOLUTIONS, nn.Linear)
    transposed = any(c.__module__ == "transformers.pytorch_utils" for c in type(layer).__mro__)
    return weight.tensor == "weight" and (isinstance(layer, kinds) or transposed)


_GENERAL = Rule("general", 64 * 64, _general)
_BY_CLASS = {
    "torchvision.models.resnet.ResNet": Rule("ResNet", 64 * 64, _resnet),
    "torchvision.models.mobilenetv2.MobileNetV2": Rule("MobileNet-V2", 384 * 64, _mobilenet_v2),
}

"""Which weights are compressed, and the size that progressive rates refer to, by the model's class.

Rules are found by the qualified name of the class or of one it inherits from, so that asking for
a rule never imports torchvision.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tenreo.modules.layer_types import CONVOLUTIONS
from tenreo.modules.weights import Weight


@dataclass(frozen=True)
class Rule:
    """A choice of weights.

    Attributes:
        name: shown where a plan says why a weight is left dense.
        reference_numel: N_ref of progressive rates.
        takes: (weight, name within the model that the rule is for, is it the first convolution) -> compress it?
    """

    name: str
    reference_numel: int
    takes: Callable[[Weight, str, bool], bool]


@dataclass(frozen=True)
class Choice:
    """A rule and the module that it is for: the model, or what it wraps.

    Attributes:
        rule: of the module's class.
        prefix: the module's name and a dot; empty for the model itself.
    """

    rule: Rule
    prefix: str

    def takes(self, weight: Weight, first: bool) -> bool:
        """Whether a weight is chosen; one outside the module goes by the general rule."""
        inside = weight.name.startswith(self.prefix)
        rule = self.rule if inside else _GENERAL
        return rule.takes(weight, weight.name.removeprefix(self.prefix), first)


def choice_for(model: nn.Module) -> Choice:
    """The rule of the model's class, or of the one module in it that has a rule of its own; or the general one."""
    found = [(path, rule) for path, module in model.named_modules() if (rule := _own_rule(module)) is not None]
    if len(found) != 1:
        return Choice(_GENERAL, "")
    path, rule = found[0]
    return Choice(rule, f"{path}." if path else "")


def _own_rule(module: nn.Module) -> Rule | None:
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
    return is_matrix(weight) and large and not depthwise and not first


def is_matrix(weight: Weight) -> bool:
    """Whether a tensor multiplies inputs: of convolutions, linear layers and projections of attention."""
    layer = weight.module
    if weight.tensor in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
        return isinstance(layer, nn.MultiheadAttention)
    # Hugging Face's Conv1D is a linear layer whose weight is transposed; its package need not be installed.
    kinds = (*CONVOLUTIONS, nn.Linear)
    transposed = any(c.__module__ == "transformers.pytorch_utils" for c in type(layer).__mro__)
    return weight.tensor == "weight" and (isinstance(layer, kinds) or transposed)


_GENERAL = Rule("general", 64 * 64, _general)
_BY_CLASS = {
    "torchvision.models.resnet.ResNet": Rule("ResNet", 64 * 64, _resnet),
    "torchvision.models.mobilenetv2.MobileNetV2": Rule("MobileNet-V2", 384 * 64, _mobilenet_v2),
}

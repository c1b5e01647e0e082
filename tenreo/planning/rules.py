"""Which layers are compressed, and the size that progressive rates refer to, by the model's class.

Rules are found by the qualified name of the class or of one it inherits from, so that asking for
a rule never imports torchvision.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Rule:
    """A choice of layers.

    Attributes:
        name: shown where a plan says why a layer is left dense.
        reference_numel: N_ref of progressive rates.
        takes: (layer name, layer, is it the first convolution) -> compress it?
    """

    name: str
    reference_numel: int
    takes: Callable[[str, nn.Module, bool], bool]


def rule_for(model: nn.Module) -> Rule:
    """The rule of the model's class, or the general one."""
    for cls in type(model).__mro__:
        rule = _BY_CLASS.get(f"{cls.__module__}.{cls.__qualname__}")
        if rule is not None:
            return rule
    return _GENERAL


def _resnet(name: str, layer: nn.Module, first: bool) -> bool:
    return name == "fc" or (isinstance(layer, nn.Conv2d) and layer.kernel_size[0] <= 3)


def _mobilenet_v2(name: str, layer: nn.Module, first: bool) -> bool:
    block = re.match(r"features\.(\d+)\.", name)
    late = block is not None and int(block[1]) >= 8
    return name == "classifier.1" or (late and isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))


def _general(name: str, layer: nn.Module, first: bool) -> bool:
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
    return layer.weight.numel() >= 4096 and not depthwise and not first  # type: ignore[operator]


_GENERAL = Rule("general", 64 * 64, _general)
_BY_CLASS = {
    "torchvision.models.resnet.ResNet": Rule("ResNet", 64 * 64, _resnet),
    "torchvision.models.mobilenetv2.MobileNetV2": Rule("MobileNet-V2", 384 * 64, _mobilenet_v2),
}

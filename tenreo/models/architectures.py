"""Torchvision's architectures: building them, and what is known of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from tenreo.files.records import ModelInfo, Preprocess
from tenreo.models.builders import build_model
from tenreo.models.names import check_architecture

TRANSFORMING = ("googlenet", "inception_v3")  # architectures that have the argument `transform_input`


def build(
    arch: str, classes: int = 1000, weights: str | None = None, device: str = "cpu", transform_input: bool = False
) -> nn.Module:
    """Build an architecture with random weights, in evaluation mode.

    >>> build("resnet18", classes=10, device="meta").fc
    Linear(in_features=512, out_features=10, bias=True)

    Args:
        arch: a classification architecture of torchvision.
        classes: size of the output.
        weights: "none" where no others will be loaded, so that random ones are made with care.
        device: "meta" for shapes alone.
        transform_input: whether an Inception or GoogLeNet changes its input, as in `ModelInfo`.

    Raises:
        TenreoError: when there is no such architecture.
    """
    options: dict[str, Any] = {"num_classes": classes}
    if arch in TRANSFORMING:
        options |= {"transform_input": transform_input, "aux_logits": False, "init_weights": weights == "none"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device(device):
                model: nn.Module = builder(arch)(weights=None, **options)
        except NotImplementedError:  # some compute their widths with tensors, which on "meta" have no values
            with _registered_on(device):
                model = builder(arch)(weights=None, **options)
    return model.eval()


@contextmanager
def _registered_on(device: str) -> Iterator[None]:
    """Inside the context, what modules register as parameters or buffers is moved to a device before it is filled."""

    def moved(_: nn.Module, __: str, value: Any) -> Any:
        return None if value is None or value.device.type == device else _moved(value, device)

    handles = (
        register_module_parameter_registration_hook(moved), register_module_buffer_registration_hook(moved),
    )  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _moved(value: Tensor, device: str) -> Tensor:
    return nn.Parameter(value.to(device)) if isinstance(value, nn.Parameter) else value.to(device)


def build_info(info: ModelInfo, device: str = "cpu", trusted: bool = False) -> nn.Module:
    """The model of an info, its weights to be loaded.

    Args:
        info: with an architecture or a builder.
        device: "meta" for shapes alone.
        trusted: a builder that is a function may be called.

    Raises:
        TenreoError: when there is no such architecture, or its builder may not be called.
    """
    if info.arch is None and info.builder is not None:
        return build_model(info.builder, info.kwargs, device, trusted)
    transform = with_transform(info).transform_input
    return build(info.arch or "", info.classes or 1000, info.weights, device, bool(transform))


def with_transform(info: ModelInfo, value: bool | None = None) -> ModelInfo:
    """Set `transform_input` of an info whose architecture has this argument.

    >>> with_transform(ModelInfo("googlenet", weights="IMAGENET1K_V1")).transform_input
    True

    Args:
        info: info of a model.
        value: the value; by default the one that the info has. Files of earlier versions contain none; it then follows
            from the weights, because torchvision transforms the input for its own.
    """
    if info.arch not in TRANSFORMING:
        return info
    value = info.transform_input if value is None else value
    return replace(info, transform_input=(info.weights or "").startswith("IMAGENET") if value is None else value)


def builder(arch: str) -> Any:
    """Torchvision's function that builds an architecture.

    Raises:
        TenreoError: when there is no such architecture.
    """
    check_architecture(arch)
    return torchvision.models.get_model_builder(arch)


def default_info(arch: str) -> ModelInfo:
    """The info of an architecture with torchvision's first weights (the paper's baseline)."""
    entries = list(weights_of(arch))
    return info_of(arch, next((w for w in entries if w.name == "IMAGENET1K_V1"), entries[0]))


def weights_of(arch: str) -> Any:
    """Torchvision's enumeration of the weights of an architecture."""
    return torchvision.models.get_model_weights(builder(arch))


def info_of(arch: str, entry: Any) -> ModelInfo:
    """The info of an architecture with one of torchvision's weights."""
    t = entry.transforms()
    preprocess = Preprocess(t.resize_size[0], t.crop_size[0], tuple(t.mean), tuple(t.std), t.interpolation.value)
    # As torchvision's own builders have it for weights that were trained elsewhere.
    return with_transform(ModelInfo(arch, len(entry.meta["categories"]), entry.name, preprocess), True)


def classifier_name(model: nn.Module) -> str:
    """The name of a model's last Conv2d or Linear, which gives its outputs."""
    names: list[str] = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return names[-1]


def class_count(arch: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of classes that the classifier of a state dict has; 1000 where it has none."""
    name = classifier_name(build(arch, device="meta"))
    found = (shapes[key][0] for key in (f"{name}.bias", f"{name}.weight") if shapes.get(key))
    return next(found, 1000)

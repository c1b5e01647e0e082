"""Recognizes torchvision's architectures: by names and shapes of tensors, confirmed by the model's outputs."""

import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._pytree import tree_leaves

from tenreo.compression.parametrization import curves
from tenreo.errors import abbreviate, raise_if_out_of_memory
from tenreo.files.records import ModelInfo
from tenreo.models.builders import TRANSFORMING, build_info
from tenreo.models.heads import last_layer
from tenreo.models.model_info import model_info
from tenreo.models.names import architecture_names

_SIZES = (96, 224)  # sides of test images in pixels; the architecture's own size is tried last
_ROUNDING = 1e-3  # relative difference allowed between two runs of the same arithmetic in float32


def identify(model: nn.Module) -> ModelInfo:
    """Return the info of a model, with its architecture if a plain model with the same weights computes the same."""
    similar = similar_architecture(model)
    if similar.arch is not None:
        for transform in (False, True) if similar.arch in TRANSFORMING else (None,):
            info = replace(similar, transform_input=transform)
            if not difference(model, info):
                return info
    return replace(similar, arch=None)


def similar_architecture(model: nn.Module) -> ModelInfo:
    """Return the info of the architecture that a model resembles by its class and the shapes of its weights."""
    base = next((c for c in type(model).__mro__ if c.__module__.startswith("torchvision.models.")), None)
    if base is None:
        return ModelInfo()
    import torchvision

    own = _weight_shapes(model)
    classes = last_layer(model)[2] or None
    for arch in architecture_names():
        related = torchvision.models.get_model_builder(arch).__module__ == base.__module__
        if related and own == _shapes_of(arch, classes):
            info = model_info(f"torchvision:{arch}", {"num_classes": classes})
            return replace(info, weights=None, transform_input=None)
    return ModelInfo(classes=classes)


@cache
def _shapes_of(arch: str, classes: int | None) -> dict[str, tuple[int, ...]]:
    return _weight_shapes(build_info(ModelInfo(arch, classes), "meta"))


def _weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    layers = (nn.Conv2d, nn.Linear)
    return {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, layers)}


def difference(model: nn.Module, info: ModelInfo) -> str:
    """Return how a model differs from the plain model that an info names with the same weights; empty if it does not.

    Runs the model once on random input and restores its state. A model with hooks that its builder does not register
    always differs, since a file cannot store them, and running them could change the model.

    Args:
        model: compressed or dense model, on any device, in training or evaluation mode.
        info: info with an architecture, or with a builder, which is called.
    """
    plain = build_info(info, "meta", trusted=True)
    stored = plain.state_dict()
    if any(buffer.is_meta and name not in stored for name, buffer in plain.named_buffers()):
        plain = build_info(info, trusted=True)  # buffers that no state dict contains need their values
    state = _dense_state(model)
    own, given = ({name: tuple(t.shape) for name, t in each.items()} for each in (plain.state_dict(), state))
    if own != given:
        other = sorted(name for name in {*own, *given} if own.get(name) != given.get(name))
        return f"its tensors have other names or shapes ({abbreviate(other)})"
    everywhere = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    if everywhere or not _hooks(model) <= _hooks(plain):
        return "it has forward hooks, which a file cannot store"
    if _dropout(model) != _dropout(plain):
        return "it has other dropout"
    if any(value.is_meta for value in state.values()):
        return "its tensors are on the meta device and have no values"
    try:
        versioned = OrderedDict(state)  # MNASNet reads the version of its layers from the metadata
        versioned._metadata = plain.state_dict()._metadata  # type: ignore[attr-defined]
        plain.load_state_dict(versioned, assign=True)
        same = _same_outputs(model, plain, info.preprocess.crop)
        # A builder's model that takes no images is accepted because names and shapes agree.
        return "" if same or (same is None and info.arch is None) else "it has other outputs"
    except Exception as error:  # a model may raise any error
        raise_if_out_of_memory(error)
        return f"it cannot be run: {error}"


def _same_outputs(model: nn.Module, plain: nn.Module, crop: int) -> bool | None:
    """Return whether two models have the same outputs for the first size of image that works; None if none does."""
    first = next((m for m in plain.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    like = next(p for p in plain.parameters() if p.is_floating_point())
    model = _without_caches(model)
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}  # without compressed weights
    filled = _nonzero_parameters(plain, own)
    with torch.no_grad(), _unchanged(model):
        for size in (*_SIZES, crop):
            generator = torch.Generator().manual_seed(size)
            x = torch.randn(2, channels, size, size, generator=generator, dtype=torch.float32, device="cpu").to(like)
            try:
                wanted = _output(torch.func.functional_call(plain, filled, (x,)))
            except (RuntimeError, ValueError, AssertionError, TypeError, StopIteration) as error:
                raise_if_out_of_memory(error)
                continue  # the model takes images of another size, or no images
            given = _output(torch.func.functional_call(model, filled, (x,)))
            if given.shape != wanted.shape:
                return False
            if not wanted.any():
                return None  # for example, no detections: nothing can be compared
            # The scale is the difference between images, since an untrained model has nearly equal outputs for all.
            spread = (wanted[0] - wanted[1]).abs().max() if wanted.dim() and len(wanted) > 1 else wanted.abs().max()
            rounding = max(_ROUNDING, 16 * torch.finfo(like.dtype).eps) * spread
            return torch.equal(given, wanted) or bool((given - wanted).abs().max() < rounding)
    return None


def _without_caches(model: nn.Module) -> nn.Module:
    """Return a copy without values that layers (LeViT's attention) cache in evaluation mode."""
    try:
        copy = deepcopy(model)
    except Exception as error:  # some modules cannot be copied; the model itself is then used
        raise_if_out_of_memory(error)
        return model
    return copy.train().eval()


def _output(value: Any) -> Tensor:
    """Return the first tensor among the outputs of a model."""
    return next(each for each in tree_leaves(value) if isinstance(each, Tensor))


def _nonzero_parameters(plain: nn.Module, own: set[str]) -> dict[str, Tensor]:
    """Return random values for parameters named `own` that are zero; zeros would hide differences in earlier layers."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float32, device="cpu")).to(p)
        for name, p in plain.named_parameters()
        if name in own and not p.any()
    }


def _dense_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict that a model would have without compression."""
    compressed = list(curves(model))
    prefixes = tuple(f"{c.parameter.removesuffix(c.tensor)}parametrizations.{c.tensor}." for c in compressed)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(prefixes)}
    with torch.no_grad():
        for curve in compressed:
            weight: Tensor = getattr(curve.layer, curve.tensor)
            state[curve.parameter] = weight.detach().as_subclass(Tensor)
    return state


def _dropout(model: nn.Module) -> dict[str, float]:
    """Return the dropout probabilities by module, which do not affect outputs in evaluation mode."""
    ops = sys.modules.get("torchvision.ops")  # without it, no model has layers of torchvision
    kinds = (nn.Dropout, *([] if ops is None else [ops.StochasticDepth]))
    return {name: float(m.p) for name, m in model.named_modules() if isinstance(m, kinds)}


def _hooks(model: nn.Module) -> Counter[tuple[str, str]]:
    """Count the forward hooks by module name and kind; builders register some themselves, as weight_norm does."""
    return Counter(
        (name, type(hook).__qualname__)
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and restore its mode, its buffers and the random state at the end."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {value.device.index or 0 for value in model.parameters() if value.is_cuda}
    try:
        with torch.random.fork_rng(sorted(devices)):
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)

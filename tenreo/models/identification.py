"""Which architecture of torchvision a model is: told by its names and shapes, proved by what it puts out."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._pytree import tree_leaves

from tenreo.compression.parametrization import curves
from tenreo.compression.tensor_checks import abbreviate
from tenreo.files.records import ModelInfo
from tenreo.models.builders import TRANSFORMING, build_info
from tenreo.models.model_info import classifier_name, model_info
from tenreo.models.names import architecture_names

_SIZES = (96, 224)  # pixels to try, then those that the architecture was trained with
_ROUNDING = 1e-3  # of two runs of the same arithmetic in float32, relative


def identify(model: nn.Module) -> ModelInfo:
    """The info of a model, its architecture named where a plain model of it with the same weights does the same."""
    found = resemble(model)
    if found.arch is not None:
        for transform in (False, True) if found.arch in TRANSFORMING else (None,):
            info = replace(found, transform_input=transform)
            if not difference(model, info):
                return info
    return replace(found, arch=None)


def resemble(model: nn.Module) -> ModelInfo:
    """The info of the architecture that a model comes from, by its class and the shapes of its weights alone."""
    found = next((c for c in type(model).__mro__ if c.__module__.startswith("torchvision.models.")), None)
    if found is None:
        return ModelInfo()
    own = _weight_shapes(model)
    last = model.get_submodule(classifier_name(model))
    classes = int(last.out_features if isinstance(last, nn.Linear) else last.out_channels)  # type: ignore[arg-type]
    for arch in architecture_names():
        if torchvision.models.get_model_builder(arch).__module__ == found.__module__:
            info = model_info(f"torchvision:{arch}", {"num_classes": classes})
            info = replace(info, weights=None, transform_input=None)
            if own == _weight_shapes(build_info(info, "meta")):
                return info
    return ModelInfo(classes=classes)


def _weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    layers = (nn.Conv2d, nn.Linear)
    return {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, layers)}


def difference(model: nn.Module, info: ModelInfo) -> str:
    """What a plain model of an info with the weights of a model would have otherwise; empty where it is the same.

    The model runs once in evaluation mode, on an input that is made up, and is then as before. One with hooks
    that its builder does not give it is never the same: a file does not hold them, and running them would not leave the
    model as it was.

    Args:
        model: compressed or dense, on any device, in either mode.
        info: that names an architecture, or a builder, which is called.
    """
    plain = build_info(info, "meta", trusted=True).eval()
    kept = plain.state_dict()
    if any(buffer.is_meta and name not in kept for name, buffer in plain.named_buffers()):
        plain = build_info(info, trusted=True).eval()  # what no state dict holds needs its values
    state = _dense_state(model)
    own, given = ({name: tuple(t.shape) for name, t in each.items()} for each in (plain.state_dict(), state))
    if own != given:
        other = sorted(name for name in {*own, *given} if own.get(name) != given.get(name))
        return f"its tensors have other names or shapes ({abbreviate(other)})"
    if _has_hooks(model, plain):
        return "it has forward hooks, which a file cannot store"
    if _dropout(model) != _dropout(plain):
        return "it has other dropout"
    if any(value.is_meta for value in state.values()):
        return "its tensors are on the meta device and have no values"
    try:
        versioned = OrderedDict(state)  # some layers (MNASNet) ask which version of themselves was saved
        versioned._metadata = plain.state_dict()._metadata  # type: ignore[attr-defined]
        plain.load_state_dict(versioned, assign=True)
        same = _same_outputs(model, plain, info.preprocess.crop)
        # What takes no images is known by its builder, and by names and shapes.
        return "" if same or (same is None and info.arch is None) else "it has other outputs"
    except Exception as error:  # a model of somebody else can fail in any way
        return f"it cannot be run: {error}"


def _same_outputs(model: nn.Module, plain: nn.Module, crop: int) -> bool | None:
    """Whether two models put out the same for the first size of image that the plain one takes; None of none."""
    first = next((m for m in plain.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    like = next(p for p in plain.parameters() if p.is_floating_point())
    model = _without_caches(model)
    filled = _filled(plain, {name for name, _ in model.named_parameters(remove_duplicate=False)})
    with torch.no_grad(), _unchanged(model):
        for size in (*_SIZES, crop):
            generator = torch.Generator().manual_seed(size)
            x = torch.randn(2, channels, size, size, generator=generator).to(like)
            try:
                wanted = _output(torch.func.functional_call(plain, filled, (x,)))
            except (RuntimeError, ValueError, AssertionError, TypeError, StopIteration):
                continue  # of another size, or no images at all
            given = _output(torch.func.functional_call(model, filled, (x,)))
            if given.shape != wanted.shape:
                return False
            if not wanted.any():
                return None  # such as the boxes of a detector that finds none
            # Against what the outputs depend on: those of an untrained model are nearly the same for every image.
            spread = (wanted[0] - wanted[1]).abs().max() if wanted.dim() and len(wanted) > 1 else wanted.abs().max()
            rounding = max(_ROUNDING, 16 * torch.finfo(like.dtype).eps) * spread
            return torch.equal(given, wanted) or bool((given - wanted).abs().max() < rounding)
    return None


def _without_caches(model: nn.Module) -> nn.Module:
    """A copy that has forgotten what some layers (LeViT's attention) compute once of their parameters and keep."""
    try:
        copy = deepcopy(model)
    except Exception:  # of parts that can not be copied, where there is nothing to do about it
        return model
    return copy.train().eval()


def _output(value: Any) -> Tensor:
    """The first tensor of what a model puts out."""
    return next(each for each in tree_leaves(value) if isinstance(each, Tensor))


def _filled(plain: nn.Module, own: set[str]) -> dict[str, Tensor]:
    """Values instead of parameters that are zero, and would hide what comes before them, by name.

    Args:
        plain: a dense model.
        own: names of the parameters of the other model, which lacks those of compressed weights.
    """
    generator = torch.Generator().manual_seed(0)
    return {
        name: (0.1 * torch.randn(p.shape, generator=generator)).to(p)
        for name, p in plain.named_parameters()
        if name in own and not p.any()
    }


def _dense_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that a model has when nothing of it is compressed."""
    compressed = list(curves(model))
    made = tuple(f"{c.parameter.removesuffix(c.tensor)}parametrizations.{c.tensor}." for c in compressed)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(made)}
    with torch.no_grad():
        for curve in compressed:
            weight: Tensor = getattr(curve.layer, curve.tensor)
            state[curve.parameter] = weight.detach().as_subclass(Tensor)
    return state


def _dropout(model: nn.Module) -> dict[str, float]:
    """The probabilities of dropping something, which only training shows."""
    kinds = (nn.Dropout, torchvision.ops.StochasticDepth)
    return {name: float(m.p) for name, m in model.named_modules() if isinstance(m, kinds)}


def _has_hooks(model: nn.Module, plain: nn.Module) -> bool:
    """Whether a model has hooks beside those that its builder gives it, as weight_norm does."""
    everywhere = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    return bool(everywhere) or not _hooks(model) <= _hooks(plain)


def _hooks(model: nn.Module) -> Counter[tuple[str, str]]:
    """How many hooks of a kind a module of a name has."""
    return Counter(
        (name, type(hook).__qualname__)
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Inside the context a model is in evaluation mode; its mode, buffers and the random numbers are then as before."""
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

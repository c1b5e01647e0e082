"""Building models by name: torchvision's, timm's, and those that a function returns."""

import importlib
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from tenreo.errors import TenreoError, install, raise_if_out_of_memory, shown
from tenreo.files.records import MOST_CLASSES, ModelInfo
from tenreo.models.names import add_working_folder, check_builder, check_known, check_source, is_safe

TRANSFORMING = ("googlenet", "inception_v3")  # architectures that have the argument `transform_input`
# Parts of the names of arguments that read files, download, or run the model (torchvision's `quantize`).
_FETCHING = (
    "pretrained", "weights", "checkpoint", "cache", "path", "file", "url", "hub", "scriptable", "exportable",
    "quantize",
)  # fmt: skip

_INITIALIZING = {
    Tensor.normal_, Tensor.uniform_, Tensor.clamp_,
    *(function for name, function in vars(nn.init).items() if name[0] != "_" and name[-1] == "_"),
}  # fmt: skip


def build_model(
    builder: str, kwargs: Mapping[str, Any] | None = None, device: str = "cpu", trusted: bool = False
) -> nn.Module:
    """Build a model with random weights, in evaluation mode.

    >>> build_model("torchvision:resnet18", {"num_classes": 10}, device="meta").fc
    Linear(in_features=512, out_features=10, bias=True)

    Args:
        builder: timm:NAME, torchvision:NAME, or package.module:function.
        kwargs: arguments of the builder: numbers, strings, booleans, or lists of them.
        device: "meta" if only the shapes are needed; functions, and models that cannot be built on this device, are
            built on the CPU instead.
        trusted: whether a function may be called.

    Raises:
        TenreoError: if there is no such model, it cannot be built with these arguments, or it may not be called.
    """
    check_builder(builder)
    check_trusted(builder, trusted)
    kwargs = kwargs or {}
    attempts: list[AbstractContextManager[Any]] = [nullcontext()]
    if is_safe(builder):
        _check_arguments(builder, kwargs)
        check_model(builder)  # imports timm, whose constants must not be created on the meta device
        attempts = [torch.device(device)]
        if device == "meta":
            attempts = [_without_values(), _registered_on_meta(), nullcontext()]
    for attempt in attempts:
        try:
            with warnings.catch_warnings(), attempt, _float32() if is_safe(builder) else nullcontext():
                warnings.simplefilter("ignore")
                model = _call(builder, kwargs)
            break
        except TenreoError:
            raise
        except Exception as error:  # a package or function may raise any error
            raise_if_out_of_memory(error)
            # Some models compute their widths from values of tensors, which the meta device does not have.
            meta = isinstance(error, NotImplementedError) or "meta" in str(error)
            if attempt is attempts[-1] or not meta:
                raise TenreoError(f"model: {builder} cannot be built: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise TenreoError(
            f"model: {builder} returned an object of type {type(model).__name__}, needs a torch.nn.Module"
        )
    return model.eval()


@contextmanager
def _float32() -> Iterator[None]:
    """Build models in float32, whatever torch's default dtype is."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def build_info(info: ModelInfo, device: str = "cpu", trusted: bool = False) -> nn.Module:
    """Build the model that an info describes, with random weights, in evaluation mode.

    Args:
        info: an info with an architecture or a builder.
        device: "meta" if only the shapes are needed.
        trusted: whether a builder that is a function may be called.

    Raises:
        TenreoError: as `build_model`.
    """
    if info.arch is None:
        return build_model(info.builder or "", info.kwargs, device, trusted)
    kwargs: dict[str, Any] = {"num_classes": info.classes or 1000}
    if info.arch in TRANSFORMING:
        # Their random initialization takes seconds.
        random = info.weights == "none"
        kwargs |= {"transform_input": with_transform(info).transform_input, "aux_logits": False, "init_weights": random}
    return build_model(f"torchvision:{info.arch}", kwargs, device)


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


def check_trusted(builder: str, trusted: bool) -> None:
    """Raise if a builder is a function that may not be called.

    Raises:
        TenreoError: naming the function.
    """
    if not is_safe(builder) and not trusted:
        raise TenreoError(
            f"model: {builder} is a function, which is not called because a file names it; if you trust it, "
            "pass trust_builder=True in Python, or name it as the model"
        )


def check_model(builder: str) -> None:
    """Raise unless there is a model of this name; the module of a function is imported, the function not called.

    Raises:
        TenreoError: naming similar models.
    """
    check_source(builder)
    source, _, name = builder.partition(":")
    if source == "timm":
        check_known("model: timm has no model", name, require_timm().list_models())
    elif source == "torchvision":
        import torchvision

        check_known("model: torchvision has no model", name, torchvision.models.list_models())
    else:
        find_function(builder)


def require_timm() -> Any:
    """Return the package timm.

    Raises:
        TenreoError: if it is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise TenreoError(f"model: timm is not installed; {install('timm')}") from error


def pretrained_timm(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Build a model of timm and download its weights.

    Raises:
        TenreoError: if the model does not exist or the weights cannot be downloaded.
    """
    check_model(f"timm:{name}")
    _check_arguments(f"timm:{name}", kwargs)
    try:
        model: nn.Module = require_timm().create_model(name, pretrained=True, **kwargs)
    except Exception as error:  # several packages take part in a download
        raise_if_out_of_memory(error)
        raise TenreoError(
            f"weights: those of timm:{name} cannot be downloaded ({error}); give a file, or none for random weights"
        ) from error
    return model.eval()


def find_function(builder: str, option: str = "model") -> Any:
    """Import the module of a builder, which may be in the working folder, and return the function.

    `option` is the name of the option that the function was given for.

    Raises:
        TenreoError: if there is no such function.
    """
    module, _, name = builder.partition(":")
    add_working_folder()
    try:
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except Exception as error:  # importing runs the module, which may raise any error
        raise_if_out_of_memory(error)
        raise TenreoError(f"{option}: {builder} cannot be imported: {_reason(error)}") from error
    if not callable(function):
        raise TenreoError(f"{option}: {builder} is of type {type(function).__name__}, needs a function")
    return function


def _check_arguments(builder: str, kwargs: Mapping[str, Any]) -> None:
    """Raise if an argument, which a file may contain, would read files or build a model without bounds."""
    for key, value in kwargs.items():
        if key != "init_weights" and any(word in key for word in _FETCHING):
            raise TenreoError(
                f"model: the argument {key} of {builder} may read files or run the model, and is not allowed"
            )
        numbers = [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, (int, float))]
        if any(abs(number) > MOST_CLASSES for number in numbers):
            raise TenreoError(f"model: the argument {key} of {builder} is {shown(value)}, at most {MOST_CLASSES:,}")


def _call(builder: str, kwargs: Mapping[str, Any]) -> Any:
    """Call a builder, without its pretrained weights."""
    source, _, name = builder.partition(":")
    if not is_safe(builder):
        return find_function(builder)(**kwargs)
    if source == "timm":
        return require_timm().create_model(name, pretrained=False, **kwargs)
    import torchvision

    # By default, models of other tasks than classification download the weights of their backbone.
    parameters = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    backbone = {"weights_backbone": None} if "weights_backbone" in parameters else {}
    return torchvision.models.get_model(name, weights=None, **backbone, **kwargs)


def _reason(error: Exception) -> str:
    """Return the text of an exception, with its type if the text alone is not a sentence."""
    return f"{type(error).__name__}: {error}" if isinstance(error, KeyError) or not str(error) else str(error)


@contextmanager
def _without_values() -> Iterator[None]:
    """Inside the context, tensors are created on the meta device, and not initialized."""
    with torch.device("meta"), _WithoutInitialization():
        yield


class _WithoutInitialization(TorchFunctionMode):
    """Skips random initialization, which takes half of the time of building a model on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _INITIALIZING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def _registered_on_meta() -> Iterator[None]:
    """Inside the context, each parameter and buffer moves to the meta device when a module registers it."""

    def moved(_: nn.Module, __: str, value: Tensor | None) -> Any:
        if value is None or value.is_meta:
            return None
        return nn.Parameter(value.to("meta")) if isinstance(value, nn.Parameter) else value.to("meta")

    handles = (
        register_module_parameter_registration_hook(moved), register_module_buffer_registration_hook(moved),
    )  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

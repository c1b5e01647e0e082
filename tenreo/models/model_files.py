"""Saving models to files and loading them."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tenreo.compression.serialization import restore_, write_model
from tenreo.compression.tensor_checks import check_fit
from tenreo.devices import public_function
from tenreo.errors import TenreoError, shown
from tenreo.files.atomic import check_writable
from tenreo.files.header import Header, check_info
from tenreo.files.paths import check_ending
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.models.build_limits import limited_by
from tenreo.models.builders import build_info, build_model, check_model
from tenreo.models.identification import difference, identify
from tenreo.models.model_info import model_info
from tenreo.models.name_guesses import guessing
from tenreo.models.names import check_source_of, is_safe
from tenreo.models.pretrained import fitting_arguments
from tenreo.models.reference import read_any
from tenreo.modules.ties import check_has_values
from tenreo.modules.wrappers import unwrapped
from tenreo.planning.recipe import Recipe, recipe_of

_RANDOM_FILLS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


@public_function()
def save(
    model: nn.Module,
    path: str | Path,
    info: ModelInfo | None = None,
    recipe: Recipe | None = None,
    *,
    builder: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Write a compressed or dense model to a safetensors file.

    >>> import tempfile
    >>> from tenreo import Uniform, compress_
    >>> model = nn.Sequential(nn.Linear(64, 64))
    >>> _ = compress_(model, Recipe(4, Uniform(2.0)))
    >>> path = Path(tempfile.mkdtemp()) / "small.safetensors"
    >>> save(model, path)
    >>> load(path, nn.Sequential(nn.Linear(64, 64)))[0].weight.shape
    torch.Size([64, 64])

    Args:
        model: any module, also inside DataParallel or a similar wrapper. Architectures of torchvision are recognized by
            the model's outputs. If processes share the model (fully_shard), all of them must call this function, and
            all write the same file.
        path: path of the file, which is replaced atomically.
        info: description of the model; by default it is recognized.
        recipe: recipe to store in the file, for `inspect`, and for the number format of dense tensors; by default the
            one that the model was compressed with.
        builder: how to build the model: timm:NAME, torchvision:NAME, or package.module:function. `load` calls a
            function only with `trust_builder=True`.
        kwargs: arguments of the builder: numbers, strings, booleans, or lists of them.

    Raises:
        TenreoError: if the file cannot be written, or the model differs from what the info or the builder names.
    """
    _check_types(f"save({_kind(model)}, {_kind(path)})", "save(model, path)", path, model)
    if not isinstance(builder, str | None):
        raise TenreoError(
            f"builder: given {shown(builder)}, needs its name as a string, such as package.module:function"
        )
    path, model = Path(path), unwrapped(model)
    check_ending(path, ".safetensors")
    check_writable(path)
    check_has_values(model)
    if builder is not None:
        named = model_info(builder, kwargs, build_model(builder, kwargs, trusted=True))
        info = info or ModelInfo(classes=named.classes, preprocess=named.preprocess)
        info = replace(info, arch=None, builder=builder, kwargs=dict(kwargs or {}))
    if info is None:
        info = identify(model)
    else:
        _check_description(model, info)
    write_model(model, path, info, recipe)


def _check_description(model: nn.Module, info: ModelInfo) -> None:
    """Raise TenreoError if a file cannot store an info, or the info names another model."""
    check_info(info)
    reason = difference(model, info) if info.name is not None else ""
    if reason:
        classes = f" with {info.classes or 1000} classes" if info.arch is not None else ""
        raise TenreoError(
            f"save: this model differs from {info.name}{classes}: {reason}; "
            "save it with an info that names no architecture and no builder"
        )


def load(path: str | Path, model: nn.Module | None = None, *, trust_builder: bool = False) -> nn.Module:
    """Read a model from a file of tenreo or of the reference implementation; `save` has an example.

    Args:
        path: path of the file.
        model: dense model to load the tensors into, if the file does not contain how to build it.
        trust_builder: whether to call the function that the file names as its builder, which can run any code.

    Returns:
        The model in evaluation mode; compressed layers stay compressed.

    Raises:
        TenreoError: if the file is damaged, does not fit the model, or does not contain how to build it.
    """
    if model is not None:
        _check_types(f"load({_kind(path)}, {_kind(model)})", "load(path, model)", path, model)
    else:
        _check_types(f"load({_kind(path)})", "load(path)", path)
    return open_model(Path(path), model, trust_builder)[0]


def _check_types(given: str, needed: str, path: object, *models: object) -> None:
    """Raise unless a path is one, and a model is a module rather than its class or its state dict."""
    if not isinstance(path, str | os.PathLike) or not all(isinstance(each, nn.Module) for each in models):
        raise TenreoError(f"given {given}, needs {needed}: a path, and a torch.nn.Module that has been created")


def _kind(value: object) -> str:
    """Describe an argument by its type, or by its name if it is a class."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


@public_function()
def open_model(
    path: Path,
    model: nn.Module | None = None,
    trust_builder: bool = False,
    builder: str | None = None,
    info: ModelInfo | None = None,
) -> tuple[nn.Module, Header]:
    """Read a model like `load`, together with the file's header.

    Args:
        path: path of the file.
        model: dense model to load the tensors into.
        trust_builder: whether to call the function that the file names.
        builder: how to build the model, which is trusted; must agree with the builder in the file, if there is one.
        info: description of the model for a file that contains none, such as that of the configuration next to it.

    Raises:
        TenreoError: as `load`, and if the file names another builder.
    """
    header, tensors = read_any(path, named=any(each is not None for each in (model, builder, info)))
    recipe_of(header)  # raises if the recipe is invalid
    if builder is not None:
        header = replace(header, info=_info_with(builder, header))
        trust_builder = True
    if info is not None and header.info.name is None:
        header = replace(header, info=replace(info, license=header.info.license))
    info = header.info
    if model is None:
        if info.name is None:
            raise TenreoError(
                f"{path}: does not contain how to build the model; name it, or in Python load it with "
                "tenreo.load(path, model)"
            )
        # A function may take any time, and draw random numbers for values that the file does not contain.
        model = _built(info, header) if is_safe(info.source or "") else build_info(info, trusted=trust_builder)
    check_has_values(unwrapped(model))
    with guessing(tensors):
        restore_(unwrapped(model), header, tensors)
    return model.eval(), header


class _Uninitialized(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which tensors that a file will overwrite are not filled with random numbers.

    Untouched memory pages are never allocated, and random initialization would take longer than reading the file.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _RANDOM_FILLS else func(*args, **(kwargs or {}))


def _info_with(builder: str, header: Header) -> ModelInfo:
    """Return the info of a file, completed with the builder if the file contains none, which must not name another."""
    info = header.info
    check_source_of(header, builder)
    if info.source is not None:
        return info
    kwargs = fitting_arguments(builder, header.dense_shapes(), {}) if is_safe(builder) else {}
    named = model_info(builder, kwargs, build_model(builder, kwargs, "meta", trusted=True))
    return replace(
        info, builder=builder, kwargs=kwargs, classes=info.classes or named.classes,
        preprocess=named.preprocess if info.preprocess == Preprocess() else info.preprocess,
    )  # fmt: skip


def _built(info: ModelInfo, header: Header) -> nn.Module:
    """Build the model of torchvision or timm that a file names, unless it has other shapes than the file's tensors."""
    check_model(info.source or "")
    with limited_by(header):
        if info.arch is None:
            own = {n: tuple(t.shape) for n, t in build_info(info, "meta").state_dict().items()}
            given = header.dense_shapes()
            check_fit(header.path, {n: s for n, s in own.items() if n in given}, given, ())
        with _Uninitialized():  # type: ignore[no-untyped-call]
            return build_info(info)

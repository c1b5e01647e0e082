"""Saving models and loading them, torchvision's without being told what they are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tenreo.compression.serialization import restore_, write_model
from tenreo.compression.tensor_checks import MisfitError, check_fit
from tenreo.errors import TenreoError
from tenreo.files.atomic import check_writable
from tenreo.files.header import Header, check_info, is_pickle, read_header
from tenreo.files.paths import check_ending
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.files.safetensors import read_tensors
from tenreo.models.architectures import build_info
from tenreo.models.builders import build_model, builder_info
from tenreo.models.identification import difference, identify
from tenreo.models.name_guesses import guess
from tenreo.models.names import check_source_of, is_safe
from tenreo.models.pretrained import built_with_weights, check_weights, fitting_arguments, with_weights
from tenreo.models.reference import identify_paper, read_dense_pickle, read_reference
from tenreo.models.uninitialized import Unfilled
from tenreo.modules.wrappers import unwrapped
from tenreo.planning.recipe import Recipe, recipe_of


def save(
    model: nn.Module,
    path: str | Path,
    info: ModelInfo | None = None,
    recipe: Recipe | None = None,
    *,
    builder: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Write a model, compressed or dense, to a safetensors file.

    >>> import tempfile
    >>> from tenreo import Uniform, compress_
    >>> model = nn.Sequential(nn.Linear(64, 64))
    >>> _ = compress_(model, Recipe(4, Uniform(2.0)))
    >>> path = Path(tempfile.mkdtemp()) / "small.safetensors"
    >>> save(model, path)
    >>> load(path, nn.Sequential(nn.Linear(64, 64)))[0].weight.shape
    torch.Size([64, 64])

    Args:
        model: any module, also in DataParallel and its kind; the architecture of torchvision's models is recognized
            by what they put out. Where processes share it (fully_shard), all of them save, and write the same file.
        path: of the file; replaced as a whole.
        info: says what the model is, where it is not recognized or something should be added.
        recipe: kept in the file for `inspect`.
        builder: how to build the model: timm:NAME, torchvision:NAME, or package.module:function, which `load` calls
            only where it is told to.
        kwargs: arguments of the builder: numbers, words and flags.

    Raises:
        TenreoError: when the file can not be written, or the model is not what the info or the builder says.
    """
    path, model = Path(path), unwrapped(model)
    check_ending(path, ".safetensors")
    check_writable(path)
    if builder is not None:
        built = build_model(builder, kwargs or {}, trusted=True)
        info = replace(info or ModelInfo(), **_builder_fields(builder_info(built, builder, kwargs or {}), info))
    if info is None:
        info = identify(model)
    else:
        check_info(info)
        why = difference(model, info) if info.name is not None else ""
        if why:
            classes = f" of {info.classes or 1000} classes" if info.arch is not None else ""
            raise TenreoError(
                f"save: the info says {info.name}{classes}, which with the model's weights has {why}; "
                "save it with an info that names no architecture and no builder"
            )
    write_model(model, path, info, recipe)


def _builder_fields(found: ModelInfo, given: ModelInfo | None) -> dict[str, Any]:
    """What a builder says of a model; of classes and preprocessing only where nothing else does."""
    fields: dict[str, Any] = {"arch": None, "builder": found.builder, "kwargs": found.kwargs}
    return fields if given else {**fields, "classes": found.classes, "preprocess": found.preprocess}


def load(path: str | Path, model: nn.Module | None = None, *, trust_builder: bool = False) -> nn.Module:
    """Read a model from a file of tenreo or of the reference implementation; `save` has an example.

    Args:
        path: of the file.
        model: a dense model to fill, where the file does not say how to build it.
        trust_builder: call the function that the file names as its builder, which can be any code.

    Returns:
        The model, in evaluation mode; compressed layers stay compressed.

    Raises:
        TenreoError: when the file is damaged, does not fit, or needs `model`.
    """
    return open_model(Path(path), model, trust_builder)[0]


def open_model(
    path: Path, model: nn.Module | None = None, trust_builder: bool = False, builder: str | None = None
) -> tuple[nn.Module, Header]:
    """As `load`, and what the file says of itself.

    Args:
        path: of the file.
        model: a dense model to fill.
        trust_builder: call the function that the file names.
        builder: how to build the model, which is trusted; must be that of the file, where it names one.

    Raises:
        TenreoError: as `load`, and when the file names another builder.
    """
    header, tensors = _read(path, named=model is not None or builder is not None)
    recipe_of(header)  # refuses what makes no sense
    if builder is not None:
        header = replace(header, info=_info_by(builder, header))
        trust_builder = True
    info = header.info
    if model is None:
        if info.name is None:
            raise TenreoError(
                f"{path}: does not say how to build the model; name it, or in Python load it with "
                "tenreo.load(path, model)"
            )
        _check_shapes(info, header)
        model = _built(info, trust_builder)
    try:
        restore_(unwrapped(model), header, tensors)
    except MisfitError as error:
        raise MisfitError(f"{error}{guess({name: tuple(t.shape) for name, t in tensors.items()})}") from error
    return model.eval(), header


def _built(info: ModelInfo, trusted: bool) -> nn.Module:
    """The model of an info, to be filled; what somebody's own function draws may be more than parameters."""
    own = info.arch is None and not is_safe(info.builder or "")
    with nullcontext() if own else Unfilled():  # type: ignore[no-untyped-call]
        return build_info(info, trusted=trusted)


def _info_by(builder: str, header: Header) -> ModelInfo:
    """The info of a file whose builder somebody names.

    Raises:
        TenreoError: when the file names another one.
    """
    info = header.info
    check_source_of(header, builder)
    if info.source is not None:
        return info
    kwargs = fitting_arguments(builder, header.dense_shapes(), {}) if is_safe(builder) else {}
    found = builder_info(build_model(builder, kwargs, "meta", trusted=True), builder, kwargs)
    return replace(
        info, builder=builder, kwargs=kwargs, classes=info.classes or found.classes,
        preprocess=found.preprocess if info.preprocess == Preprocess() else info.preprocess,
    )  # fmt: skip


def _check_shapes(info: ModelInfo, header: Header) -> None:
    """Raise where what a file says would build a model of other shapes, before it takes memory.

    Raises:
        MisfitError: naming what does not fit.
    """
    if info.arch is None and info.builder is not None and is_safe(info.builder):
        own = {n: tuple(t.shape) for n, t in build_info(info, "meta").state_dict().items()}
        given = header.dense_shapes()
        check_fit(header.path, {n: s for n, s in own.items() if n in given}, given, ())


def _read(path: Path, named: bool) -> tuple[Header, Mapping[str, Tensor]]:
    """Header and tensors of any file; a dense one that does not say its architecture is recognized unless named."""
    if is_pickle(path):
        return read_dense_pickle(path) if named else read_reference(path)
    header = read_header(path)
    tensors = read_tensors(path)
    if header.info.name is None and not named and header.kind == "dense":
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        header = replace(header, info=identify_paper(path, shapes, set())[0])
    return header, tensors


def dense_weights(header: Header, given: Path | None = None) -> str | None:
    """The weights of the dense model that a file was compressed from, as `with_weights` takes them.

    Args:
        header: of the file.
        given: the dense model's file; without it one beside the compressed file of the name that this one gives, or
            else those of torchvision or timm.

    Returns:
        A path or a name; None where timm's weights are to be downloaded.

    Raises:
        TenreoError: when the file does not name them, or there are none of that name.
    """
    info = header.info
    # A name beside the file, so that a file can not point elsewhere.
    named = info.weights not in (None, "none") and Path(str(info.weights)).name == info.weights
    if info.name is None or (given is None and not named):
        raise TenreoError(f"{header.path} does not name the dense weights it comes from; give their file")
    path = given or header.path.parent / str(info.weights)
    weights = str(path) if given or path.is_file() else str(info.weights)
    if info.arch is not None:
        check_weights(info.arch, weights)
    elif not given and not path.is_file():
        if not str(info.builder).startswith("timm:") or path.suffix:
            raise TenreoError(f"{path}: there is no such file, which the dense weights come from; give their file")
        return None
    return weights


def open_dense(header: Header, given: Path | None = None, trust_builder: bool = False) -> nn.Module:
    """The dense model that a file was compressed from; `dense_weights` says which.

    Args:
        header: of the file.
        given: as of `dense_weights`.
        trust_builder: call the function that the file names.

    Raises:
        TenreoError: as `dense_weights`, and when the model is compressed itself or has other classes.
    """
    info = header.info
    weights = dense_weights(header, given)
    if info.arch is not None:
        model, found = with_weights(info.arch, weights)
    else:
        build_info(info, "meta", trust_builder)  # which refuses a function that is not trusted
        model, found = built_with_weights(str(info.builder), weights, kwargs=info.kwargs)
    if found.classes not in (None, info.classes):
        raise TenreoError(
            f"{weights}: has {found.classes} classes, the model has {info.classes}; give its own dense model"
        )
    return model

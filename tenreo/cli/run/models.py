"""The model that a command works on: the one that `--arch` or `--model` names, or that of a file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from tenreo.cli.exits import usage
from tenreo.cli.shared_options import DenseModel, ModelFile, ModelInputs
from tenreo.cli.terminal.streams import note
from tenreo.compression.parametrization import expand_
from tenreo.data.inputs import Inputs
from tenreo.errors import TenreoError
from tenreo.files.checkpoints import find_files
from tenreo.files.header import Header, is_pickle, read_header
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.files.repositories import PREFIX, Repository
from tenreo.hub.metadata import license_of
from tenreo.models import model_files
from tenreo.models.builders import build_info, check_model
from tenreo.models.dense_weights import check_origin, dense_weights, open_dense
from tenreo.models.inputs import check_input, check_shape, find_input, output_classes
from tenreo.models.model_info import model_info
from tenreo.models.names import check_architecture, is_safe, model_folder, names_folder
from tenreo.models.pretrained import find_weights, with_weights
from tenreo.models.reference import read_any
from tenreo.models.timm_folders import fetch_timm, read_timm_folder


def open_model(dense: DenseModel, values: bool = True, own_inputs: bool = False) -> tuple[nn.Module, ModelInfo]:
    """Build the model that the options name, with its weights, and describe it.

    Args:
        dense: options of the model.
        values: whether the values of the weights are needed; if not, random weights are on the meta device if possible.
        own_inputs: whether the inputs of the model are given, so that it need not take images.

    Raises:
        TenreoError: if there is no such model, or the weights do not fit.
    """
    if dense.model is not None and names_folder(dense.model):
        return _open_folder(dense, dense.model)
    with usage():
        if dense.model is None:
            check_architecture(dense.require_arch())
        builder = dense.model or f"torchvision:{dense.require_arch()}"
        find_weights(builder, dense.weights)
    shape = dense.shape
    kwargs = {"in_chans": shape[0]} if shape and shape[0] != 3 and builder.startswith("timm:") else {}
    if not values and dense.weights in (None, "none") and is_safe(builder):
        info = model_info(builder, kwargs)
        model = build_info(info, "meta")
        info = info if info.arch else model_info(builder, kwargs, model)
    else:
        model, info = with_weights(
            builder, dense.weights, dense.seed, kwargs, ignore_extra=dense.ignore_extra, note=note
        )
    with usage():
        if values and not own_inputs:
            dense = _with_input(model, dense, builder)
            if not is_safe(builder) and dense.shape is not None and dense.mean is None and dense.std is None:
                note(_normalization(dense.prepared(info.preprocess)))
        info = replace(info, preprocess=dense.prepared(info.preprocess))
    return model, _with_classes(model, info) if values else info


def _open_folder(dense: DenseModel, name: str) -> tuple[nn.Module, ModelInfo]:
    """Build the model of a folder or repository in timm's layout, with its weights, and describe it."""
    is_remote = name.startswith(PREFIX)
    with usage():
        folder = fetch_timm(Repository.parse(name)) if is_remote else model_folder(name)
        found = read_timm_folder(folder)
    model, header = model_files.open_model(found.weights, info=found.info)
    if header.layers:
        raise TenreoError(f"{found.weights}: is already compressed; give the folder of the dense weights")
    with usage():
        if dense.shape is not None:
            check_shape(model, dense.shape)
        prepared = dense.prepared(found.info.preprocess)
    weights = f"{PREFIX}{Repository.parse(name)}" if is_remote else str(found.weights)
    license = license_of(find_files(folder))
    return model, replace(found.info, weights=weights, preprocess=prepared, license=license)


def _with_input(model: nn.Module, dense: DenseModel, builder: str) -> DenseModel:
    """Return the options with the size of the input, which is derived from a function's model if it is not given.

    Raises:
        TenreoError: if the model does not take images of the given size.
    """
    if dense.shape is not None:
        check_shape(model, dense.shape)
    elif not is_safe(builder) and (shape := find_input(model)) is not None:
        size = "x".join(map(str, shape))
        note(f"the input is taken to be {size}, which the model runs on; if its images have another size, give --input")
        return replace(dense, input=size)
    return dense


def _normalization(assumed: Preprocess) -> str:
    """Return a note about the normalization of images that is taken for that of a function's model."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (assumed.mean, assumed.std))
    return (
        f"pixels in [0, 1] are normalized by mean {mean} and std {std}; if the model was trained otherwise, give "
        "--mean and --std"
    )


def _with_classes(model: nn.Module, info: ModelInfo) -> ModelInfo:
    """Return the info, with the number of classes taken from the model's outputs if it is not known otherwise."""
    return info if info.classes else replace(info, classes=output_classes(model, info.preprocess))


def read_named_header(file: ModelFile) -> Header:
    """Return the header of a file, with the builder that `--model` names if the file contains none.

    Raises:
        TenreoError: if the file is damaged.
    """
    named = file.model is not None
    header = read_any(file.file, named)[0] if is_pickle(file.file) else read_header(file.file)
    return header if header.info.source else replace(header, info=replace(header.info, builder=file.model))


def open_file(file: ModelFile) -> tuple[nn.Module, Header]:
    """Build the model that a file contains, and return it with the file's header.

    Raises:
        TenreoError: if the file is damaged, or neither the file nor `--model` states how to build the model.
    """
    with usage():
        if file.model is not None:
            check_model(file.model)
    model, header = model_files.open_model(file.file, builder=file.model)
    return model, replace(header, info=_with_classes(model, header.info))


def named_dense(file: ModelFile, given: Path | None = None) -> str | None:
    """Return the weights of the dense model of a file, as `dense_weights`, whose messages then name the option."""
    try:
        return dense_weights(read_named_header(file), given)
    except TenreoError as error:
        raise type(error)(f"against: {error}") from error


def open_reference(
    against: str | None, header: Header, builder: str | None, known: Mapping[str, nn.Module]
) -> tuple[str, nn.Module | None]:
    """Return the name and the expanded model to compare with: the dense model, or that of another file.

    Args:
        against: "dense", the path of a file, or None, for which there is no model.
        header: header of the file that is compared.
        builder: the value of `--model`.
        known: models that are open already, by name.
    """
    if against is None:
        return "", None
    key = against
    if against == "dense":
        key = dense_weights(header) or header.info.source or "dense"
    if key in known:
        if against == "dense" and key == header.info.source and not is_safe(key):
            check_origin(header, known[key])
        return key, known[key]
    if against == "dense":
        return key, open_dense(header, trust_builder=builder is not None)
    named = None if is_pickle(Path(against)) else read_header(Path(against)).info.name
    return key, expand_(model_files.open_model(Path(against), builder=builder if named in (None, builder) else None)[0])


def open_inputs(options: ModelInputs, batch_size: int = 64, limit: int | None = None) -> Inputs | None:
    """Return the inputs that the options name; None without them."""
    source = options.inputs or options.loader
    return None if source is None else Inputs(source, batch_size, limit)


def open_classifier(file: ModelFile) -> tuple[nn.Module, Header]:
    """Build the classifier of images that a file contains, and return it with the file's header.

    Raises:
        TenreoError: as `open_file`, and if the model does not take the file's images or has no output per class.
    """
    model, header = open_file(file)
    with usage():
        check_input(model, header.info.preprocess)
        if header.info.classes is None:
            raise TenreoError(
                f"{file.file}: the model's outputs are not one number per image and class, so it has no accuracy; "
                "give a classifier"
            )
    return model, header

"""Checks that several commands share. No torch.

They run before anything slow, so that a wrong path or a typing error is reported at once. What only torch or the model
can check, such as the device, is checked at the start of a command's body.
"""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from tenreo.cli.exits import usage
from tenreo.cli.shared_options import DenseModel, Layout, ModelFile, ModelInputs
from tenreo.data.layouts import DIGITS, ROOT_SPLIT, find_unlabeled, has_split, locate
from tenreo.errors import TenreoError, install
from tenreo.files.atomic import check_writable
from tenreo.files.checkpoints import PARTS
from tenreo.files.configs import read_config
from tenreo.files.header import is_pickle, read_header
from tenreo.files.paths import check_ending, check_readable
from tenreo.files.records import Preprocess
from tenreo.files.repositories import PREFIX, Repository
from tenreo.models.names import check_source, check_source_of, is_safe, model_folder, names_folder
from tenreo.planning.recipe import recipe_of


def check_output(path: Path, force: bool, option: str = "out") -> None:
    """Raise TenreoError if the file that an option names cannot be written, or exists and `force` is not set."""
    check_writable(path)
    if path.exists() and not force:
        raise TenreoError(f"{path}: exists already; use --force to replace it, or choose another --{option}")


def check_folder(
    path: Path, force: bool, sources: Iterable[Path] = (), resume: bool = False, option: str = "out"
) -> None:
    """Raise TenreoError unless files can be written to a folder, which may not exist.

    Args:
        path: the folder.
        force: whether it may contain files.
        sources: folders that are read, none of which it may be.
        resume: whether an unfinished run may have written to it.
        option: name of the option that it was given for.
    """
    if path.is_dir():
        if any(source.is_dir() and path.samefile(source) for source in sources):
            raise TenreoError(f"{path}: is the folder that is read; choose another --{option}")
        # The first process of a distributed run may already have created files when the others arrive here.
        first = os.environ.get("RANK", "0") == "0"
        content = {each.name for each in path.iterdir()} if first and not force and not resume else set()
        if content == {PARTS}:
            raise TenreoError(
                f"{path}: contains an unfinished run; continue it with --resume, or start again with --force"
            )
        if content:
            raise TenreoError(
                f"{path}: contains files already; use --force to replace them, or choose another --{option}"
            )
        check_writable(path / "model.safetensors")
    elif path.exists() or path.is_symlink():
        raise TenreoError(f"{path}: is a file, needs a folder; choose another --{option}")
    else:
        existing = next(each for each in path.absolute().parents if each.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise TenreoError(f"{path}: cannot be created in {existing}: permission denied; choose another --{option}")


def require_plotting(option: str = "plot") -> None:
    """Raise TenreoError unless matplotlib, which the named option needs, is installed."""
    if find_spec("matplotlib") is None:
        raise TenreoError(f"{option}: matplotlib is not installed; {install('plot')}, or leave the option out")


def require_pages(option: str = "html") -> None:
    """Raise TenreoError unless jinja2, with which the named option writes HTML pages, is installed."""
    if find_spec("jinja2") is None:
        raise TenreoError(f"{option}: jinja2 is not installed; {install('report')}, or leave the option out")


def check_page(path: Path | None, force: bool, option: str) -> None:
    """Raise TenreoError if an option names an HTML page that cannot be written."""
    if path is not None:
        require_pages(option)
        check_ending(path, ".html")
        check_output(path, force, option)


def require_hub() -> None:
    """Raise TenreoError unless huggingface_hub is installed."""
    if find_spec("huggingface_hub") is None:
        raise TenreoError(f"hub: huggingface_hub is not installed; {install('hub')}")


def is_folder(path: Path) -> bool:
    """Return whether an output is a folder: one that exists, or a name without an ending that does not exist."""
    try:
        return path.is_dir() or not (path.suffix or path.exists())
    except OSError:  # such as a name that is too long, which the check of a file reports
        return False


def check_dense(dense: DenseModel) -> None:
    """Raise TenreoError if the package of the model does not exist, or the options of its input are inconsistent.

    Names of models and weights are checked later, because this needs torch.
    """
    dense.prepared(Preprocess())
    if dense.model is not None:
        if dense.arch is not None:
            raise TenreoError("model: given together with an architecture; use only one of --arch and --model")
        if names_folder(dense.model):
            _check_model_folder(dense, dense.model)
        else:
            check_source(dense.model)
    else:
        dense.require_arch()
        if dense.shape is not None and (len(dense.shape) != 3 or dense.shape[0] != 3):
            raise TenreoError(f"input: given {dense.input}, but torchvision architectures take 3 channels; use --model")


def _check_model_folder(dense: DenseModel, model: str) -> None:
    """Raise TenreoError unless the folder or the name of the repository exists, and nothing else names weights."""
    if dense.weights is not None:
        raise TenreoError(f"weights: given together with {model}, which has its own; use --model timm:NAME for others")
    check_source("timm:any")
    if model.startswith(PREFIX):
        require_hub()
        Repository.parse(model, "model")
    else:
        read_config(model_folder(model))


def check_file(file: ModelFile) -> None:
    """Raise TenreoError unless the file can be read and the package or module that `--model` names exists."""
    check_readable(file.file)
    if file.model is not None:
        check_source(file.model)


def check_data(data: str, splits: Iterable[str]) -> None:
    """Raise TenreoError unless the images can be read.

    Args:
        data: folder or tar file of the images, or digits, which need scikit-learn.
        splits: names of the folders that `data` must contain.
    """
    if data == DIGITS:
        if find_spec("sklearn") is None:
            raise TenreoError(f"digits: needs scikit-learn; {install('demo')}")
        return
    for split in (ROOT_SPLIT, *splits):
        place, _ = locate(data, split)
        if not os.access(place, os.R_OK | (os.X_OK if place.is_dir() else 0)):
            raise TenreoError(f"{place}: cannot be read: permission denied; choose another folder")


def check_pictures(data: str) -> None:
    """Raise TenreoError unless a folder contains training images: a folder named train, or unlabeled images."""
    check_data(data, [])
    if data != DIGITS and not has_split(data, "train"):
        find_unlabeled(data, "train")


def check_inputs(inputs: ModelInputs) -> None:
    """Raise TenreoError unless at most one kind of inputs is given, and its file or module exists."""
    if len(inputs.given) > 1:
        raise TenreoError("inputs: given together with a loader; use only one of --inputs and --loader")
    if inputs.inputs is not None:
        check_readable(inputs.inputs)
    if inputs.loader is not None:
        check_function("loader", inputs.loader)


def check_function(option: str, name: str) -> None:
    """Raise TenreoError unless the module of package.module:function exists, which an option names."""
    check_source(name, option)
    if is_safe(name):
        raise TenreoError(f"{option}: given {name}, needs package.module:function")


def check_layout(data: str, layout: Layout) -> None:
    """Raise TenreoError unless the label files can be read; none may be given for the digits."""
    for name, path in (("labels", layout.labels), ("class_map", layout.class_map)):
        if path is not None:
            if data == DIGITS:
                raise TenreoError(f"{name}: given {path}, but the digits contain their labels; leave it out")
            check_readable(path)


def check_header(file: ModelFile) -> None:
    """Raise TenreoError if the header of a safetensors file is damaged or names a function that may not be called.

    Headers of .pth files are checked when the file is loaded, because reading them needs torch.
    """
    if not is_pickle(file.file):
        header = read_header(file.file)
        recipe_of(header)
        with usage():
            check_source_of(header, file.model)

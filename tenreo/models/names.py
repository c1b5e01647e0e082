"""Names of models, SOURCE:NAME, and the checks of them. Importing this module does not import torch."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from tenreo.errors import TenreoError, install, shown
from tenreo.files.header import Header

FOLDERS = ("local-dir", "hf-hub")  # timm's sources that are a folder on this machine and a repository of the hub
SAFE = ("torchvision", "timm")  # sources that run no code but the package's own when a model is built by name
RANDOM = "none"  # the name of random weights
PAPER = ("mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# Either part of SOURCE:NAME. timm would take names with other characters for addresses of downloads.
_PART = re.compile(r"[A-Za-z0-9_.]{1,200}")


def architecture_names() -> tuple[str, ...]:
    """Return the names of torchvision's classification architectures, sorted; imports torchvision."""
    import torchvision

    return tuple(torchvision.models.list_models(module=torchvision.models))


def check_architecture(arch: str) -> None:
    """Raise unless torchvision has a classification architecture of this name; imports torchvision.

    Raises:
        TenreoError: naming similar architectures.
    """
    check_known("arch: torchvision has no classification architecture", arch, architecture_names())


def check_known(problem: str, name: str, known: Sequence[str]) -> None:
    """Raise unless a name is among the known ones.

    Raises:
        TenreoError: with the problem, the name and similar names.
    """
    if name not in known:
        similar = get_close_matches(name, known, 5) or known[:5]
        raise TenreoError(f"{problem} {name!r}; similar names: {', '.join(similar)}")


def is_safe(builder: str) -> bool:
    """Return whether a builder belongs to torchvision or timm, so that a file may cause it to be called.

    >>> is_safe("timm:resnet18d"), is_safe("mynet:build")
    (True, False)
    """
    return builder.partition(":")[0] in SAFE


def names_folder(model: str) -> bool:
    """Return whether the name of a model is that of a folder or repository in timm's layout.

    >>> names_folder("local-dir:nets/resnet18"), names_folder("timm:resnet18d")
    (True, False)
    """
    return model.partition(":")[0] in FOLDERS


def model_folder(model: str) -> Path:
    """Return the folder that local-dir:FOLDER stands for."""
    return Path(model.partition(":")[2] or ".").expanduser()


def function_name(text: str) -> str:
    """Return the name of a function of a file in the form that Python imports.

    >>> function_name("nets/mine.py:DigitNet"), function_name("timm:resnet18d")
    ('nets.mine:DigitNet', 'timm:resnet18d')
    """
    file, colon, name = text.partition(".py:")
    return f"{file.removeprefix('./').replace('/', '.')}:{name}" if colon else text


def check_builder(builder: str, option: str = "model") -> None:
    """Raise unless a builder has the form SOURCE:NAME; `option` is the name of the option that it was given for.

    Raises:
        TenreoError: listing the accepted forms.
    """
    source, colon, name = builder.partition(":")
    if not colon or not _PART.fullmatch(source) or not _PART.fullmatch(name):
        raise TenreoError(
            f"{option}: given {shown(builder)}, needs "
            + ("timm:NAME, torchvision:NAME or " if option == "model" else "")
            + "package.module:function"
            + (f", such as {shown(builder)[1:-1]}:build" if builder.endswith(".py") else "")
        )


def check_source(builder: str, option: str = "model") -> None:
    """Raise unless the package of a builder can be found, as far as this is known without importing it.

    `option` is the name of the option that the builder was given for.

    Raises:
        TenreoError: naming the missing package.
    """
    check_builder(builder, option)
    source = builder.partition(":")[0]
    if source == "timm" and find_spec("timm") is None:
        raise TenreoError(f"model: timm is not installed; {install('timm')}")
    if not is_safe(builder):
        add_working_folder()
        package = source.partition(".")[0]
        try:
            spec = package and find_spec(package)
        except ValueError:  # raised for __main__, which has no spec
            spec = None
        if not spec:
            raise TenreoError(
                f"{option}: there is no module {package!r}, neither installed nor in the working folder; "
                "give package.module:function"
            )


def check_source_of(header: Header, builder: str | None) -> None:
    """Raise if a file names another builder than the given one, or a function although no builder is given.

    Raises:
        TenreoError: naming the builder in the file.
    """
    own, name = header.info.source, header.path.name
    if own is None or own == builder:
        return
    if builder is not None:
        raise TenreoError(f"model: given {builder}, but {name} names {own}; omit the model, or give {own}")
    if not is_safe(own):
        raise TenreoError(
            f"model: {name} names the function {own}, which can run any code and is only called if you name it: "
            f"--model {own}"
        )


def add_working_folder() -> None:
    """Make modules of the working folder importable, as `python -m` does."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))

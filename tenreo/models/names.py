"""The names that options take: torchvision's architectures, and ways to augment images. No torch."""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tenreo.errors import TenreoError, shown
from tenreo.files.header import Header

SAFE = ("torchvision", "timm")  # sources of models whose names run none but their own code
_BUILDER = re.compile(r"[A-Za-z0-9_.]{1,200}")  # each part; timm takes others for addresses
PAPER = ("mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_REGISTERED = re.compile(r"^@register_model\(\)\n(?:(?!def ).*\n)*def (\w+)\(", re.MULTILINE)
_RENAMED = re.compile(r'^@register_model\(name="(\w+)"\)\n', re.MULTILINE)


@cache
def architecture_names() -> tuple[str, ...]:
    """The classification architectures of torchvision, sorted.

    They are read from its source files: importing it takes seconds, which neither shell completion nor the message
    about a misspelled name should take.
    """
    return tuple(sorted(name for text in _sources() for name in _REGISTERED.findall(text)))


def check_architecture(arch: str) -> None:
    """Raise unless torchvision has a classification architecture of this name.

    Raises:
        TenreoError: naming some that it has.
    """
    known = architecture_names()
    if arch not in known:
        close = [name for name in known if name[:4] == arch[:4]] or list(PAPER)
        raise TenreoError(f"arch: torchvision has no classification architecture {arch!r}; such as {', '.join(close)}")


def is_safe(builder: str) -> bool:
    """Whether a builder is a name of torchvision's or timm's, which may be called because a file says so.

    >>> is_safe("timm:resnet18d"), is_safe("mynet:build")
    (True, False)
    """
    return builder.partition(":")[0] in SAFE


def check_builder(builder: str) -> None:
    """Raise unless a builder is of the form SOURCE:NAME.

    Raises:
        TenreoError: saying what the forms are.
    """
    source, colon, name = builder.partition(":")
    if not colon or not _BUILDER.fullmatch(source) or not _BUILDER.fullmatch(name):
        raise TenreoError(
            f"model: given {shown(builder)}, needs timm:NAME, torchvision:NAME or package.module:function"
        )


def check_source(builder: str) -> None:
    """Raise unless a builder's package is installed or its module is there; what can be said before importing them.

    Raises:
        TenreoError: saying what is missing.
    """
    check_builder(builder)
    source, _, name = builder.partition(":")
    if source == "timm":
        if find_spec("timm") is None:
            raise TenreoError("model: timm is not installed; install tenreo[timm]")
    elif source == "torchvision":
        known = tuple(name for text in _sources("**/*.py") for name in _found(text))
        if name not in known:
            close = [each for each in known if each[:5] == name[:5]][:5] or known[:5]
            raise TenreoError(f"model: torchvision has no model {name!r}; such as {', '.join(close)}")
    else:
        see_working_folder()
        package = source.partition(".")[0]
        try:
            found = package and find_spec(package)
        except ValueError:  # of a module that is being run, __main__
            found = None
        if not found:
            raise TenreoError(
                f"model: there is no module {package!r}, neither installed nor here; give package.module:function"
            )


def check_source_of(header: Header, builder: str | None) -> None:
    """Raise unless a file names the builder that was given, or none; a function has to be given.

    Raises:
        TenreoError: saying what the file names.
    """
    own, name = header.info.source, header.path.name
    if own is None or own == builder:
        return
    if builder is not None:
        raise TenreoError(f"model: given {builder}, but {name} names {own}; leave it out, or say that")
    if not is_safe(own):
        raise TenreoError(
            f"model: {name} names the function {own}, which can be any code and is only called where it is given"
        )


def _found(text: str) -> list[str]:
    return _REGISTERED.findall(text) + _RENAMED.findall(text)


def see_working_folder() -> None:
    """Let modules of the current folder be imported, as `python -m` does."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


@cache
def weight_names(arch: str) -> tuple[str, ...]:
    """The names of torchvision's weights of an architecture, read from its source files as well."""
    for text in _sources():
        declared = re.search(rf"^def {re.escape(arch)}\([^)]*?weights: Optional\[(\w+)\]", text, re.MULTILINE)
        if declared:
            body = text.partition(f"class {declared[1]}(WeightsEnum):")[2]
            body = re.split(r"^\S", body, maxsplit=1, flags=re.MULTILINE)[0]
            return tuple(re.findall(r"^    (\w+) = Weights\(", body, re.MULTILINE))
    return ()


@cache
def _sources(pattern: str = "*.py") -> tuple[str, ...]:
    """The texts of torchvision's modules of models, by default of classifiers."""
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise TenreoError("torchvision is not installed; install tenreo with its dependencies")
    folder = Path(spec.submodule_search_locations[0]) / "models"
    return tuple(file.read_text("utf-8") for file in sorted(folder.glob(pattern)))

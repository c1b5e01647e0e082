"""Guesses which model the tensors of a file belong to, for messages about tensors that do not fit."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from torch import Tensor

from tenreo.compression.tensor_checks import MisfitError
from tenreo.files.records import ModelInfo
from tenreo.models.builders import build_info
from tenreo.models.names import architecture_names

OPTIONAL = "num_batches_tracked"  # files of old torch versions do not contain it
_FEWEST = 10  # smallest number of tensors of an architecture
_TIMM = ("conv_stem.", "blocks.", "stages.", "stem.", "patch_embed.", "head.fc.", "conv_head.")


@contextmanager
def guessing(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Add the model that the tensors belong to, as far as it can be guessed, to the message of a MisfitError."""
    try:
        yield
    except MisfitError as error:
        raise MisfitError(f"{error}{guess({n: tuple(t.shape) for n, t in tensors.items()})}") from error


def guess(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the end of a message that names the model with these tensors, or an empty string if it is not known.

    >>> guess({"patch_embed.proj.weight": (8, 3, 4, 4), "blocks.0.norm1.weight": (8,)})
    "; these are names of timm's models: name the model, as timm:NAME"

    Args:
        shapes: shapes of the tensors, by state-dict name.
    """
    names = {name for name in shapes if not name.endswith(OPTIONAL)}
    if sum(any(name.startswith(prefix) for name in names) for prefix in _TIMM) >= 2:
        return "; these are names of timm's models: name the model, as timm:NAME"
    import torchvision

    # Architectures of one source file have mostly the same names but for numbers, so one of each other file is built.
    others: set[str] = set()
    found: dict[str, int] = {}  # number of tensors of other shapes, by architecture
    home = ""  # file of these architectures
    for arch in architecture_names() if len(names) >= _FEWEST else ():
        file = torchvision.models.get_model_builder(arch).__module__
        if file in others or (found and file != home):
            continue
        own = architecture_shapes(arch)
        left, right = _without_numbers(own), _without_numbers(names)
        if 2 * len(left & right) <= min(len(left), len(right)):
            others.add(file)
        elif set(own) == names:
            different = sum(own[name] != shapes[name] for name in names)
            # Weight and bias of the last layer may differ, since they depend on the number of classes.
            if different <= 2:
                found[arch], home = different, file
    return f"; these are names of {min(found, key=lambda arch: found[arch])}" if found else ""


def _without_numbers(names: Iterable[str]) -> set[str]:
    return {re.sub(r"\d+", "", name) for name in names}


@cache
def architecture_shapes(arch: str) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of the tensors that every file of an architecture with its usual classes contains, by name."""
    state = build_info(ModelInfo(arch), "meta").state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith(OPTIONAL)}

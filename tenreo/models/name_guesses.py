"""Guesses which model the tensors of a file belong to, for messages about tensors that do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import torchvision

from tenreo.files.records import ModelInfo
from tenreo.models.builders import build_info
from tenreo.models.names import architecture_names

_OPTIONAL = ("num_batches_tracked",)
_FEWEST = 10  # tensors that an architecture has at least
_TIMM = ("conv_stem.", "blocks.", "stages.", "stem.", "patch_embed.", "head.fc.", "conv_head.")


def guess(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the end of a message that names the model with these tensors, or an empty string if it is not known.

    >>> guess({"patch_embed.proj.weight": (8, 3, 4, 4), "blocks.0.norm1.weight": (8,)})
    "; these are names of timm's models: name the model, as timm:NAME"

    Args:
        shapes: shapes of the tensors, by state-dict name.
    """
    names = {name for name in shapes if not name.endswith(_OPTIONAL)}
    if sum(any(name.startswith(prefix) for name in names) for prefix in _TIMM) >= 2:
        return "; these are names of timm's models: name the model, as timm:NAME"
    for arch, own in _candidates(names) if len(names) >= _FEWEST else ():
        # Weight and bias of the last layer may differ, since they depend on the number of classes.
        if set(own) == names and sum(own[name] != shapes[name] for name in names) <= 2:
            return f"; these are names of {arch}"
    return ""


def _candidates(names: set[str]) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Yield architectures with the outermost modules of these names, and the shapes of their tensors."""
    modules = {name.partition(".")[0] for name in names}
    # Architectures of one source file have outermost modules of the same names, so one of each file is built.
    same: dict[str, bool] = {}
    for arch in architecture_names():
        family = torchvision.models.get_model_builder(arch).__module__
        if same.get(family, True):
            own = _shapes(arch)
            same[family] = {name.partition(".")[0] for name in own} == modules
            if same[family]:
                yield arch, own


@cache
def _shapes(arch: str) -> dict[str, tuple[int, ...]]:
    state = build_info(ModelInfo(arch), "meta").state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith(_OPTIONAL)}

"""What tensors that fit no given model are, guessed from their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from tenreo.models.architectures import build, builder
from tenreo.models.names import architecture_names

_OPTIONAL = ("num_batches_tracked",)
_FEWEST = 10  # tensors of an architecture
_TIMM = ("conv_stem.", "blocks.", "stages.", "stem.", "patch_embed.", "head.fc.", "conv_head.")


def guess(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The end of a message that says whose names they are; empty where that is not known.

    >>> guess({"patch_embed.proj.weight": (8, 3, 4, 4), "blocks.0.norm1.weight": (8,)})
    "; these are names of timm's models: name the model, as timm:NAME"

    Args:
        shapes: of the tensors, by state-dict name.
    """
    names = {name for name in shapes if not name.endswith(_OPTIONAL)}
    if sum(any(name.startswith(each) for name in names) for each in _TIMM) >= 2:
        return "; these are names of timm's models: name the model, as timm:NAME"
    for arch, own in _candidates(names) if len(names) >= _FEWEST else ():
        # The last layer has as many rows as there are classes.
        if set(own) == names and sum(own[name] != shapes[name] for name in names) <= 2:
            return f"; these are names of {arch}"
    return ""


def _candidates(names: set[str]) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Architectures whose outermost modules are those of some names, with the shapes of their tensors."""
    heads = {name.partition(".")[0] for name in names}
    alike: dict[str, bool] = {}  # of the architectures of one source file, which name their modules alike
    for arch in architecture_names():
        family = builder(arch).__module__
        if alike.get(family, True):
            own = _shapes(arch)
            alike[family] = {name.partition(".")[0] for name in own} == heads
            if alike[family]:
                yield arch, own


@cache
def _shapes(arch: str) -> dict[str, tuple[int, ...]]:
    state = build(arch, device="meta").state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith(_OPTIONAL)}

"""What the user asked for: rows, rate, layers and precisions. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, ClassVar

from tenreo.codec.shape import Positions, Precision
from tenreo.errors import TenreoError
from tenreo.files.header import Header
from tenreo.options import check_options, described, option
from tenreo.planning.rates import RATES, Rate, TargetAgreement, TargetKl, TargetSize, rate_name, rate_number, rate_of

ROUNDS = 12  # of refinement: docs/research/refinement.md has the curve of gain against time
DENSE = "dense"  # of a layer that is to stay as it is
_OF_LAYER = ("groups", "uniform", "progressive", "position_bits", "precision", "refine")
MOST_ROUNDS = 1000  # refinement gains nothing long before, and ends by itself
MOST_GROUPS = 2**16  # of torchvision's largest weight, 1,568 columns
MOST_WEIGHT = 10**9  # of an error against others: float32 tells no more apart
# The file format keeps the keys that were in use before fields were named after dtypes.
_FILE_KEYS = {"precision": "coefficients", "dense_dtype": "other"}


class Pack(StrEnum):
    """How positions lie in a file."""

    ENTROPY = "entropy"
    PLAIN = "plain"


class DenseDtype(StrEnum):
    """The number format in a file of tensors that are not compressed."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Recipe:
    """How to compress a model.

    >>> recipe = Recipe(groups=4, rate=rate_of("progressive", 0.5), exclude=("classifier*",))
    >>> print(recipe)
    4 groups, progressive 0.5, 12 rounds of refinement at most, exclude classifier*

    Attributes:
        groups: rows of the reshaped weight (the paper's g); None leaves the choice to `TargetSize`.
        rate: `Uniform(r)`, `Progressive(r')`, `TargetParameters(n)`, `TargetSize(bytes)`, `TargetKl(nats)`
            or `TargetAgreement(percent)`.
        include: patterns of layer names to compress instead of the rule's choice, as in fnmatch.
        exclude: patterns of layer names to leave dense.
        refine: rounds of refinement at most; 0 is the paper's encoding.
        position_bits: curves have at most 2^position_bits samples; None takes one per column, as the paper.
        precision: of the coefficients in the file; None is float32, or what `TargetSize` chooses.
        dense_dtype: number format in the file of what is left dense.
        pack: how positions lie in the file: entropy-coded without loss, or as plain bits.
        allocate: distribute the coefficients over the layers by their spectra, as many in all as the rate gives.
        importance: pattern of layer names -> factor of their error's weight, where bits are distributed; 1 otherwise.
        layers: pattern of layer names -> what differs for them: "dense", or values of groups, uniform or progressive,
            position_bits, precision and refine. The last pattern that matches counts.

    Raises:
        TenreoError: when a value is out of range.
    """

    panel: ClassVar[str] = "Recipe"  # heading in the help of the command line

    groups: int | None = field(
        metadata=described("Rows of the reshaped weight, the paper's g.", least=1, ceiling=MOST_GROUPS, short="-g")
    )
    rate: Rate
    include: tuple[str, ...] = option(
        (), "Compress the layers of these names instead of the rule's choice.", metavar="PATTERN"
    )
    exclude: tuple[str, ...] = option((), "Leave the layers of these names dense.", metavar="PATTERN")
    refine: int = option(
        ROUNDS, "Rounds of refinement at most; 0 is the paper's encoding.", least=0, ceiling=MOST_ROUNDS
    )
    position_bits: int | None = option(
        None, "Bits per position: curves have at most 2^B samples. By default one sample per column.", least=1, most=31
    )
    precision: Precision | None = option(None, "Number format of the coefficients in the file.")
    dense_dtype: DenseDtype = option(DenseDtype.FLOAT32, "Number format in the file of what is left dense.")
    pack: Pack = option(Pack.ENTROPY, "How positions lie in the file: entropy-coded without loss, or as plain bits.")
    allocate: bool = option(False, "Distribute the coefficients over the layers by their spectra.")
    importance: dict[str, float] = option(
        dict,
        "Weight of the error of the layers of a name, where bits are distributed.",
        above=0,
        ceiling=MOST_WEIGHT,
        metavar="PATTERN=W",
    )
    layers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.rate, Rate):
            raise TenreoError(
                f"rate: given {self.rate!r}, needs Uniform(r), Progressive(r'), TargetParameters(n) "
                "or TargetSize(bytes)"
            )
        check_options(self)
        if self.groups is None and not self.chooses:
            raise TenreoError("groups: given None, needs a whole number of at least 1, such as 4")
        if self.allocate and self.chooses:
            raise TenreoError("allocate: a target size distributes its bytes already; leave allocate out")
        if self.judges and not self.prices:
            raise TenreoError(
                f"{rate_name(self.rate)}: is reached with coded positions on curves of one row; leave groups, refine "
                "and pack out"
            )
        if not isinstance(self.layers, Mapping):
            raise TenreoError(f"layers: given {str(self.layers)[:100]}, needs layer-name patterns and their settings")
        for pattern, own in self.layers.items():
            try:
                if own != DENSE:
                    self.of_layer(own)
            except TenreoError as error:
                raise TenreoError(f"layers: {str(pattern)[:100]}: {error}") from error

    def __str__(self) -> str:
        parts = [
            f"{self.groups} groups" if self.groups else "groups chosen",
            f"{rate_name(self.rate).replace('_', ' ')} {rate_number(self.rate):,}",
            f"{self.refine} rounds of refinement at most",
            f"{self.position_bits} bits per position" if self.position_bits else "",
            f"{self.precision} coefficients" if self.precision else "",
            f"dense tensors {self.dense_dtype}" if self.dense_dtype != DenseDtype.FLOAT32 else "",
            "plain positions" if self.pack == Pack.PLAIN else "",
            "allocated by spectrum" if self.allocate else "",
            f"include {' '.join(self.include)}" if self.include else "",
            f"exclude {' '.join(self.exclude)}" if self.exclude else "",
            *(f"importance {pattern} {weight:g}" for pattern, weight in self.importance.items()),
            *(f"{pattern}: {_in_words(own)}" for pattern, own in self.layers.items()),
        ]
        return ", ".join(part for part in parts if part)

    def of_layer(self, own: Mapping[str, Any]) -> Recipe:
        """The recipe of a layer, for which something differs.

        >>> Recipe(4, rate_of("uniform", 2.0)).of_layer({"groups": 8, "progressive": 1.0}).rate
        Progressive(growth=1.0)

        Args:
            own: what differs, by name.

        Raises:
            TenreoError: when a name is unknown, or a value is out of range.
        """
        if not isinstance(own, Mapping) or not set(own) <= set(_OF_LAYER):
            raise TenreoError(f"given {str(own)[:100]}, needs {DENSE}, or values of {', '.join(_OF_LAYER)}")
        rates = [rate_of(name, own[name]) for name in ("uniform", "progressive") if name in own]
        if len(rates) > 1 or (rates and self.chooses):
            raise TenreoError(f"given {str(own)[:100]}, needs one rate at most, and none where a size is the target")
        others = {name: value for name, value in own.items() if name not in ("uniform", "progressive")}
        return replace(self, layers={}, rate=(rates or [self.rate])[0], **others)

    @property
    def positions(self) -> Positions:
        """How positions are to lie in the file."""
        return Positions.CODED if self.pack == Pack.ENTROPY else Positions.PACKED

    @property
    def judges(self) -> bool:
        """Whether the target is what the compressed model puts out."""
        return isinstance(self.rate, (TargetKl, TargetAgreement))

    @property
    def prices(self) -> bool:
        """Whether a target is reached by one price of a bit for all layers, on curves of one row."""
        return self.chooses and self.pack == Pack.ENTROPY and self.groups in (None, 1)

    @property
    def chooses(self) -> bool:
        """Whether every layer's curve is chosen for a target, instead of following from a rate."""
        return isinstance(self.rate, (TargetSize, TargetKl, TargetAgreement)) and self.refine > 0

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, under the keys of the file format."""
        plain: dict[str, Any] = {
            _FILE_KEYS.get(f.name, f.name): getattr(self, f.name) for f in fields(self) if f.name != "rate"
        }
        patterns = {"include": list(self.include), "exclude": list(self.exclude)}
        if not self.layers:
            del plain["layers"]  # which earlier versions do not know
        if self.pack == Pack.PLAIN:
            del plain["pack"]
        return {**plain, rate_name(self.rate): rate_number(self.rate), **patterns}

    @classmethod
    def from_dict(cls, values: Any) -> Recipe:
        """The recipe that `to_dict` wrote.

        >>> recipe = Recipe(8, rate_of("uniform", 2.0))
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True

        Raises:
            TenreoError: when a key is unknown, or a value is out of range.
        """
        names = {_FILE_KEYS.get(f.name, f.name): f.name for f in fields(cls) if f.name != "rate"}
        known = (*names, *RATES)
        if not isinstance(values, dict) or not set(values) <= set(known):
            raise TenreoError(f"recipe: given {str(values)[:200]}, needs the keys {', '.join(known)}")
        rates = {name: values[name] for name in RATES if values.get(name) is not None}
        if len(rates) != 1:
            raise TenreoError(f"recipe: given {len(rates)} rates, needs one of {', '.join(RATES)}")
        # Files from before there was refinement, or entropy coding, do not say so.
        plain = {"groups": None, "refine": 0, "pack": Pack.PLAIN} | {
            names[key]: v for key, v in values.items() if key in names
        }
        return cls(**plain, rate=rate_of(*next(iter(rates.items()))))


def _in_words(own: Any) -> str:
    return own if own == DENSE else " ".join(f"{name} {value}" for name, value in own.items())


def recipe_of(header: Header) -> Recipe | None:
    """The recipe that a file was compressed with, or None where it does not say.

    Raises:
        TenreoError: when the file's recipe makes no sense.
    """
    try:
        return None if header.recipe is None else Recipe.from_dict(header.recipe)
    except TenreoError as error:
        raise TenreoError(f"{header.path}: the metadata can not be understood: {error}") from error

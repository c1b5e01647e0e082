"""The recipe of a compression: groups, rate, layers, number formats, and the strategy that follows. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from tenreo.codec.shape import Positions, Precision
from tenreo.errors import TenreoError, counted, shown
from tenreo.files.header import Header
from tenreo.options import check_options, option
from tenreo.planning.rates import RATES, OutputTarget, Progressive, Rate, TargetParameters, TargetSize, Uniform, rate_of

ROUNDS = 12  # docs/research/refinement.md shows the gain of refinement against its time
DENSE = "dense"  # value of `Recipe.layers` that leaves a layer dense
_LAYER_RATES = (Uniform.name, Progressive.name)
_LAYER_SETTINGS = ("groups", *_LAYER_RATES, "position_bits", "precision", "refine")
_MAX_ROUNDS = 1000  # refinement converges and stops long before
_MAX_GROUPS = 2**16  # torchvision's largest weight then has 1,568 columns
_MAX_IMPORTANCE = 10**9  # beyond this ratio the smaller error is lost in float32
_FEW_PATTERNS = 3  # of importance are printed one by one
# Field -> key in the file format, where they differ. Existing files have these keys, so they stay.
_FILE_KEYS = {"precision": "coefficients", "dense_dtype": "other"}


class Strategy(StrEnum):
    """How the curves of all layers are chosen; `Recipe.strategy` decides it."""

    RATE = "a rate per layer"
    GROWTH = "smallest progressive growth"
    CANDIDATES = "smallest predicted error among candidates"
    PRICE = "one price per bit"


_DISTRIBUTING = (Strategy.CANDIDATES, Strategy.PRICE)  # distribute the bytes of the file over the layers


class Pack(StrEnum):
    """Storage of the positions in a file."""

    ENTROPY = "entropy"
    PLAIN = "plain"


class DenseDtype(StrEnum):
    """Storage of uncompressed tensors in a file: a number format, or rounding that is as fine as the layers need."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    CODED = "coded"


@dataclass(frozen=True)
class Recipe:
    """How to compress a model.

    >>> recipe = Recipe(groups=4, rate=rate_of("progressive", 0.5), exclude=("classifier*",))
    >>> print(recipe)
    4 groups, progressive 0.5, at most 12 rounds of refinement, exclude classifier*

    Attributes:
        groups: rows of the reshaped weight (g in the paper); None with `TargetSize` lets the strategy choose.
        rate: `Uniform(r)`, `Progressive(r')`, `TargetParameters(n)`, `TargetSize(bytes)`, `TargetFraction(part)`,
            `TargetBits(bits)`, `TargetKl(nats)` or `TargetAgreement(percent)`.
        include: patterns of the names of layers to compress instead of those that the rule chooses, as in fnmatch. A
            pattern skips weights that cannot be compressed (`Plan.skipped`); a name of such a weight is an error.
        exclude: patterns of the names of layers to leave dense.
        refine: maximum number of refinement rounds; 0 gives the encoding of the paper.
        position_bits: limits curves to 2^position_bits samples; None gives one sample per column, as in the paper.
        precision: number format of the coefficients in the file; None is float32, or the choice of `TargetSize`.
        dense_dtype: storage of uncompressed tensors in the file: their number format, or "coded" for rounding and
            entropy coding (`tenreo.planning.dense_storage`), which is the default with one price per bit.
        pack: storage of the positions in the file: entropy-coded, which is lossless, or plain bits.
        allocate: whether the coefficients are distributed over the layers by their spectra; the total stays the same.
        importance: pattern of layer names -> factor of their error when bits are distributed; 1 by default.
        layers: pattern of layer names -> "dense", or values of groups, uniform or progressive, position_bits,
            precision and refine for these layers. The last pattern that matches is used.

    Raises:
        TenreoError: when a value is out of range.
    """

    panel: ClassVar[str] = "Recipe"  # heading in the help of the command line

    groups: int | None = option(
        None, "Rows of the reshaped weight, g in the paper.", least=1, ceiling=_MAX_GROUPS, short="-g"
    )
    rate: Rate = field(default=None)  # type: ignore[assignment] # refused below
    include: tuple[str, ...] = option(
        (), "Compress the layers whose names match, such as 'layer4.*', instead of the default choice of the "
        "architecture. Can be repeated.",
        metavar="PATTERN",
    )  # fmt: skip
    exclude: tuple[str, ...] = option(
        (), "Do not compress the layers whose names match. Can be repeated.", metavar="PATTERN"
    )
    refine: int = option(
        ROUNDS, "Maximum number of refinement rounds; 0 gives the encoding of the paper.", least=0, ceiling=_MAX_ROUNDS
    )
    position_bits: int | None = option(
        None, "Number of bits B per position: curves have at most 2^B samples; by default one sample per column.",
        least=1, most=31,
    )  # fmt: skip
    precision: Precision | None = option(
        None, "Number format of the coefficients in the file; by default float32, or chosen for a target size."
    )
    dense_dtype: DenseDtype = option(
        None, "Number format of uncompressed tensors in the file; 'coded' rounds them as finely as the compressed "
        "layers need. By default, it is coded for a target size, and float32 otherwise.",
    )  # fmt: skip
    pack: Pack = option(Pack.ENTROPY, "Storage of the positions in the file: lossless entropy coding, or plain bits.")
    allocate: bool = option(
        False, "Distribute the coefficients over the layers by their spectra; their total does not change."
    )
    importance: dict[str, float] = option(
        dict, "Multiply the error of the layers whose names match by W when coefficients or bytes are distributed over "
        "the layers; 1 by default. Can be repeated.",
        above=0, ceiling=_MAX_IMPORTANCE, metavar="PATTERN=W",
    )  # fmt: skip
    layers: dict[str, Any] = field(default_factory=dict)
    if TYPE_CHECKING:

        def __init__(  # texts stand for members of the enumerations
            self, groups: int | None = None, rate: Rate = ..., include: Sequence[str] = (),
            exclude: Sequence[str] = (), refine: int = ROUNDS, position_bits: int | None = None,
            precision: Precision | str | None = None, dense_dtype: DenseDtype | str | None = None,
            pack: Pack | str = Pack.ENTROPY, allocate: bool = False, importance: Mapping[str, float] = ...,
            layers: Mapping[str, Any] = ...,
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        if not isinstance(self.rate, Rate):
            classes = ", ".join(cls.__name__ for cls in RATES.values())
            raise TenreoError(f"rate: given {self.rate!r}, needs one of {classes}, for example Uniform(2.0)")
        if self.dense_dtype is None:
            default = DenseDtype.CODED if self.strategy is Strategy.PRICE else DenseDtype.FLOAT32
            object.__setattr__(self, "dense_dtype", default)
        check_options(self)
        if isinstance(self.rate, OutputTarget) and not (self.refine and self._codes_one_row):
            raise TenreoError(
                f"{self.rate.name}: needs entropy-coded positions on refined curves of one row; leave groups, refine "
                "and pack out"
            )
        if self.groups is None and self.strategy not in _DISTRIBUTING:
            raise TenreoError("groups: given None, needs a whole number of at least 1, such as 4")
        if self.allocate and self.strategy in _DISTRIBUTING:
            raise TenreoError("allocate: a target size distributes its bytes already; leave allocate out")
        if not isinstance(self.layers, Mapping):
            raise TenreoError(f"layers: given {str(self.layers)[:100]}, needs layer-name patterns and their settings")
        for pattern, own in self.layers.items():
            try:
                if own != DENSE:
                    self.of_layer(own)
            except TenreoError as error:
                raise TenreoError(f"layers: {str(pattern)[:100]}: {error}") from error

    def __repr__(self) -> str:
        """Return the call that makes an equal recipe, without arguments that have their default values."""
        plain: Recipe = type(self)(self.groups, self.rate)
        first = [f"groups={self.groups}"] if self.groups is not None else []
        others = [n for n in vars(self) if n not in ("groups", "rate") and getattr(self, n) != getattr(plain, n)]
        return f"Recipe({', '.join([*first, f'rate={self.rate}', *(f'{n}={self._written(n)}' for n in others)])})"

    def _written(self, name: str) -> str:
        value = getattr(self, name)
        return repr(str(value)) if isinstance(value, StrEnum) else repr(value)

    def __str__(self) -> str:
        parts = [
            counted(self.groups, "group") if self.groups else "groups chosen",
            f"{self.rate.name.replace('_', ' ')} {self.rate.number:,}",
            f"at most {counted(self.refine, 'round')} of refinement" if self.refine else "no refinement",
            f"{counted(self.position_bits, 'bit')} per position" if self.position_bits else "",
            f"{self.precision} coefficients" if self.precision else "",
            f"dense tensors {self.dense_dtype}" if self.dense_dtype != DenseDtype.FLOAT32 else "",
            "plain positions" if self.pack == Pack.PLAIN else "",
            "allocated by spectrum" if self.allocate else "",
            f"include {' '.join(self.include)}" if self.include else "",
            f"exclude {' '.join(self.exclude)}" if self.exclude else "",
            _importance_in_words(self.importance),
            *(f"{pattern}: {_in_words(own)}" for pattern, own in self.layers.items()),
        ]
        return ", ".join(part for part in parts if part)

    def of_layer(self, own: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a layer that has settings of its own.

        >>> Recipe(4, rate_of("uniform", 2.0)).of_layer({"groups": 8, "progressive": 1.0}).rate
        Progressive(growth=1.0)

        Args:
            own: settings of the layer by name; they replace those of this recipe.

        Raises:
            TenreoError: when a name is unknown, or a value is out of range.
        """
        if not isinstance(own, Mapping) or not set(own) <= set(_LAYER_SETTINGS):
            raise TenreoError(f"given {str(own)[:100]}, needs {DENSE}, or values of {', '.join(_LAYER_SETTINGS)}")
        rates = [rate_of(name, own[name]) for name in _LAYER_RATES if name in own]
        if len(rates) > 1 or (rates and self.strategy in _DISTRIBUTING):
            raise TenreoError(f"given {str(own)[:100]}, needs at most one rate, and none with a target size")
        others = {name: value for name, value in own.items() if name not in _LAYER_RATES}
        return replace(self, layers={}, rate=(rates or [self.rate])[0], **others)

    @property
    def strategy(self) -> Strategy:
        """How the curves of all layers are chosen. Only this property decides it.

        | rate | refine | pack and groups | strategy |
        |:--|:--|:--|:--|
        | `Uniform`, `Progressive` | any | any | `RATE` |
        | `TargetParameters` | any | any | `GROWTH` |
        | `TargetSize`, `TargetFraction`, `TargetBits` | 0 | any | `GROWTH` |
        | the same | above 0 | entropy-coded, groups 1 or None | `PRICE` |
        | the same | above 0 | plain, or groups above 1 | `CANDIDATES` |
        | `TargetKl`, `TargetAgreement` | above 0 | entropy-coded, groups 1 or None | `PRICE` |

        >>> [Recipe(4, TargetSize(10**6), refine=rounds).strategy.name for rounds in (0, 12)]
        ['GROWTH', 'CANDIDATES']
        """
        if isinstance(self.rate, (Uniform, Progressive)):
            return Strategy.RATE
        if isinstance(self.rate, OutputTarget):
            return Strategy.PRICE
        if isinstance(self.rate, TargetParameters) or self.refine == 0:
            return Strategy.GROWTH  # without refinement, short curves have large errors
        return Strategy.PRICE if self._codes_one_row else Strategy.CANDIDATES

    @property
    def distributes_bytes(self) -> bool:
        """Whether the bytes of a target size are distributed at one price, to which measured importance applies."""
        return self.strategy is Strategy.PRICE and not isinstance(self.rate, OutputTarget)

    @property
    def _codes_one_row(self) -> bool:
        return self.pack == Pack.ENTROPY and self.groups in (None, 1)

    @property
    def positions(self) -> Positions:
        """Storage of the positions in the file, as the file's header names it."""
        return Positions.CODED if self.pack == Pack.ENTROPY else Positions.PACKED

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values with the keys of the file format."""
        plain: dict[str, Any] = {
            _FILE_KEYS.get(f.name, f.name): getattr(self, f.name) for f in fields(self) if f.name != "rate"
        }
        patterns = {"include": list(self.include), "exclude": list(self.exclude)}
        if not self.layers:
            del plain["layers"]  # older versions do not accept this key
        if self.pack == Pack.PLAIN:
            del plain["pack"]
        return {**plain, self.rate.name: self.rate.number, **patterns}

    @classmethod
    def from_dict(cls, values: Any) -> Recipe:
        """Return the recipe that `to_dict` wrote.

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
        # Files written before refinement and entropy coding existed lack these keys.
        plain = {"groups": None, "refine": 0, "pack": Pack.PLAIN} | {
            names[key]: v for key, v in values.items() if key in names
        }
        return cls(**plain, rate=rate_of(*next(iter(rates.items()))))


def _importance_in_words(importance: Mapping[str, float]) -> str:
    if len(importance) <= _FEW_PATTERNS:
        return ", ".join(f"importance {pattern} {weight:g}" for pattern, weight in importance.items())
    least, most = min(importance.values()), max(importance.values())
    return f"importance of {len(importance)} layers from {least:g} to {most:g}"


def _in_words(own: Any) -> str:
    return own if own == DENSE else " ".join(f"{name} {value}" for name, value in own.items())


def recipe_of(header: Header) -> Recipe | None:
    """Return the recipe that a file was compressed with; None if its header has none.

    Raises:
        TenreoError: when the recipe in the header is not valid.
    """
    try:
        return None if header.recipe is None else Recipe.from_dict(header.recipe)
    except TenreoError as error:
        raise TenreoError(f"{header.path}: the metadata cannot be understood: {error}") from error


def check_recipe(recipe: object) -> None:
    """Raise TenreoError unless a caller gave a recipe."""
    if not isinstance(recipe, Recipe):
        advice = "; a rate is a part of it, as in tenreo.Recipe(4, tenreo.Uniform(2.0))"
        raise TenreoError(f"recipe: given {shown(recipe)}, needs a tenreo.Recipe or a plan{advice}")


def target_out_of_reach(recipe: Recipe, least: int) -> TenreoError:
    """Return the error for a `TargetSize` or `TargetParameters` below that of the smallest encoding, with remedies."""
    size = isinstance(recipe.rate, TargetSize)
    remedies = ["give more"]
    remedies += ["choose more groups"] if recipe.groups else []
    remedies += ["choose dense_dtype float16"] if size and recipe.dense_dtype == DenseDtype.FLOAT32 else []
    if size and recipe.strategy is Strategy.GROWTH and not recipe.position_bits:
        remedies += ["allow refinement, for shorter curves"]
    return TenreoError(
        f"{recipe.rate.name}: given {recipe.rate.number:,}, but the least is {least:,} "
        f"{'bytes' if size else 'parameters'}; {', '.join(remedies)}, or include more layers"
    )

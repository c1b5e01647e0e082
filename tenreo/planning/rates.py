"""Rates and targets: the name, number, range, unit and option of each. No torch.

A recipe has exactly one `Rate`. `Uniform` and `Progressive` give every layer a rate; the four targets state a total or
a quality, from which the curves of the layers follow. On the command line and in YAML files `RateOptions` names them.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from tenreo.errors import TenreoError, shown
from tenreo.options import check_number, check_options, described, option, options_of, types_of
from tenreo.sizes import amount, fraction

MAX_RATE = 2**31  # exceeds the length of every curve, so one coefficient per row is left
_MAX_TOTAL = 2**63 - 1


@dataclass(frozen=True)
class Rate:
    """Base class of rates and targets: a frozen dataclass with one number.

    Attributes:
        name: key of the rate in recipes, files and YAML files.
        unit: unit that may follow the number where it is written as text, such as 2.5MB; None if it cannot be a text.

    Raises:
        TenreoError: when the number is out of range.
    """

    name: ClassVar[str]
    unit: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        cls: Any = type(self)
        (number,) = fields(self)
        if self.unit is not None and isinstance(self.number, str):
            object.__setattr__(self, number.name, amount(self.number, self.name, self.unit))
        whole = types_of(cls)[number.name] is int
        check_number(self.name, self.number, whole=whole, option=number.metadata["option"])

    @property
    def number(self) -> float:
        """The value of the only field: r, r', parameters, bytes, nats or percent."""
        number: float = next(iter(vars(self).values()))
        return number


@dataclass(frozen=True)
class Uniform(Rate):
    """The same rate r for every layer: coefficients per row = int(columns / rate).

    >>> Uniform(2.0).of(numel=147_456, reference_numel=4096)
    2.0

    Raises:
        TenreoError: when the rate is not a finite number of at least 1.
    """

    name = "uniform"
    rate: float = field(metadata=described("Uniform rate r.", least=1, ceiling=MAX_RATE))

    def of(self, numel: int, reference_numel: int) -> float:
        """Return the rate of a layer of `numel` elements."""
        return self.rate


@dataclass(frozen=True)
class Progressive(Rate):
    """A rate that grows with the layer: 1 + growth * sqrt(numel) / sqrt(reference_numel), as in the paper.

    >>> Progressive(0.5).of(numel=4 * 4096, reference_numel=4096)
    2.0

    Raises:
        TenreoError: when the growth is not a finite number above 0.
    """

    name = "progressive"
    growth: float = field(metadata=described("Growth r' of a progressive rate.", above=0, ceiling=MAX_RATE))

    def of(self, numel: int, reference_numel: int) -> float:
        """Return the rate of a layer of `numel` elements."""
        return 1 + self.growth * math.sqrt(numel) / math.sqrt(reference_numel)


@dataclass(frozen=True)
class TargetParameters(Rate):
    """The smallest progressive growth whose model has at most this number of parameters, counted as in the paper.

    >>> TargetParameters(2_000_000)
    TargetParameters(parameters=2000000)

    Raises:
        TenreoError: when the number is not a whole number of at least 1.
    """

    name, unit = "target_params", ""
    parameters: int = field(metadata=described(
        "Instead of a rate: maximum number of parameters, for example 2.0M; the smallest progressive growth that "
        "reaches it is used.", least=1, ceiling=_MAX_TOTAL, metavar="NUMBER",
    ))  # fmt: skip
    if TYPE_CHECKING:

        def __init__(self, parameters: int | str) -> None: ...


@dataclass(frozen=True)
class TargetSize(Rate):
    """The smallest expected error in a file of at most this number of bytes.

    `Recipe.strategy` states how the curves are chosen: by a price per bit or among candidates with refinement, by the
    growth of the paper's encoding without.

    >>> TargetSize(2_500_000), TargetSize("2.5MB")
    (TargetSize(bytes=2500000), TargetSize(bytes=2500000))

    Raises:
        TenreoError: when the size is neither a whole number of at least 1 nor a text such as 2.5MB.
    """

    name, unit = "target_size", "B"
    bytes: int = field(metadata=described(
        "Instead of a rate: maximum size of the file, for example 2.5MB, or 5x or 20% of the dense model's size; the "
        "expected error is minimized.",
        least=1, ceiling=_MAX_TOTAL, metavar="SIZE",
    ))  # fmt: skip
    if TYPE_CHECKING:

        def __init__(self, bytes: int | str) -> None: ...


@dataclass(frozen=True)
class TargetFraction(Rate):
    """The smallest expected error in a file that is a given fraction of the dense model's tensors in size.

    `resolve` replaces it by the `TargetSize` that it means for the model.

    >>> TargetFraction(0.2).size(numbers=1000, bytes=4000)
    TargetSize(bytes=800)

    Raises:
        TenreoError: when the fraction is not a number above 0 and at most 1.
    """

    name = "target_fraction"
    fraction: float = field(metadata=described("Fraction of the bytes of the dense model.", above=0, most=1))

    def size(self, numbers: int, bytes: int) -> TargetSize:
        """Return the size of the file for a dense model with the given amounts of numbers and bytes."""
        return TargetSize(max(1, int(self.fraction * bytes)))


@dataclass(frozen=True)
class TargetBits(Rate):
    """The smallest expected error in a file of a given number of bits for each number of the dense model.

    `resolve` replaces it by the `TargetSize` that it means for the model.

    >>> TargetBits(4).size(numbers=1000, bytes=4000)
    TargetSize(bytes=500)

    Raises:
        TenreoError: when the number is not above 0 and at most 64.
    """

    name = "bits"
    bits: float = field(metadata=described(
        "Instead of a rate: size of the file in bits per weight of the dense model, for example 4; the expected error "
        "is minimized.", above=0, most=64,
    ))  # fmt: skip

    def size(self, numbers: int, bytes: int) -> TargetSize:
        """Return the size of the file for a dense model with the given amounts of numbers and bytes."""
        return TargetSize(max(1, int(self.bits * numbers / 8)))


@dataclass(frozen=True)
class TargetKl(Rate):
    """The smallest file whose outputs have at most this mean KL(dense, compressed), in nats.

    >>> TargetKl(0.05)
    TargetKl(kl=0.05)

    Raises:
        TenreoError: when the divergence is not a number above 0.
    """

    name = "target_kl"
    kl: float = field(metadata=described(
        "Instead of a rate: maximum mean KL divergence of the outputs from those of the dense model, in nats; the "
        "file is as small as possible.", above=0, ceiling=1000,
    ))  # fmt: skip


@dataclass(frozen=True)
class TargetAgreement(Rate):
    """The smallest file whose top-1 class equals that of the dense model on at least this percentage of images.

    >>> TargetAgreement(99)
    TargetAgreement(percent=99)

    Raises:
        TenreoError: when the percentage is not a number above 0 and at most 100.
    """

    name = "target_agreement"
    percent: float = field(metadata=described(
        "Instead of a rate: minimum percentage of images on which the top-1 class equals that of the dense model; "
        "the file is as small as possible.", above=0, most=100,
    ))  # fmt: skip


OutputTarget = TargetKl | TargetAgreement  # reached by running the compressed model
RATES: dict[str, type[Rate]] = {
    cls.name: cls for cls in (
        Uniform, Progressive, TargetParameters, TargetSize, TargetFraction, TargetBits, TargetKl, TargetAgreement
    )
}  # fmt: skip
RelativeSize = TargetFraction | TargetBits  # a size that follows from that of the dense model


_TYPED = {Uniform.name: "-r", Progressive.name: "-r with --progressive"}  # options whose names are not those of rates


def rate_of(name: str, number: float) -> Rate:
    """Return the rate with a name from `RATES` and a number.

    >>> rate_of("progressive", 0.5)
    Progressive(growth=0.5)

    Raises:
        TenreoError: when the number is out of range.
    """
    return RATES[name](number)  # type: ignore[call-arg]


def _option_of(cls: type[Rate]) -> Any:
    """Return an optional field with the help sentence and the range of a target."""
    (number,) = options_of(cls).values()
    return field(default=None, metadata={"option": number})


@dataclass(frozen=True)
class RateOptions:
    """The options of a rate or target, exactly one of which is given."""

    panel: ClassVar[str] = "Rate or size"  # heading in the help of the command line
    rate: float | None = option(
        None, "Rate r of at least 1; with --progressive the growth r' above 0.", ceiling=MAX_RATE, short="-r"
    )
    progressive: bool = option(False, "Let the rate grow with the layer: 1 + r' sqrt(weights / reference).")
    target_size: str | None = _option_of(TargetSize)
    bits: float | None = _option_of(TargetBits)
    target_kl: float | None = _option_of(TargetKl)
    target_agreement: float | None = _option_of(TargetAgreement)
    target_params: str | None = _option_of(TargetParameters)

    def __post_init__(self) -> None:
        check_options(self)

    def resolve(self) -> Rate:
        """Return the rate that the options name.

        Raises:
            TenreoError: when not exactly one is given, or its number is out of range.
        """
        layer_rate = Progressive.name if self.progressive else Uniform.name
        numbers = vars(self) | {Uniform.name: None, Progressive.name: None, layer_rate: self.rate}
        given = {name: number for name in RATES if (number := numbers.get(name)) is not None}
        if self.progressive and self.rate is None:
            raise TenreoError("progressive: needs the growth r' as the rate, such as -r 0.5, and no target")
        if not given:
            raise TenreoError("rate: not given; use -r 2, -r 0.5 --progressive, or a target such as --target-size")
        if len(given) != 1:
            typed = " and ".join(_TYPED.get(name, f"--{name.replace('_', '-')}") for name in given)
            raise TenreoError(f"rate: given {typed}, which exclude each other; give only one of them")
        ((name, number),) = given.items()
        if name == TargetSize.name and (part := fraction(number)) is not None:
            if not 0 < part <= 1:
                raise TenreoError(f"target_size: given {shown(number)}, needs at least 1x, or at most 100%")
            return TargetFraction(part)
        if isinstance(number, str):
            number = amount(number, name, RATES[name].unit or "")
        if name == Uniform.name and 0 < number < 1:
            raise TenreoError(
                f"rate: given {number:g}, needs at least 1 (1 keeps every coefficient); for a progressive rate add "
                "--progressive"
            )
        return rate_of(name, number)


def as_rate_options(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Translate the keys `uniform` and `progressive` with a number to the options `rate` and `progressive`.

    >>> as_rate_options({"groups": 4, "progressive": 0.5})
    {'groups': 4, 'rate': 0.5, 'progressive': True}

    Raises:
        TenreoError: when more than one of rate, uniform and progressive has a number.
    """
    names = [name for name in (Uniform.name, Progressive.name) if not isinstance(values.get(name, False), bool)]
    if len(names) + ("rate" in values) > 1:
        raise TenreoError(f"rate: needs exactly one of rate, uniform and progressive, given {shown(values)}")
    values = dict(values)
    for name in names:
        values |= {"rate": values.pop(name), "progressive": name == Progressive.name}
    return values


def replaced_rate_options(typed: Set[str], configured: Set[str]) -> dict[str, Any]:
    """Return the default values of the configured rate options that typed ones replace.

    >>> replaced_rate_options(typed={"target_size"}, configured={"rate", "progressive"})
    {'progressive': False, 'rate': None}

    Args:
        typed: names of the options given on the command line; a typed rate keeps a configured `progressive`.
        configured: names of the options given in a YAML file.
    """
    if not typed - {"progressive"}:
        return {}
    kept = {*typed, "progressive"} if "rate" in typed else typed
    return {name: getattr(RateOptions, name) for name in sorted(configured - kept)}

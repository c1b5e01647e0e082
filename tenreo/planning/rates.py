"""How much is kept: a rate per layer, or a total from which rates follow. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tenreo.options import Option, check_number

MOST_RATE = 2**31  # more than a curve has samples: one coefficient per row is left


@dataclass(frozen=True)
class Uniform:
    """The same rate r for every layer: coefficients per row = int(columns / rate).

    >>> Uniform(2.0).of(numel=147_456, reference_numel=4096)
    2.0

    Raises:
        TenreoError: when the rate is not a finite number of at least 1.
    """

    rate: float

    def __post_init__(self) -> None:
        check_number("uniform rate", self.rate, whole=False, option=Option("", least=1, ceiling=MOST_RATE))

    def of(self, numel: int, reference_numel: int) -> float:
        """The rate of a layer of `numel` elements."""
        return self.rate


@dataclass(frozen=True)
class Progressive:
    """A rate that grows with the layer: 1 + growth * sqrt(numel) / sqrt(reference) (section 2).

    >>> Progressive(0.5).of(numel=4 * 4096, reference_numel=4096)
    2.0

    Raises:
        TenreoError: when the growth is not a finite number above 0.
    """

    growth: float

    def __post_init__(self) -> None:
        check_number("progressive growth", self.growth, whole=False, option=Option("", above=0, ceiling=MOST_RATE))

    def of(self, numel: int, reference_numel: int) -> float:
        """The rate of a layer of `numel` elements."""
        return 1 + self.growth * math.sqrt(numel) / math.sqrt(reference_numel)


@dataclass(frozen=True)
class TargetParameters:
    """The smallest progressive growth with at most so many parameters, counted as the paper counts.

    >>> TargetParameters(2_000_000)
    TargetParameters(parameters=2000000)

    Raises:
        TenreoError: when it is not a whole number of at least 1.
    """

    parameters: int

    def __post_init__(self) -> None:
        check_number("target parameters", self.parameters, whole=True, option=Option("", least=1, ceiling=2**63 - 1))


@dataclass(frozen=True)
class TargetSize:
    """The smallest expected error in a file of at most so many bytes.

    With refinement every layer gets the samples, coefficients and precision that serve best, and the groups where
    the recipe names none; without, the paper's encoding is made to fit by its progressive growth.

    >>> TargetSize(2_500_000)
    TargetSize(bytes=2500000)

    Raises:
        TenreoError: when it is not a whole number of at least 1.
    """

    bytes: int

    def __post_init__(self) -> None:
        check_number("target size", self.bytes, whole=True, option=Option("", least=1, ceiling=2**63 - 1))


@dataclass(frozen=True)
class TargetKl:
    """The smallest file with at most so many nats of KL(dense, compressed) between the outputs, on average.

    >>> TargetKl(0.05)
    TargetKl(kl=0.05)

    Raises:
        TenreoError: when it is not a number above 0.
    """

    kl: float

    def __post_init__(self) -> None:
        check_number("target kl", self.kl, whole=False, option=Option("", above=0, ceiling=1000))


@dataclass(frozen=True)
class TargetAgreement:
    """The smallest file that names the same class first as the dense model on so many images of a hundred.

    >>> TargetAgreement(99)
    TargetAgreement(percent=99)

    Raises:
        TenreoError: when it is not a number above 0, and 100 at most.
    """

    percent: float

    def __post_init__(self) -> None:
        check_number("target agreement", self.percent, whole=False, option=Option("", above=0, most=100))


Rate = Uniform | Progressive | TargetParameters | TargetSize | TargetKl | TargetAgreement
RATES: dict[str, Any] = {
    "uniform": Uniform,
    "progressive": Progressive,
    "target_params": TargetParameters,
    "target_size": TargetSize,
    "target_kl": TargetKl,
    "target_agreement": TargetAgreement,
}


def rate_of(name: str, number: float) -> Rate:
    """The rate of a name in `RATES` and its number.

    >>> rate_of("progressive", 0.5)
    Progressive(growth=0.5)

    Raises:
        TenreoError: when the number is out of range.
    """
    rate: Rate = RATES[name](number)
    return rate


def rate_name(rate: Rate) -> str:
    """The name of a rate, as it is in `RATES`."""
    return next(name for name, kind in RATES.items() if isinstance(rate, kind))


def rate_number(rate: Rate) -> float:
    """The number of a rate: r, r', parameters, bytes, nats or percent."""
    number: float = next(iter(vars(rate).values()))
    return number

"""How much is kept: a rate per layer, or a total from which rates follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tenreo.errors import TenreoError


@dataclass(frozen=True)
class Uniform:
    """The same rate r for every layer: kept = int(columns / rate).

    Raises:
        TenreoError: when the rate is not a finite number of at least 1.
    """

    rate: float

    def __post_init__(self) -> None:
        check_number("uniform rate", self.rate)
        if not 1 <= self.rate < math.inf:
            raise TenreoError(f"uniform rate: given {self.rate}, needs at least 1 (1 keeps everything)")

    def of(self, numel: int, reference_numel: int) -> float:
        """The rate of a layer of `numel` elements."""
        return self.rate


@dataclass(frozen=True)
class Progressive:
    """A rate that grows with the layer: 1 + growth * sqrt(numel) / sqrt(reference) (section 2).

    Raises:
        TenreoError: when the growth is not a finite number above 0.
    """

    growth: float

    def __post_init__(self) -> None:
        check_number("progressive growth", self.growth)
        if not 0 < self.growth < math.inf:
            raise TenreoError(f"progressive growth: given {self.growth}, needs a number above 0")

    def of(self, numel: int, reference_numel: int) -> float:
        """The rate of a layer of `numel` elements."""
        return 1 + self.growth * math.sqrt(numel) / math.sqrt(reference_numel)


@dataclass(frozen=True)
class TargetParameters:
    """The smallest progressive growth with at most so many parameters, counted as the paper counts.

    Raises:
        TenreoError: when it is not a whole number of at least 1.
    """

    parameters: int

    def __post_init__(self) -> None:
        _check_total("target parameters", self.parameters)


@dataclass(frozen=True)
class TargetSize:
    """The smallest expected error in a file of at most so many bytes.

    With refinement every layer gets the samples, coefficients and precision that serve best, and the groups where
    the recipe names none; without, the paper's encoding is made to fit by its progressive growth.

    Raises:
        TenreoError: when it is not a whole number of at least 1.
    """

    bytes: int

    def __post_init__(self) -> None:
        _check_total("target size", self.bytes)


Rate = Uniform | Progressive | TargetParameters | TargetSize


def check_number(what: str, value: object) -> None:
    """Raise unless a value is a number.

    Raises:
        TenreoError: naming what it is.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TenreoError(f"{what}: given {value!r}, needs a number")
    if isinstance(value, int) and abs(value) > 10**300:
        raise TenreoError(f"{what}: given a number of {len(str(value))} digits, needs a smaller one")


def _check_total(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TenreoError(f"{what}: given {value!r}, needs a whole number of at least 1")

"""What the user asked for: rows, rate and layers; from Python, options or YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tenreo.errors import TenreoError

ROUNDS = 12  # of refinement: docs/refinement.md has the curve of gain against time


@dataclass(frozen=True)
class Uniform:
    """The same rate r for every layer: kept = int(columns / rate).

    Raises:
        TenreoError: when the rate is not a finite number of at least 1.
    """

    rate: float

    def __post_init__(self) -> None:
        _number("uniform rate", self.rate)
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
        _number("progressive growth", self.growth)
        if not 0 < self.growth < math.inf:
            raise TenreoError(f"progressive growth: given {self.growth}, needs a number above 0")

    def of(self, numel: int, reference_numel: int) -> float:
        """The rate of a layer of `numel` elements."""
        return 1 + self.growth * math.sqrt(numel) / math.sqrt(reference_numel)


@dataclass(frozen=True)
class Recipe:
    """How to compress a model.

    Attributes:
        groups: rows of the reshaped weight (the paper's g).
        rate: `Uniform(r)` or `Progressive(r')`.
        include: patterns of layer names to compress instead of the rule's choice, as in fnmatch.
        exclude: patterns of layer names to leave dense.
        refine: rounds of refinement at most; 0 is the paper's encoding.

    Raises:
        TenreoError: when a value is out of range.
    """

    groups: int
    rate: Uniform | Progressive
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    refine: int = ROUNDS

    def __post_init__(self) -> None:
        if not isinstance(self.groups, int) or isinstance(self.groups, bool) or self.groups < 1:
            raise TenreoError(f"groups: given {self.groups!r}, needs a whole number of at least 1, such as 4")
        if not isinstance(self.rate, (Uniform, Progressive)):
            raise TenreoError(f"rate: given {self.rate!r}, needs Uniform(r) or Progressive(r')")
        if not isinstance(self.refine, int) or isinstance(self.refine, bool) or self.refine < 0:
            raise TenreoError(
                f"refine: given {self.refine!r}, needs a whole number of rounds; 0 is the paper"
            )
        for name in ("include", "exclude"):
            patterns = getattr(self, name)
            if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
                raise TenreoError(f"{name}: given {patterns!r}, needs a list of layer-name patterns")
            object.__setattr__(self, name, tuple(patterns))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, as it stands in YAML and in a file's metadata."""
        rate = (
            {"uniform": self.rate.rate}
            if isinstance(self.rate, Uniform)
            else {"progressive": self.rate.growth}
        )
        patterns = {"include": list(self.include), "exclude": list(self.exclude)}
        return {"groups": self.groups, **rate, **patterns, "refine": self.refine}

    @property
    def mode(self) -> str:
        """`uniform` or `progressive`."""
        return "uniform" if isinstance(self.rate, Uniform) else "progressive"

    @property
    def strength(self) -> float:
        """r of a uniform recipe, r' of a progressive one."""
        return self.rate.rate if isinstance(self.rate, Uniform) else self.rate.growth


@dataclass(frozen=True)
class Config:
    """A YAML file: values that stand in for options; None or empty where it is silent.

    Attributes:
        arch: torchvision architecture.
        weights: torchvision weights, a path, or "none".
        groups: rows of the reshaped weight.
        uniform: rate of every layer.
        progressive: growth of the rate; not together with `uniform`.
        include: patterns of layer names to compress.
        exclude: patterns of layer names to leave dense.
        refine: rounds of refinement at most.
    """

    arch: str | None = None
    weights: str | None = None
    groups: int | None = None
    uniform: float | None = None
    progressive: float | None = None
    include: tuple[str, ...] = field(default=())
    exclude: tuple[str, ...] = field(default=())
    refine: int = ROUNDS

    def recipe(self) -> Recipe:
        """The recipe of a complete configuration.

        Raises:
            TenreoError: when groups or the rate are missing, or both rates are given.
        """
        if self.groups is None:
            raise TenreoError("groups: not given; say -g 4, or groups: 4 in the configuration")
        if (self.uniform is None) == (self.progressive is None):
            raise TenreoError(
                "rate: needs exactly one of uniform and progressive; "
                "say -r 2.0, or -r 0.5 --progressive, or one of them in the configuration"
            )
        rate = Uniform(self.uniform) if self.uniform is not None else Progressive(self.progressive or 0)
        return Recipe(self.groups, rate, self.include, self.exclude, self.refine)


def read_yaml(path: Path) -> dict[Any, Any]:
    """Read the keys and values of a YAML file.

    Raises:
        TenreoError: when it can not be read, or is no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TenreoError(f"{path}: can not be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise TenreoError(f"{path}: given {type(values).__name__}, needs keys and values such as groups: 4")
    return values


def read_config(path: Path) -> Config:
    """Read a YAML configuration.

    Raises:
        TenreoError: when it can not be read, is no mapping, or has an unknown key.
    """
    values = read_yaml(path)
    known = list(Config.__dataclass_fields__)
    for key in values:
        if key not in known:
            raise TenreoError(f"{path}: unknown key {key!r}; known keys are {', '.join(known)}")
    for key in ("arch", "weights"):
        if not isinstance(values.get(key, ""), str):
            raise TenreoError(f"{path}: {key}: given {values[key]!r}, needs a name")
    return Config(**values)


def recipe_from_dict(values: Any) -> Recipe:
    """The recipe that `Recipe.to_dict` wrote.

    Raises:
        TenreoError: when a key is unknown or a value is out of range.
    """
    known = ("groups", "uniform", "progressive", "include", "exclude", "refine")
    if not isinstance(values, dict) or not set(values) <= set(known):
        raise TenreoError(f"recipe: given {values!r}, needs the keys {', '.join(known)}")
    # Files from before there was refinement do not say so.
    return Config(**{"refine": 0, **values}).recipe()


def _number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TenreoError(f"{what}: given {value!r}, needs a number")

"""What the user asked for: rows, rate and layers; from Python, options or YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from tenreo.errors import TenreoError
from tenreo.rates import Progressive, Rate, TargetParameters, TargetSize, Uniform, check_number
from tenreo.sizes import FLOATS, PRECISIONS, amount

ROUNDS = 12  # of refinement: docs/refinement.md has the curve of gain against time


@dataclass(frozen=True)
class Recipe:
    """How to compress a model.

    Attributes:
        groups: rows of the reshaped weight (the paper's g); None leaves the choice to `TargetSize`.
        rate: `Uniform(r)`, `Progressive(r')`, `TargetParameters(n)` or `TargetSize(bytes)`.
        include: patterns of layer names to compress instead of the rule's choice, as in fnmatch.
        exclude: patterns of layer names to leave dense.
        refine: rounds of refinement at most; 0 is the paper's encoding.
        position_bits: curves have at most 2^position_bits samples; None takes one per column, as the paper.
        coefficients: their precision in the file, float32, float16, bfloat16, int8 or int6; None is float32, or
            what `TargetSize` chooses.
        other: precision in the file of what is left dense: float32, float16 or bfloat16.
        allocate: spread the coefficients over the layers by their spectra, as many in all as the rate gives.
        importance: pattern of layer names -> weight of their relative error, where bits are spread; 1 otherwise.

    Raises:
        TenreoError: when a value is out of range.
    """

    groups: int | None
    rate: Rate
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    refine: int = ROUNDS
    position_bits: int | None = None
    coefficients: str | None = None
    other: str = "float32"
    allocate: bool = False
    importance: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.rate, Rate):
            raise TenreoError(
                f"rate: given {self.rate!r}, needs Uniform(r), Progressive(r'), TargetParameters(n) or TargetSize(bytes)"
            )
        if self.groups is not None or not self.chooses:
            _check_whole("groups", self.groups, 1, "such as 4")
        _check_whole("refine", self.refine, 0, "rounds; 0 is the paper")
        if self.position_bits is not None:
            _check_whole("position_bits", self.position_bits, 1, "up to 31, such as 13")
            if self.position_bits > 31:
                raise TenreoError(f"position_bits: given {self.position_bits}, needs 1 to 31")
        for name, known in (("coefficients", (None, *PRECISIONS)), ("other", FLOATS)):
            if getattr(self, name) not in known:
                names = ", ".join(k for k in known if k)
                raise TenreoError(f"{name}: given {getattr(self, name)!r}, needs one of {names}")
        if not isinstance(self.allocate, bool):
            raise TenreoError(f"allocate: given {self.allocate!r}, needs true or false")
        if self.allocate and self.chooses:
            raise TenreoError("allocate: a target size spreads its bytes already; leave allocate out")
        for name in ("include", "exclude"):
            patterns = getattr(self, name)
            if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
                raise TenreoError(f"{name}: given {patterns!r}, needs a list of layer-name patterns")
            object.__setattr__(self, name, tuple(patterns))
        _check_importance(self.importance)

    def __str__(self) -> str:
        parts = [
            f"{self.groups} groups" if self.groups else "groups chosen",
            f"{self.mode.replace('_', ' ')} {self.strength:,}",
            f"{self.refine} rounds of refinement at most",
        ]
        if self.position_bits:
            parts.append(f"{self.position_bits} bits per position")
        parts += [f"{self.coefficients} coefficients"] if self.coefficients else []
        parts += [f"other {self.other}"] if self.other != "float32" else []
        parts += ["allocated by spectrum"] if self.allocate else []
        parts += [
            f"{k} {' '.join(v)}" for k, v in (("include", self.include), ("exclude", self.exclude)) if v
        ]
        parts += [f"importance {pattern} {weight:g}" for pattern, weight in self.importance.items()]
        return ", ".join(parts)

    @property
    def chooses(self) -> bool:
        """Whether every layer's curve is chosen for a size, instead of following from a rate."""
        return isinstance(self.rate, TargetSize) and self.refine > 0

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, as it stands in YAML and in a file's metadata."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rate"}
        patterns = {"include": list(self.include), "exclude": list(self.exclude)}
        return {**plain, self.mode: self.strength, **patterns}

    @property
    def mode(self) -> str:
        """The rate's name: uniform, progressive, target_params or target_size."""
        return next(name for name, kind in RATES.items() if isinstance(self.rate, kind))

    @property
    def strength(self) -> float:
        """The rate's number: r, r', parameters or bytes."""
        return next(iter(vars(self.rate).values()))  # type: ignore[no-any-return]


RATES: dict[str, Any] = {
    "uniform": Uniform, "progressive": Progressive, "target_params": TargetParameters, "target_size": TargetSize,
}  # fmt: skip
_UNITS = {"target_params": "", "target_size": "B"}
KEYS = (*(f.name for f in fields(Recipe) if f.name != "rate"), *RATES)


@dataclass(frozen=True)
class Config:
    """A YAML file: values that stand in for options.

    Attributes:
        arch: torchvision architecture.
        weights: torchvision weights, a path, or "none".
        values: of the recipe, under `KEYS`, as far as they are given.
    """

    arch: str | None = None
    weights: str | None = None
    values: dict[str, Any] = field(default_factory=dict)

    def recipe(self) -> Recipe:
        """The recipe of a complete configuration.

        Raises:
            TenreoError: when groups or the rate are missing, two rates are given, or a value is out of range.
        """
        values = dict(self.values)
        rates = {name: values.pop(name) for name in RATES if values.get(name) is not None}
        if len(rates) != 1:
            raise TenreoError(
                f"rate: needs exactly one of {', '.join(RATES)}, given {' and '.join(rates) or 'none'}; say -r 2.0, "
                "or -r 0.5 --progressive, or --target-size 2.5MB, or one of them in the configuration"
            )
        ((name, number),) = rates.items()
        if name in _UNITS:
            number = amount(number, name, _UNITS[name])
        plain = {key: value for key, value in values.items() if key not in RATES}
        if plain.get("groups") is None and name != "target_size":
            raise TenreoError("groups: not given; say -g 4, or groups: 4 in the configuration")
        return Recipe(**{"groups": None, **plain, "rate": RATES[name](number)})


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
    known = ["arch", "weights", *KEYS]
    for key in values:
        if key not in known:
            raise TenreoError(f"{path}: unknown key {key!r}; known keys are {', '.join(known)}")
    for key in ("arch", "weights"):
        if not isinstance(values.get(key, ""), str):
            raise TenreoError(f"{path}: {key}: given {values[key]!r}, needs a name")
    return Config(values.pop("arch", None), values.pop("weights", None), values)


def recipe_from_dict(values: Any) -> Recipe:
    """The recipe that `Recipe.to_dict` wrote.

    Raises:
        TenreoError: when a key is unknown or a value is out of range.
    """
    if not isinstance(values, dict) or not set(values) <= set(KEYS):
        raise TenreoError(f"recipe: given {values!r}, needs the keys {', '.join(KEYS)}")
    # Files from before there was refinement do not say so.
    return Config(values={"refine": 0, **values}).recipe()


def _check_whole(what: str, value: object, least: int, hint: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise TenreoError(f"{what}: given {value!r}, needs a whole number of at least {least}, {hint}")


def _check_importance(importance: object) -> None:
    if not isinstance(importance, dict) or not all(isinstance(p, str) for p in importance):
        raise TenreoError(f"importance: given {importance!r}, needs layer-name patterns and weights")
    for pattern, weight in importance.items():
        check_number(f"importance of {pattern}", weight)
        if not 0 < weight < math.inf:
            raise TenreoError(f"importance of {pattern}: given {weight}, needs a number above 0")

"""Dataclass fields that carry their help and range."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest

from tenreo.errors import TenreoError
from tenreo.options import Option, check_options, check_value, described, option, options_of


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Everything:
    needed: str = field(metadata=described("Must be given."))
    whole: int = option(3, "A whole number.", least=1, most=9)
    real: float = option(0.5, "A number.", above=0, below=1)
    maybe: int | None = option(None, "A number or none.", least=0)
    yes: bool = option(True, "A flag.")
    color: Color = option(Color.RED, "A choice.")
    path: Path | None = option(None, "A file.")
    words: tuple[str, ...] = option((), "Some words.")
    weights: dict[str, float] = option(dict, "Words and numbers.", above=0)
    other: int = 7  # no option

    def __post_init__(self):
        check_options(self)


def test_values_get_their_types():
    made = Everything("x", real=1e-3, maybe=0, color="blue", path="a/b", words=["c"], weights={"d": 2})
    assert (made.color, made.path, made.words, made.weights) == (Color.BLUE, Path("a/b"), ("c",), {"d": 2})
    first, second = Everything("x").weights, Everything("y").weights
    assert isinstance(made.color, Color) and first == second == {} and first is not second


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"needed": 3}, "needed: given 3, needs a word"),
        ({"needed": None}, "needed: given None, needs a word"),
        ({"whole": 0}, "whole: given 0, needs a whole number of 1 to 9"),
        ({"whole": 10}, "whole: given 10, needs a whole number of 1 to 9"),
        ({"whole": 2.0}, "whole: given 2.0, needs a whole number of 1 to 9"),
        ({"whole": True}, "whole: given True, needs a whole number of 1 to 9"),
        ({"whole": "2"}, "whole: given '2', needs a whole number of 1 to 9"),
        ({"whole": 10**400}, "whole: given a number of 401 digits, needs a whole number of 1 to 9"),
        ({"real": 0}, "real: given 0, needs a number above 0 and below 1"),
        ({"real": 1.0}, "real: given 1.0, needs a number above 0 and below 1"),
        ({"real": math.nan}, "real: given nan, needs a number above 0 and below 1"),
        ({"maybe": -1}, "maybe: given -1, needs a whole number of at least 0"),
        ({"yes": 1}, "yes: given 1, needs true or false"),
        ({"color": "green"}, "color: given 'green', needs one of red, blue"),
        ({"color": None}, "color: given None, needs one of red, blue"),
        ({"path": 3}, "path: given 3, needs a path"),
        ({"words": "ab"}, "words: given 'ab', needs a list of words"),
        ({"words": [1]}, "words: given [1], needs a list of words"),
        ({"weights": ["a"]}, "weights: given ['a'], needs layer-name patterns and numbers"),
        ({"weights": {"a": 0}}, "weights of a: given 0, needs a number above 0"),
        ({"weights": {1: 1}}, "weights: given {1: 1}, needs layer-name patterns and numbers"),
    ],
)
def test_other_values_are_refused_by_name(bad, message):
    with pytest.raises(TenreoError) as error:
        Everything(**{"needed": "x", **bad})
    assert str(error.value).startswith(message)


def test_fields_without_help_are_no_options():
    assert list(options_of(Everything)) == [
        "needed", "whole", "real", "maybe", "yes", "color", "path", "words", "weights",
    ]  # fmt: skip
    assert options_of(Everything)["whole"] == Option("A whole number.", least=1, most=9)
    assert check_value(Everything, "maybe", None) is None


@pytest.mark.parametrize(
    ("bounds", "text"),
    [({}, ""), ({"least": 1, "most": 31}, "1 to 31"), ({"least": 0}, "at least 0"), ({"above": 0}, "above 0"),
     ({"least": 0, "below": 1}, "at least 0 and below 1")],
)  # fmt: skip
def test_ranges_in_words(bounds, text):
    known = Option("", **bounds)
    assert known.range == text
    for value in (-1.0, 0.0, 0.5, 1.0, 31.0, 32.0, math.inf, math.nan):
        inside = math.isfinite(value)
        inside &= value >= bounds.get("least", -math.inf) and value <= bounds.get("most", math.inf)
        inside &= value > bounds.get("above", -math.inf) and value < bounds.get("below", math.inf)
        assert known.holds(value) == inside

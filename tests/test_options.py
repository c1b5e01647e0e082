"""Dataclass fields with a help sentence and a range."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest

from tenreo.errors import TenreoError, shown
from tenreo.options import Option, check_number, check_options, check_value, described, option, options_of


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
    words: tuple[str, ...] = option((), "A list of words.")
    weights: dict[str, float] = option(dict, "Words and numbers.", above=0)
    plain: int = 7  # a field that is not an option

    def __post_init__(self):
        check_options(self)


def test_values_are_converted_to_the_type_of_their_field():
    options = Everything("x", real=1e-3, maybe=0, color="blue", path="a/b", words=["c"], weights={"d": 2})
    assert (options.color, options.path, options.words, options.weights) == (Color.BLUE, Path("a/b"), ("c",), {"d": 2})
    first, second = Everything("x").weights, Everything("y").weights
    assert isinstance(options.color, Color) and first == second == {} and first is not second


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
def test_invalid_values_are_refused_with_the_name_of_the_field(bad, message):
    with pytest.raises(TenreoError) as error:
        Everything(**{"needed": "x", **bad})
    assert str(error.value).startswith(message)


def test_fields_without_help_are_not_options():
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
def test_ranges_are_described_and_checked(bounds, text):
    bounded = Option("", **bounds)
    assert bounded.range == text
    for value in (-1.0, 0.0, 0.5, 1.0, 31.0, 32.0, math.inf, math.nan):
        inside = math.isfinite(value)
        inside &= value >= bounds.get("least", -math.inf) and value <= bounds.get("most", math.inf)
        inside &= value > bounds.get("above", -math.inf) and value < bounds.get("below", math.inf)
        assert bounded.holds(value) == inside


@pytest.mark.parametrize("kind", [int, float])
@pytest.mark.parametrize("value", [10**29, 10**400, 16**6000, -(10**400)], ids=["30", "401", "7225", "minus"])
def test_huge_numbers_are_refused_in_one_short_line(kind, value):
    bounded = Option("", least=0, ceiling=9)
    with pytest.raises(TenreoError, match=r"n: given .*, needs a (whole )?number of at (most 9|least 0)$") as error:
        check_number("n", value, whole=kind is int, option=bounded)
    assert len(str(error.value)) < 100
    with pytest.raises(TenreoError, match="given") if abs(value) > 10**308 else nullcontext():
        check_number("n", value, whole=kind is int, option=Option(""))


@pytest.mark.parametrize("text", ["", "a\0b", "\ud800", "x" * 5000])
@pytest.mark.parametrize("name", ["path", "needed"])
def test_strings_that_cannot_be_file_names_are_refused(name, text):
    with pytest.raises(TenreoError, match=rf"^{name}: given .*, needs a (path|word) that can be the name of a file"):
        Everything(**{"needed": "x", name: text})


def test_messages_are_one_short_line_without_control_characters():
    for hostile in ("\x1b[31m\nwrote\r\x9b2J\u202e\ud800", "x" * 10**6, "\x1b" * 10**5, {1: ["\n" * 5000] * 5000}):
        for message in (str(TenreoError(hostile)), str(TenreoError(f"{shown(hostile)}: x"))):
            assert message.isprintable() and len(message) < 2100
    assert str(TenreoError("naïve — 画像")) == "naïve — 画像"
    deep = [[]]
    for _ in range(10**5):
        deep = [deep] * 9
    assert len(shown(deep)) < 3000 and shown({"a": 1}) == "{'a': 1}"

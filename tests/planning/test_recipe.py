"""Recipes and rates: checked values, their form in files, and the strategy that follows."""

import json
from pathlib import Path

import pytest

from tenreo.errors import TenreoError
from tenreo.files.header import Header
from tenreo.files.records import ModelInfo
from tenreo.planning.rates import Progressive, TargetKl, TargetParameters, TargetSize, Uniform, rate_of
from tenreo.planning.recipe import Recipe, Strategy, recipe_of


def test_rates():
    assert Uniform(2.0).of(10, 4096) == 2.0
    assert Progressive(0.5).of(4 * 4096, 4096) == 1 + 0.5 * 2


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Uniform(0.5), "given 0.5, needs a number of at least 1"),
        (lambda: Uniform(float("nan")), "given nan"),
        (lambda: Uniform("2"), "given '2', needs a number"),
        (lambda: Progressive(0), "given 0, needs a number above 0"),
        (lambda: Progressive(-1.5), "given -1.5"),
        (lambda: Uniform(10**400), "given a number of 401 digits"),
        (lambda: Recipe(0, Uniform(2)), "given 0, needs a whole number"),
        (lambda: Recipe(4.0, Uniform(2)), "given 4.0, needs a whole number"),
        (lambda: Recipe(4, 2.0), "needs one of Uniform, Progressive"),
        (lambda: Recipe(4, Uniform(2), include="fc"), "given 'fc', needs a list"),
        (lambda: Recipe(None, Uniform(2)), "groups: given None, needs a whole number"),
        (lambda: Recipe(None, TargetSize(9), refine=0), "groups: given None, needs a whole number"),
        (lambda: Recipe(4, Uniform(2), position_bits=32), "position_bits: given 32, needs a whole number of 1 to 31"),
        (lambda: Recipe(4, Uniform(2), position_bits=0), "position_bits: given 0, needs a whole number"),
        (lambda: Recipe(4, Uniform(2), precision="int7"), "precision: given 'int7', needs one of float32"),
        (lambda: Recipe(4, Uniform(2), dense_dtype="int8"), "dense_dtype: given 'int8', needs one of float32, float16"),
        (lambda: Recipe(4, Uniform(2), refine=-1), "refine: given -1, needs a whole number of at least 0"),
        (lambda: Recipe(4, Uniform(2), allocate=1), "allocate: given 1, needs true or false"),
        (lambda: Recipe(4, TargetSize(9), allocate=True), "a target size distributes its bytes already"),
        (lambda: Recipe(4, Uniform(2), importance={"fc": 0}), "importance of fc: given 0, needs a number above"),
        (lambda: Recipe(4, Uniform(2), importance=["fc"]), "importance: given .*needs layer-name patterns"),
        (lambda: TargetSize(2.5), "target_size: given 2.5, needs a whole number"),
        (lambda: TargetParameters(0), "target_params: given 0"),
    ],
)
def test_values_out_of_range_are_errors(make, match):
    with pytest.raises(TenreoError, match=match):
        make()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(4, Uniform(2.0)),
        Recipe(8, Progressive(0.5), ("a*",), ("b",)),
        Recipe(None, TargetSize(2_500_000), precision="int6", dense_dtype="float16", importance={"fc": 2.0}),
        Recipe(4, TargetParameters(2_000_000), refine=0, position_bits=13, allocate=True),
    ],
)
def test_round_trip(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_keys_in_files_are_those_of_the_file_format():
    values = Recipe(4, Uniform(2.0), ("a",), precision="int6", dense_dtype="float16", pack="plain").to_dict()
    assert values == {
        "groups": 4, "include": ["a"], "exclude": [], "refine": 12, "position_bits": None, "coefficients": "int6",
        "other": "float16", "allocate": False, "importance": {}, "uniform": 2.0,
    }  # fmt: skip


def test_texts_become_enumerations():
    recipe = Recipe(4, Uniform(2.0), ["a"], precision="int8")
    assert recipe.precision.bits == 8 and recipe.include == ("a",)


@pytest.mark.parametrize(
    ("recipe", "strategy"),
    [
        (Recipe(4, Uniform(2.0)), Strategy.RATE),
        (Recipe(1, Progressive(2.0), refine=0), Strategy.RATE),
        (Recipe(4, TargetParameters(9)), Strategy.GROWTH),
        (Recipe(1, TargetSize(9), refine=0), Strategy.GROWTH),
        (Recipe(None, TargetSize(9)), Strategy.PRICE),
        (Recipe(1, TargetSize(9), refine=1), Strategy.PRICE),
        (Recipe(4, TargetSize(9)), Strategy.CANDIDATES),
        (Recipe(None, TargetSize(9), pack="plain"), Strategy.CANDIDATES),
        (Recipe(None, TargetKl(0.1)), Strategy.PRICE),
    ],
)
def test_the_strategy_follows_from_rate_refinement_packing_and_groups(recipe, strategy):
    assert recipe.strategy is strategy


@pytest.mark.parametrize("options", [{"groups": 4}, {"refine": 0}, {"pack": "plain"}])
def test_targets_of_the_outputs_need_coded_positions_on_one_row(options):
    with pytest.raises(TenreoError, match=r"target_kl: needs entropy-coded .* leave groups, refine and pack out"):
        Recipe(**{"groups": None, "rate": TargetKl(0.1), **options})


@pytest.mark.parametrize("rate", [Uniform(2.0), Progressive(0.5), TargetParameters(7), TargetSize(7)])
def test_a_rate_is_made_of_its_name_and_number(rate):
    assert rate_of(rate.name, rate.number) == rate


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"groups": 4}, "given 0 rates, needs one of uniform"),
        ({"groups": 4, "uniform": 2.0, "progressive": 1.0}, "given 2 rates"),
        ({"groups": 4, "uniform": 2.0, "grups": 1}, "needs the keys groups"),
        ({"groups": 4, "uniform": 2.0, "precision": "int8"}, "needs the keys groups"),
        ({"groups": 0, "uniform": 2.0}, "groups: given 0"),
        ([4], "needs the keys groups"),
    ],
)
def test_an_invalid_recipe_in_a_file_is_an_error(values, match):
    header = Header(Path("m.safetensors"), "tenreo", {}, ModelInfo(), values, {}, 0)
    with pytest.raises(TenreoError, match=rf"m\.safetensors: the metadata cannot be understood: .*{match}"):
        recipe_of(header)


def test_files_without_the_keys_of_refinement_and_packing():
    header = Header(Path("m.safetensors"), "tenreo", {}, ModelInfo(), {"groups": 4, "uniform": 2.0}, {}, 0)
    assert recipe_of(header) == Recipe(4, Uniform(2.0), refine=0, pack="plain")


def test_sizes_may_be_texts_and_groups_may_be_left_out():
    recipe = Recipe(rate=TargetSize("2.5MB"))
    assert recipe == Recipe(None, TargetSize(2_500_000)) and recipe.groups is None
    assert TargetParameters("2M") == TargetParameters(2_000_000)
    with pytest.raises(TenreoError, match=r"target_size: given '2 apples', needs an amount such as 2\.5MB"):
        TargetSize("2 apples")
    with pytest.raises(TenreoError, match="rate: given None, needs one of Uniform"):
        Recipe(4)


def test_one_round_and_one_group_are_singular():
    assert "1 group, uniform 2.0, at most 1 round of refinement" in str(Recipe(1, Uniform(2.0), refine=1))
    assert "8 groups, uniform 2.0, no refinement" in str(Recipe(8, Uniform(2.0), refine=0))


def test_a_recipe_is_printed_as_the_call_that_makes_it():
    plain = Recipe(4, Uniform(2.0), precision="int8", exclude=("fc",))
    assert repr(plain) == "Recipe(groups=4, rate=Uniform(rate=2.0), exclude=('fc',), precision='int8')"
    assert eval(repr(plain)) == plain
    assert repr(Recipe(rate=TargetSize("5kB"))) == "Recipe(rate=TargetSize(bytes=5000))"

import pytest

from tenreo.errors import TenreoError
from tenreo.rates import Progressive, TargetParameters, TargetSize, Uniform
from tenreo.recipe import Recipe, read_config, recipe_from_dict


def test_rates():
    assert Uniform(2.0).of(10, 4096) == 2.0
    assert Progressive(0.5).of(4 * 4096, 4096) == 1 + 0.5 * 2


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Uniform(0.5), "given 0.5, needs at least 1"),
        (lambda: Uniform(float("nan")), "given nan"),
        (lambda: Uniform("2"), "given '2', needs a number"),
        (lambda: Progressive(0), "given 0, needs a number above 0"),
        (lambda: Progressive(-1.5), "given -1.5"),
        (lambda: Uniform(10**400), "given a number of 401 digits"),
        (lambda: Recipe(0, Uniform(2)), "given 0, needs a whole number"),
        (lambda: Recipe(4.0, Uniform(2)), "given 4.0, needs a whole number"),
        (lambda: Recipe(4, 2.0), "needs Uniform"),
        (lambda: Recipe(4, Uniform(2), include="fc"), "given 'fc', needs a list"),
        (lambda: Recipe(None, Uniform(2)), "groups: given None, needs a whole number"),
        (lambda: Recipe(None, TargetSize(9), refine=0), "groups: given None, needs a whole number"),
        (lambda: Recipe(4, Uniform(2), position_bits=32), "position_bits: given 32, needs 1 to 31"),
        (lambda: Recipe(4, Uniform(2), position_bits=0), "position_bits: given 0, needs a whole number"),
        (
            lambda: Recipe(4, Uniform(2), coefficients="int7"),
            "coefficients: given 'int7', needs one of float32",
        ),
        (lambda: Recipe(4, Uniform(2), other="int8"), "other: given 'int8', needs one of float32, float16"),
        (lambda: Recipe(4, Uniform(2), allocate=1), "allocate: given 1, needs true or false"),
        (lambda: Recipe(4, TargetSize(9), allocate=True), "a target size spreads its bytes already"),
        (
            lambda: Recipe(4, Uniform(2), importance={"fc": 0}),
            "importance of fc: given 0, needs a number above",
        ),
        (lambda: Recipe(4, Uniform(2), importance=["fc"]), "importance: given .*needs layer-name patterns"),
        (lambda: TargetSize(2.5), "target size: given 2.5, needs a whole number"),
        (lambda: TargetParameters(0), "target parameters: given 0"),
    ],
)
def test_refuses_values_out_of_range(make, match):
    with pytest.raises(TenreoError, match=match):
        make()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(4, Uniform(2.0)),
        Recipe(8, Progressive(0.5), ("a*",), ("b",)),
        Recipe(None, TargetSize(2_500_000), coefficients="int6", other="float16", importance={"fc": 2.0}),
        Recipe(4, TargetParameters(2_000_000), refine=0, position_bits=13, allocate=True),
    ],
)
def test_round_trip(recipe):
    assert recipe_from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("grups: 4", "unknown key 'grups'; known keys are arch"),
        ("- 4", "given list"),
        ("arch: 5", "arch: given 5, needs a name"),
        ("groups: [", "can not be read as YAML"),
    ],
)
def test_refuses_bad_yaml(tmp_path, text, match):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(TenreoError, match=match):
        read_config(path)


@pytest.mark.parametrize("text", ["include: fc", "include:", "include: [1]"])
def test_patterns_in_yaml_are_lists(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"groups: 4\nuniform: 2\n{text}\n")
    with pytest.raises(TenreoError, match=r"include: given .*needs a list"):
        read_config(path).recipe()


def test_needs_exactly_one_rate(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("groups: 4\nuniform: 2\nprogressive: 1\n")
    with pytest.raises(
        TenreoError, match=r"exactly one of uniform, progressive.*given uniform and progressive"
    ):
        read_config(path).recipe()

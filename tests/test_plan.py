from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from tenreo.errors import TenreoError
from tenreo.models import build
from tenreo.plan import resolve
from tenreo.rates import Progressive, Uniform
from tenreo.recipe import Recipe, read_config

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
KEYS = ("coefficients", "other_parameters", "batchnorm_statistics")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_configuration_gives_the_papers_integers(path, paper_rows):
    config = read_config(path)
    recipe = config.recipe()
    key = (config.arch, recipe.groups, recipe.strength)
    row = next(r for r in paper_rows if (r["arch"], r["groups"], r["rate"]) == key)
    plan = resolve(config.recipe(), build(config.arch, device="meta"))
    assert plan.after.positions == row["index"]
    assert {k: getattr(plan.after, k) for k in KEYS} == {k: row[k] for k in KEYS}
    assert f"{plan.after.parameters / 1e6:.1f}" == row["parameters_millions"]
    assert f"{plan.after.trainable / 1e6:.1f}" == row["trainable_millions"]


def test_all_rows_ship(paper_rows):
    assert len(CONFIGS) == sum(r["groups"] is not None for r in paper_rows) == 10


def test_dense_rows(paper_rows):
    for row in (r for r in paper_rows if r["groups"] is None):
        plan = resolve(Recipe(4, Uniform(2.0)), build(row["arch"], device="meta"))
        assert plan.before.parameters == row["other_parameters"] + row["batchnorm_statistics"]
        assert plan.before.trainable == row["other_parameters"]


def small():
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 64, 1), nn.Linear(64, 65),
        nn.Linear(4, 4),
    )  # fmt: skip


def test_the_general_rule_leaves_first_depthwise_and_small_layers():
    plan = resolve(Recipe(4, Uniform(2.0)), small())
    assert [layer.name for layer in plan.compressed] == ["2", "3"]
    assert {x.name for x in plan.layers if x.why_dense == "not in the general rule"} == {"0", "1", "4"}


def test_groups_that_do_not_divide_leave_a_layer_dense():
    plan = resolve(Recipe(128, Uniform(2.0)), small())
    assert {x.name: x.why_dense for x in plan.layers}["3"] == "128 groups do not divide 4160 elements"
    with pytest.raises(TenreoError, match=r"nothing is left to compress.*127 groups do not divide"):
        resolve(Recipe(127, Uniform(2.0)), small())


def test_include_and_exclude():
    plan = resolve(Recipe(4, Uniform(2.0), ("[034]",), ("4",)), small())
    assert [layer.name for layer in plan.compressed] == ["0", "3"]
    assert plan.layers[4].why_dense == "excluded"
    for option in ("include", "exclude"):
        with pytest.raises(TenreoError, match=f"{option}: pattern 'x\\*' matches no"):
            resolve(Recipe(4, Uniform(2.0), **{option: ("x*",)}), small())


def test_kept_is_at_least_one():
    plan = resolve(Recipe(64, Uniform(1e9)), small())
    assert all(layer.kept == 1 for layer in plan.compressed)


def test_refuses_tied_weights():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].weight = model[0].weight
    with pytest.raises(TenreoError, match=r"0\.weight and 1\.weight are one tensor.*exclude"):
        resolve(Recipe(4, Uniform(2.0)), model)


def test_subclasses_keep_the_papers_rule():
    class Mine(torchvision.models.ResNet):
        pass

    with torch.device("meta"):
        model = Mine(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    plan = resolve(Recipe(4, Progressive(1.0)), model)
    assert next(x for x in plan.layers if x.name == "conv1").why_dense == "not in the ResNet rule"

"""Plans: the layers that rules and patterns choose, and the counts of the result."""

import re

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

from tenreo.errors import TenreoError
from tenreo.models.builders import build_model
from tenreo.planning.plan import resolve
from tenreo.planning.rates import Progressive, Uniform
from tenreo.planning.recipe import Recipe


def test_the_counts_of_dense_models_are_those_of_the_paper(paper_rows):
    for row in (r for r in paper_rows if r["groups"] is None):
        plan = resolve(Recipe(4, Uniform(2.0)), build_model(f"torchvision:{row['arch']}", device="meta"))
        assert plan.before.parameters == row["other_parameters"] + row["batchnorm_statistics"]
        assert plan.before.paper_trainable == row["other_parameters"]


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


def test_at_least_one_coefficient_per_row():
    plan = resolve(Recipe(64, Uniform(1e9)), small())
    assert all(layer.curve.coefficients_per_row == 1 for layer in plan.compressed)


def incompressible(kind):
    """Return a Linear layer whose weight cannot be replaced."""
    layer = nn.Linear(64, 64)
    if kind == "weight_norm":
        return nn.utils.parametrizations.weight_norm(layer)
    if kind == "old weight_norm":
        with pytest.warns(FutureWarning):
            return nn.utils.weight_norm(layer)
    if kind == "spectral_norm":
        return nn.utils.spectral_norm(layer)
    if kind == "pruned":
        return prune.l1_unstructured(layer, "weight", 0.5)
    if kind == "float8":
        return layer.to(torch.float8_e4m3fn)
    if kind == "complex":
        return nn.Linear(64, 64, dtype=torch.complex64)
    return nn.LazyLinear(64)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("weight_norm", r"parametrized already \(_WeightNorm\)"),
        ("old weight_norm", "computed by a hook"),
        ("spectral_norm", "computed by a hook"),
        ("pruned", "computed by a hook"),
        ("float8", "float8_e4m3fn, not one of"),
        ("complex", "complex64, not one of"),
        ("lazy", "not initialized yet"),
    ],
)
def test_an_incompressible_layer_is_left_dense_unless_it_is_included(kind, reason):
    model = nn.Sequential(nn.Linear(64, 64), incompressible(kind))
    plan = resolve(Recipe(4, Uniform(2.0)), model)
    assert [layer.name for layer in plan.compressed] == ["0"]
    assert re.search(reason, plan.layers[1].why_dense)
    with pytest.raises(TenreoError, match=f"include: 1 cannot be compressed: its weight is .*{reason}"):
        resolve(Recipe(4, Uniform(2.0), include=("1",)), model)


def test_tied_weights_are_left_dense_and_counted_once():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].weight = model[0].weight
    plan = resolve(Recipe(4, Uniform(2.0)), model)
    assert [layer.name for layer in plan.compressed] == ["2"]
    assert "0.weight and 1.weight are one tensor" in plan.layers[0].why_dense
    assert plan.before.dense_parameters == sum(p.numel() for p in model.parameters())


def test_results_of_get_extra_state_are_not_counted():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"scale": 1.0}

    assert resolve(Recipe(4, Uniform(2.0)), nn.Sequential(Extra(64, 64))).before.dense_parameters == 64 * 64 + 64


def test_subclasses_have_the_rule_of_their_base_class():
    class Mine(torchvision.models.ResNet):
        pass

    with torch.device("meta"):
        model = Mine(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    plan = resolve(Recipe(4, Progressive(1.0)), model)
    assert next(x for x in plan.layers if x.name == "conv1").why_dense == "not in the ResNet rule"


def test_a_layer_left_dense_has_no_curve():
    plan = resolve(Recipe(4, Uniform(2.0)), small())
    assert [x.curve is None for x in plan.layers] == [bool(x.why_dense) for x in plan.layers]
    with pytest.raises(ValueError, match="0 is left dense"):
        _ = plan.layers[0].encoding
    curve = plan.layers[2].curve
    assert (curve.groups, curve.length, curve.coefficients_per_row, curve.precision) == (4, 1024, 512, "float32")


def test_positions_of_few_bits_make_short_curves():
    plan = resolve(Recipe(4, Uniform(2.0), position_bits=8), small())
    assert [x.curve.length for x in plan.compressed] == [256, 256]


def test_counts_add_up():
    """Compare with the model's own tensors and with the formula of every layer."""
    model = small()
    plan = resolve(Recipe(4, Uniform(2.0), pack="plain"), model)
    coded = resolve(Recipe(4, Uniform(2.0)), model)  # an upper bound: at most five bytes more per layer
    assert coded.after.weight_bytes == plan.after.weight_bytes + 5 * len(coded.compressed)
    weights = sum(x.numel for x in plan.compressed)
    elements = sum(p.numel() for p in model.parameters())
    assert plan.before.dense_parameters == elements and plan.before.bytes == 4 * elements
    assert plan.after.dense_parameters == elements - weights
    assert plan.after.positions == weights // 4 and plan.after.weights == weights
    assert plan.after.requires_grad == plan.after.coefficients + plan.after.dense_parameters
    assert (
        plan.after.paper_trainable
        == plan.after.coefficients
        == sum(4 * x.curve.coefficients_per_row for x in plan.compressed)
    )
    assert plan.after.weight_bytes == sum(x.curve.bytes(x.numel) for x in plan.compressed)
    assert plan.after.bits_per_weight == pytest.approx(8 * plan.after.weight_bytes / weights)

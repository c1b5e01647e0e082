"""Plans: the layers that rules and patterns choose, and the counts of the result."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.layout import TensorRecord
from tenreo.models.builders import build_model
from tenreo.planning.layers import find_layers
from tenreo.planning.plan import resolve
from tenreo.planning.rates import Progressive, TargetBits, TargetFraction, TargetSize, Uniform
from tenreo.planning.recipe import Recipe
from tenreo.planning.rules import GENERAL, traits_of_tensors


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


def test_a_named_layer_that_the_groups_do_not_divide_is_refused():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(3, 5))
    assert [layer.name for layer in resolve(Recipe(4, Uniform(2.0), include=("0", "1*")), model).compressed] == ["0"]
    with pytest.raises(TenreoError, match="include: 1 cannot be compressed: 4 groups do not divide 15 elements"):
        resolve(Recipe(4, Uniform(2.0), include=("0", "1")), model)


def test_sizes_relative_to_the_dense_model_are_files_of_that_size():
    model = nn.Sequential(nn.Linear(128, 128), nn.BatchNorm1d(128))
    numbers = 128 * 128 + 5 * 128
    sizes = {TargetBits(4): numbers * 4 / 8, TargetBits(4.5): numbers * 4.5 / 8}
    sizes |= {TargetFraction(1 / 5): (4 * numbers + 8) // 5, TargetFraction(0.3): int((4 * numbers + 8) * 0.3)}
    for rate, size in sizes.items():
        assert resolve(Recipe(None, rate), model).recipe == Recipe(None, TargetSize(int(size)))


def test_the_traits_of_tensors_choose_the_same_layers_as_those_of_modules():
    for name in ("vgg11", "efficientnet_b0", "vit_b_16", "shufflenet_v2_x0_5", "densenet121", "convnext_tiny"):
        model = build_model(f"torchvision:{name}", device="meta")
        tensors = {n: TensorRecord("F32", tuple(x.shape)) for n, x in sorted(model.state_dict().items())}
        recipe = Recipe(4, Uniform(2.0))
        chosen = find_layers(recipe, traits_of_tensors(tensors), GENERAL)
        wanted = {layer.parameter for layer in resolve(recipe, model).layers if not layer.why_dense}
        assert {layer.parameter for layer in chosen if not layer.why_dense} == wanted


def test_embeddings_and_experts_of_a_file_are_compressed_and_tables_are_not():
    shapes = {"wte.weight": (500, 64), "h.0.experts.down_proj": (8, 64, 64), "pos_embed": (1, 99, 64),
              "bias": (1, 1, 99, 99), "rnn.weight_ih_l0": (256, 64), "a": (64, 64), "a.weight": (64, 64)}  # fmt: skip
    tensors = {name: TensorRecord("BF16", shape) for name, shape in shapes.items()} | {"t": TensorRecord("I32", (9, 9))}
    layers = find_layers(Recipe(4, Uniform(2.0)), traits_of_tensors(tensors), GENERAL)
    assert [layer.parameter for layer in layers if not layer.why_dense] == [
        "wte.weight", "h.0.experts.down_proj", "rnn.weight_ih_l0", "a",
    ]  # fmt: skip
    assert layers[-1].why_dense == "the tensor a has the name of its layer"


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
    if kind == "empty":
        with pytest.warns(UserWarning):
            return nn.Linear(0, 64)
    layer.weight = nn.Parameter(torch.zeros([2] * 9))
    return layer


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"scale": 1.0}


def unstorable(kind):
    """Return a module with a tensor that no file can store."""
    layer = nn.BatchNorm1d(64) if kind == "negative variance" else nn.Linear(64, 64)
    if kind in ("float8", "complex"):
        return (
            nn.Linear(64, 64).to(torch.float8_e4m3fn) if kind == "float8" else nn.Linear(64, 64, dtype=torch.complex64)
        )
    if kind in ("lazy", "extra state"):
        return nn.LazyLinear(64) if kind == "lazy" else Extra(64, 64)
    if kind == "sparse":
        layer.register_buffer("mask", torch.eye(3).to_sparse())
    elif kind == "nan":
        layer.bias.data[0] = torch.nan
    elif kind == "negative variance":
        layer.running_var[0] = -1
    elif kind == "line break":
        layer.register_buffer("a\nb", torch.zeros(3))
    else:
        layer.coefficients, layer.positions = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    return layer


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("weight_norm", r"parametrized already \(_WeightNorm\)"),
        ("old weight_norm", "computed by a hook"),
        ("spectral_norm", "computed by a hook"),
        ("pruned", "computed by a hook"),
        ("empty", r"shape \[64, 0\], needs 2 to 8 dimensions, none of them 0"),
        ("many dimensions", r"shape \[2, 2, 2, 2, 2, 2, 2, 2, 2\], needs 2 to 8"),
    ],
)
def test_an_incompressible_layer_is_left_dense_unless_it_is_included_by_name(kind, reason):
    model = nn.Sequential(nn.Linear(64, 64), incompressible(kind))
    for recipe in (Recipe(4, Uniform(2.0), include=("*",)), Recipe(None, TargetSize(40_000), include=("?", "0*"))):
        plan = resolve(recipe, model)
        assert [layer.name for layer in plan.compressed] == ["0"]
        assert [layer.name for layer in plan.skipped] == ["1"] and re.search(reason, plan.layers[1].why_dense)
    assert not resolve(Recipe(4, Uniform(2.0)), model).skipped
    for name in ("1", "1.weight"):
        with pytest.raises(TenreoError, match=f"include: 1 cannot be compressed: its weight .*{reason}"):
            resolve(Recipe(4, Uniform(2.0), include=("*", name)), model)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("float8", r"1\.weight is float8_e4m3fn, needs a dense tensor of dtype"),
        ("complex", r"1\.weight is complex64, needs a dense tensor of dtype"),
        ("lazy", r"1\.weight is a UninitializedParameter; a file can store only tensors with values"),
        ("extra state", r"1\._extra_state is a dict; a file can store only tensors with values"),
        ("sparse", r"1\.mask is sparse, needs a dense tensor"),
        ("nan", r"1\.bias contains NaN or infinity"),
        ("negative variance", r"1\.running_var contains a negative variance"),
        ("line break", r"the name '1\.a\\+nb' is not printable"),
        ("coefficients", r"1 has coefficients and positions, but is not in tenreo\.layers"),
    ],
)
def test_a_model_that_no_file_can_store_is_refused_before_compression(kind, reason):
    model = nn.Sequential(nn.Linear(64, 64), unstorable(kind))
    for recipe in (
        Recipe(4, Uniform(2.0), include=("0",)),
        Recipe(None, TargetSize(20_000), include=("0",), dense_dtype="float32"),
    ):
        with pytest.raises(TenreoError, match=f"^plan: .*{reason}"):
            resolve(recipe, model)


def test_dense_values_out_of_range_are_refused_before_compression():
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
    model[1].running_var[3], model[0].weight.data[0, 0] = 1e6, 1e5
    resolve(Recipe(4, Uniform(2.0), dense_dtype="bfloat16"), model)
    with pytest.raises(TenreoError, match=r"1\.running_var: a value of 1e\+06 does not fit into float16"):
        resolve(Recipe(4, Uniform(2.0), dense_dtype="float16"), model)
    model[1].running_var[3] = 1.0
    resolve(Recipe(4, Uniform(2.0), dense_dtype="float16"), model)  # a compressed weight is not stored in this format


def test_tied_weights_are_left_dense_and_counted_once():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].weight = model[0].weight
    plan = resolve(Recipe(4, Uniform(2.0)), model)
    assert [layer.name for layer in plan.compressed] == ["2"]
    assert "0.weight and 1.weight are one tensor" in plan.layers[0].why_dense
    assert plan.before.dense_parameters == sum(p.numel() for p in model.parameters())


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


@pytest.mark.parametrize("model", [nn.Linear(64, 64).state_dict(), "model.pth", Path("model.pth"), None, nn.Linear])
def test_something_else_than_a_model_is_an_error(model):
    for function in (resolve, lambda recipe, model: tenreo.compress_(model, recipe)):
        with pytest.raises(TenreoError, match=r"^model: given .*, needs a torch\.nn\.Module; load"):
            function(Recipe(4, Uniform(2.0)), model)


@pytest.mark.parametrize("recipe", [None, "uniform", 4, {"groups": 4, "uniform": 2.0}, Uniform(2.0), Recipe])
def test_something_else_than_a_recipe_is_an_error(recipe):
    for function in (resolve, lambda recipe, model: tenreo.compress_(model, recipe), swapped_compress_to_):
        with pytest.raises(TenreoError, match=r"^recipe: given .*, needs a tenreo\.Recipe or a plan"):
            function(recipe, nn.Sequential(nn.Linear(64, 64)))


def swapped_compress_to_(recipe, model):
    return tenreo.compress_to_(model, recipe)


@pytest.mark.parametrize("precision", ["int8", "int6"])
def test_files_of_few_integer_coefficients_keep_to_their_size(precision):
    """They are packed, because a code would be longer, and such a file has a longer header."""
    torch.manual_seed(0)
    for size in range(2450, 2950, 50):
        net = nn.Sequential(nn.Linear(7, 2), nn.Linear(2, 40), nn.Linear(40, 24))
        recipe = Recipe(4, TargetSize(size), ("1", "2"), precision=precision, dense_dtype="bfloat16")
        assert tenreo.compress_(net, recipe).after.bytes <= size

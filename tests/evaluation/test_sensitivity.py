"""The analysis of compressed layers, against models whose weights are replaced one by one."""

import copy
import math

import pytest
import torch
from torch import nn

import tenreo
from tenreo import Recipe, TargetSize, Uniform, analyze, compress_, expand_
from tenreo.errors import TenreoError
from tenreo.files.records import ModelInfo

LAYERS = ("3", "5", "8")


def networks(rate=4.0):
    """Return a compressed network, the dense one, and images."""
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 64, 4, 4), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 80, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(80, 64),
    )  # fmt: skip
    dense(torch.randn(64, 3, 16, 16))  # statistics of the BatchNorm
    model = copy.deepcopy(dense.eval())
    compress_(model, Recipe(4, Uniform(rate), refine=1))
    return model, dense, torch.randn(40, 3, 16, 16)


def kl_and_agreement(model, dense, images):
    """Return the mean KL divergence in nats and the agreement in percent, in float64 and by their definitions."""
    with torch.no_grad():
        p, q = (copy.deepcopy(m).double().eval()(images.double()).softmax(1) for m in (dense, model))
    return (p * (p / q).log()).sum(1).mean().item(), 100 * (p.argmax(1) == q.argmax(1)).double().mean().item()


def with_weight_of(model, other, name):
    changed = copy.deepcopy(model)
    changed.get_submodule(name).weight = nn.Parameter(other.get_submodule(name).weight.detach().clone())
    return changed


def test_every_layer_is_compressed_and_restored_alone():
    model, dense, images = networks()
    small = expand_(copy.deepcopy(model))
    before = {name: value.clone() for name, value in (*model.state_dict().items(), *dense.state_dict().items())}
    seen = []
    result = analyze(model, dense, images, progress=seen.append)
    assert tuple(layer.name for layer in result.layers) == LAYERS and seen == [n for n in LAYERS for _ in range(2)]
    for layer in result.layers:
        for given, base, other in ((layer.alone, dense, small), (layer.restored, small, dense)):
            kl, agreement = kl_and_agreement(with_weight_of(base, other, layer.name), dense, images)
            assert given.kl == pytest.approx(kl, rel=1e-3) and given.agreement == pytest.approx(agreement)
            assert given.images == 40 and given.top1 is None
        weight, decoded = (m.get_submodule(layer.name).weight.double() for m in (dense, small))
        error = (weight - decoded).square().sum().item()
        assert layer.snr == pytest.approx(10 * math.log10(weight.square().sum().item() / error))
    assert result.whole.kl == pytest.approx(kl_and_agreement(small, dense, images)[0], rel=1e-3)
    low, high = result.kl_interval
    assert low < result.whole.kl < high and result.compared_on == "40 examples"
    after = (*model.state_dict().items(), *dense.state_dict().items())
    assert all(torch.equal(value, before[name]) or name in LAYERS for name, value in after if "1." not in name)


def test_bytes_are_those_of_the_file(tmp_path):
    from tenreo.files.header import read_header

    model, dense, images = networks()
    info = ModelInfo(classes=64, class_names=tuple(map(str, range(64))))
    result = analyze(model, dense, images[:2], info=info)
    tenreo.save(model, tmp_path / "m.safetensors", info)
    header = read_header(tmp_path / "m.safetensors")
    assert result.bytes_after == (tmp_path / "m.safetensors").stat().st_size
    stored = header.stored_bytes()
    assert {x.name: x.bytes_after for x in result.layers} == {name: stored[f"{name}.weight"] for name in LAYERS}
    assert result.bytes_before == sum(t.numel() * t.element_size() for t in dense.state_dict().values())
    (layer, *_) = result.layers
    assert (layer.bytes_before, layer.bits_per_weight) == (4 * 4096, 8 * layer.bytes_after / 4096)


def test_noise_needs_no_statistics_of_its_own():
    model, dense, _ = networks()
    expected = analyze(model, dense, size=16)
    for network in (model, dense):
        network[1].running_mean.fill_(1e3)  # with it, no image would pass the ReLU behind
    assert analyze(model, dense, size=16).layers == expected.layers
    assert expected.compared_on == "512 images of noise" and torch.equal(model[1].running_mean, torch.full((64,), 1e3))


def test_labels_give_accuracies():
    model, dense, images = networks()
    labels = dense(images).argmax(1)
    labels[:10] = (labels[:10] + 1) % 64
    whole = analyze(model, dense, [(images[:25], labels[:25]), (images[25:], labels[25:])]).whole
    correct = expand_(copy.deepcopy(model))(images).argmax(1) == labels
    assert (whole.top1, whole.reference_top1) == pytest.approx((100 * correct.double().mean().item(), 75.0))


def test_the_better_recipe_has_the_same_size_and_measured_factors():
    model, dense, images = networks()
    result = analyze(model, dense, images)
    recipe = result.better_recipe()
    assert recipe.rate == TargetSize(result.bytes_after) and recipe.groups is None
    ratio = {x.name: math.sqrt(x.alone.kl / x.squared_error) for x in result.layers}
    assert list(recipe.importance) == list(LAYERS)
    for name in LAYERS:
        expected = ratio[name] / math.prod(ratio.values()) ** (1 / 3)
        assert recipe.importance[name] == pytest.approx(expected, rel=0.06)
    assert compress_(copy.deepcopy(dense), recipe).after.bytes <= result.bytes_after


def test_outputs_of_other_shapes_are_compared_by_a_function():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 128)

        def forward(self, x):
            return {"a": self.layer(x)}

    dense, inputs = Pair(), torch.randn(9, 64)
    model = copy.deepcopy(dense)
    compress_(model, Recipe(4, Uniform(4.0), refine=1))
    with pytest.raises(TenreoError, match="the outputs are a dict, needs one number per input and class"):
        analyze(model, dense, inputs)
    assert analyze(model, dense, inputs, forward=lambda m, x: m(x)["a"]).whole.kl > 0


def test_recurrent_weights_are_replaced():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(16, 64, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0][:, -1]

    dense = Last()
    model = copy.deepcopy(dense)
    compress_(model, Recipe(4, Uniform(8.0), refine=1))
    layers = analyze(model, dense, torch.randn(9, 5, 16)).layers
    assert [x.name for x in layers] == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert all(x.alone.kl > 0 for x in layers) and layers[0].alone.kl != layers[1].alone.kl


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda m, d, x: (d, d, x), "the first model has no compressed layer"),
        (lambda m, d, x: (m, m, x), "the second model has a compressed layer '3'"),
        (lambda m, d, x: (m, nn.Linear(2, 2), x), "the dense model has no weight '3' of shape"),
        (lambda m, d, x: (m, d, []), "no batch of images was given"),
        (lambda m, d, x: (m, d, x[:, :2]), "the model cannot process images of shape \\[40, 2, 16, 16\\]"),
        (lambda m, d, x: (m, d, x * math.nan), "an output of the dense model is not finite"),
        (lambda m, d, x: (m, d), "the size of the model's input is not known"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(TenreoError, match=message):
        analyze(*arguments(*networks()))

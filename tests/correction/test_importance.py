"""The measured importance of layers."""

import pytest
import torch
from torch import nn

from tenreo import Recipe, TargetSize, measure_importance
from tenreo.errors import TenreoError

RECIPE = Recipe(None, TargetSize(20_000))


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 64, 4, 4),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 80, 1),
    )
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(80, 64))


def disturbed(model: nn.Module, layer: str, images: torch.Tensor) -> float:
    """Return the mean squared change of the outputs when noise is added to one weight."""
    weight, total = model.get_submodule(layer).weight, 0.0
    with torch.no_grad():
        wanted, kept = model(images), weight.clone()
        for _ in range(40):
            weight.copy_(kept + 1e-4 * torch.randn_like(weight))
            total += (model(images) - wanted).square().mean().item()
        weight.copy_(kept)
    return total


def test_the_factors_are_those_of_disturbed_layers():
    model = network().eval()
    with torch.no_grad():
        model[3].weight.mul_(0.2)
        model[5].weight.mul_(3.0)
    images = torch.randn(32, 3, 16, 16)
    measured = measure_importance(RECIPE, model, images).importance
    assert list(measured) == ["3", "5", "8"]
    changes = {name: disturbed(model, name, images) for name in measured}
    for name in measured:
        assert measured[name] / measured["5"] == pytest.approx((changes[name] / changes["5"]) ** 0.5, rel=0.2)


def test_the_model_is_not_changed():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_importance(RECIPE, model, size=16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model[1].training and all(p.grad is None for p in model.parameters())


def test_batchnorms_use_the_statistics_of_noise():
    model = network().eval()
    expected = measure_importance(RECIPE, model, size=16).importance
    model[1].running_mean.fill_(100.0)  # with it, no image would pass the ReLU behind
    assert measure_importance(RECIPE, model, size=16).importance == expected


def test_patterns_of_the_recipe_replace_measured_factors():
    recipe = Recipe(None, TargetSize(20_000), importance={"5": 7.0}, exclude=("8",))
    assert measure_importance(recipe, network(), size=16).importance.keys() == {"3", "5"}
    assert measure_importance(recipe, network(), size=16).importance["5"] == 7.0


def test_recurrent_weights_are_measured_on_given_inputs():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(16, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0]

    measured = measure_importance(RECIPE, Recurrent(), [torch.randn(5, 8, 16)]).importance
    assert set(measured) == {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}


def two_layers(device: str | None = None) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64, device=device), nn.Linear(64, 64, device=device))


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = two_layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).argmax(1)


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        (Constant(), torch.zeros(2, 64), "the outputs of the model have no derivatives"),
        (two_layers(), torch.zeros(2, 63), "the model cannot process images of shape \\[2, 63\\]"),
        (two_layers("meta"), torch.zeros(2, 64), "meta"),
    ],
)
def test_a_model_that_cannot_be_measured_is_refused(model, images, message):
    with pytest.raises(TenreoError, match=message):
        measure_importance(RECIPE, model, images)


def test_a_single_layer_has_nothing_to_be_compared_with():
    def unused(model, x):
        raise AssertionError("the model is not run")

    assert measure_importance(RECIPE, nn.Linear(64, 64), torch.zeros(2, 64), forward=unused) is RECIPE

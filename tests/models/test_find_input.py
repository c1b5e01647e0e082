"""The input of a model, derived from its first layer."""

import pytest
from torch import nn

from tenreo.errors import TenreoError
from tenreo.models.inputs import check_shape, find_input


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1)], (1, 224, 224)),
        ([nn.Conv2d(4, 2, 5), nn.Flatten(), nn.Linear(2 * 92 * 92, 3)], (4, 96, 96)),
        ([nn.Flatten(), nn.Linear(784, 8)], (1, 28, 28)),
        ([nn.Flatten(), nn.Linear(3072, 8)], (3, 32, 32)),
        ([nn.Linear(30, 8)], None),
        ([nn.Embedding(30, 8)], None),
        ([nn.Conv1d(1, 8, 3)], None),
    ],
)
def test_the_first_layer_states_the_channels_and_the_model_runs(layers, shape):
    assert find_input(nn.Sequential(*layers)) == shape


def test_a_model_that_takes_no_usual_size_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(7, 2))
    with pytest.raises(TenreoError, match="input: not given, and the model takes none of the usual sizes"):
        find_input(model)
    with pytest.raises(TenreoError, match=r"does not take images of 1x8x8 .*its first layer takes 3 channels; give"):
        check_shape(model, (1, 8, 8))

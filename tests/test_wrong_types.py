"""Arguments of other types than public functions take end in an error of tenreo, in one line."""

from functools import partial

import pytest
from torch import nn

import tenreo
from tenreo.files.tensor_reader import read_numpy

RECIPE = tenreo.Recipe(None, tenreo.TargetBits(4))
CALLS = {
    "read": (tenreo.read, "path"),
    "read_numpy": (read_numpy, "path"),
    "write": (lambda value: tenreo.write(value, {}, RECIPE), "path"),
    "export": (partial(tenreo.export, nn.Linear(2, 2)), "path"),
    "save_pretrained": (partial(tenreo.save_pretrained, nn.Linear(2, 2)), "folder"),
    "push": (partial(tenreo.push, nn.Linear(2, 2)), "repository"),
    "decode": (tenreo.decode, "decode"),
    "measure_importance": (lambda value: tenreo.measure_importance(value, nn.Linear(2, 2)), "recipe"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("value", [None, 3, b"x", nn.Linear(2, 2)], ids=["None", "number", "bytes", "model"])
def test_other_types_are_refused(name, value):
    call, argument = CALLS[name]
    with pytest.raises(tenreo.TenreoError, match=f"^{argument}: given .*, needs .*$"):
        call(value)

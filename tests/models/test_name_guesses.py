"""Guesses of the model that tensors belong to."""

import pytest

from tenreo.models.name_guesses import architecture_shapes, guess


@pytest.mark.parametrize("classes", [1000, 10])
@pytest.mark.parametrize("arch", ["vit_b_16", "vit_b_32"])
def test_architectures_that_differ_in_two_tensors_are_told_apart(arch, classes):
    shapes = dict(architecture_shapes(arch))
    for name in ("heads.head.weight", "heads.head.bias"):
        shapes[name] = (classes, *shapes[name][1:])
    assert guess(shapes) == f"; these are names of {arch}"

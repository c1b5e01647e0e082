"""Allocation of coefficients to layers by their spectra."""

import numpy as np
import pytest
import torch
from networks import convolutional

import tenreo
from tenreo.errors import TenreoError
from tenreo.planning.allocation import allocate, concave_slopes


def test_allocation_equalizes_slopes():
    spectra = [np.exp(-np.arange(400) / 50.0), np.exp(-np.arange(400) / 200.0) / 4]
    counts = allocate(spectra, [100, 100], [400, 400])
    assert sum(counts) == 200
    assert spectra[0][counts[0]] == pytest.approx(spectra[1][counts[1]], rel=0.05)
    assert allocate(spectra, [100, 100], [400, 102]) == [98, 102]
    flat = [np.ones(100), np.zeros(100)]
    assert allocate(flat, [20, 20], [100, 100]) == [37, 3]  # at least an eighth of 20


def test_the_slopes_of_the_hull_fall_and_have_the_same_sum():
    values = np.random.default_rng(0).random(500)
    hull = concave_slopes(values)
    assert (np.diff(hull) <= 1e-12).all() and hull.sum() == pytest.approx(values.sum())
    assert (np.cumsum(hull) >= np.cumsum(values) - 1e-9).all()


def test_allocation_lowers_the_error_at_the_same_total():
    reports = []
    for allocated in (False, True):
        model = convolutional()
        with torch.no_grad():  # a layer of low rank needs fewer coefficients
            model[2].weight.copy_(model[2].weight[:1].expand_as(model[2].weight) + 0.01 * model[2].weight)
        reports.append(tenreo.compress_(model, tenreo.Recipe(4, tenreo.Progressive(2.0), refine=2, allocate=allocated)))
    plain, moved = reports
    assert plain.after.coefficients == moved.after.coefficients
    relative = lambda r: sum(x.squared_error / x.squared_norm for x in r.layers)  # noqa: E731
    assert relative(moved) < 0.9 * relative(plain)


def test_an_important_layer_gets_more_coefficients():
    def per_row(importance):
        recipe = tenreo.Recipe(4, tenreo.Progressive(2.0), refine=0, allocate=True, importance=importance)
        return {x.name: x.curve.coefficients_per_row for x in tenreo.compress_(convolutional(), recipe).layers}

    assert per_row({"4": 5.0})["4"] > per_row({})["4"]
    with pytest.raises(TenreoError, match="importance: pattern 'nothing' matches no"):
        per_row({"nothing": 2.0})

"""Tests of the learning rate schedules against known values."""

import math

import pytest

from tenreo.training.schedule import lr_multiplier
from tenreo.training.settings import Settings


def test_multipliers_of_the_schedules():
    cosine = Settings(epochs=10, schedule="cosine", warmup=2)
    at = [lr_multiplier(cosine, done) for done in (0.5, 1, 2, 6, 10)]
    assert at == pytest.approx([0.25, 0.5, 1, 0.5, 0])
    step = Settings(epochs=20, schedule="step")
    assert [lr_multiplier(step, done) for done in (0.1, 15, 15.1)] == [1, 1, 0.1]
    constant = Settings(epochs=20, schedule="constant", warmup=1)
    assert [lr_multiplier(constant, done) for done in (0.1, 1, 15.1)] == [0.1, 1, 1]


def test_cosine_is_half_a_period():
    settings = Settings(epochs=8, schedule="cosine")
    for done in (1, 2.5, 7):
        assert lr_multiplier(settings, done) == pytest.approx(math.cos(math.pi * done / 16) ** 2)


def test_warm_up_may_last_until_the_end():
    settings = Settings(epochs=2, schedule="cosine", warmup=2)
    assert [lr_multiplier(settings, done) for done in (1, 2)] == [0.5, 1]

"""Tests of the learning rate schedules against known values."""

import math

import pytest
import torch

from tenreo.training.schedule import lr_multiplier
from tenreo.training.settings import Settings


def multipliers(settings, steps, epochs=None):
    """Return the factors of all steps of a run with a number of steps per epoch."""
    count = steps * (epochs or settings.epochs)
    return [lr_multiplier(settings, i / steps, (i + 1) / steps) for i in range(count)]


def test_multipliers_of_the_schedules():
    cosine = Settings(epochs=3, schedule="cosine", warmup=1)
    assert multipliers(cosine, 2) == pytest.approx(
        [0.5, 1, 1, math.cos(math.pi / 8) ** 2, 0.5, math.sin(math.pi / 8) ** 2]
    )
    step = Settings(epochs=17, schedule="step")
    assert multipliers(step, 2) == [1] * 30 + [0.1] * 4
    constant = Settings(epochs=2, schedule="constant", warmup=1)
    assert multipliers(constant, 4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 7), (2, 1), (3, 4)])
def test_cosine_is_that_of_torch(epochs, steps):
    """torch's schedule has the rate at the start of each step, and would have the rate 0 after the last one."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    theirs, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps), []
    for _ in range(epochs * steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert multipliers(Settings(epochs=epochs, schedule="cosine"), steps) == pytest.approx(expected)


def test_warm_up_may_last_until_the_end_or_end_within_a_step():
    assert multipliers(Settings(epochs=2, schedule="cosine", warmup=2), 1) == [0.5, 1]
    assert multipliers(Settings(epochs=2, warmup=1.25), 2) == pytest.approx([0.4, 0.8, 1, 1])


@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_no_step_has_the_rate_0(schedule, warmup):
    for steps in (1, 2, 5):
        assert min(multipliers(Settings(epochs=1, schedule=schedule, warmup=warmup), steps)) > 0

"""Tests of the training settings: ranges, defaults and enumerations."""

import pytest

from tenreo.errors import TenreoError
from tenreo.training.settings import Freeze, Optimizer, Schedule, Settings, default_lr


def test_the_papers_learning_rates():
    assert default_lr("mobilenet_v2") == 0.0001 and default_lr("resnet50") == 0.00025


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": -1}, {"schedule": "linear"}, {"warmup": 2.0}, {"batch_size": 0}, {"lr": -1.0}, {"lr": float("nan")},
        {"seed": 2**63}, {"optimizer": "adam"}, {"augment": "much"}, {"freeze": "all"}, {"label_smoothing": 1.0},
        {"ema": -0.1}, {"clip": -1.0}, {"temperature": 0.0}, {"distill_weight": 1.5}, {"save_every": -1},
        {"epochs": 10**7}, {"batch_size": 10**6}, {"lr": 1e300}, {"weight_decay": 1e30}, {"momentum": 1e30},
        {"warmup": 1e300}, {"clip": 1e300}, {"temperature": 1e300}, {"save_every": 10**30}, {"seed": 10**30},
        {"freeze": "others"}, {"amp": 1}, {"epochs": 1.0}, {"epochs": None},
    ],
)  # fmt: skip
def test_settings_out_of_range(bad):
    with pytest.raises(TenreoError, match=f"^{next(iter(bad))}: given "):
        Settings(**bad)


def test_defaults_are_the_papers():
    plain = Settings()
    assert (plain.epochs, plain.batch_size, plain.optimizer, plain.momentum, plain.weight_decay) == (
        1, 64, Optimizer.SGD, 0.9, 1e-4,
    )  # fmt: skip
    assert (plain.schedule, plain.freeze, plain.augment) == (Schedule.STEP, Freeze.NOTHING, "none")


def test_strings_become_enumerations():
    given = Settings(optimizer="adamw", schedule="cosine", freeze="dense", lr=1)
    assert (given.optimizer, given.schedule, given.freeze) == (Optimizer.ADAMW, Schedule.COSINE, Freeze.DENSE)

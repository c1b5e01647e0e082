"""The learning rate at every moment of a run."""

from __future__ import annotations

import math

from tenreo.training.settings import Schedule, Settings

DECAY_EPOCH = 15  # of "step": the rate is divided by ten from this epoch on, counted from 0


def lr_multiplier(settings: Settings, done: float) -> float:
    """What the learning rate is multiplied by: a straight line up to 1 for the warm-up, then the schedule.

    constant: 1. step: a tenth from epoch `DECAY_EPOCH` on (the reference's). cosine: half a period down to 0 at the
    end of the run (arXiv 1608.03983, without restarts).

    >>> lr_multiplier(Settings(epochs=10, schedule="cosine"), done=5)
    0.5

    Args:
        settings: schedule, warm-up and epochs of the run.
        done: epochs behind the step in question, its own included, in (0, epochs].

    Returns:
        In [0, 1].
    """
    warmup, epochs = settings.warmup, settings.epochs
    if done < warmup:
        return done / warmup
    if settings.schedule == Schedule.STEP:
        return 0.1 if done > DECAY_EPOCH else 1.0
    if settings.schedule == Schedule.COSINE and epochs > warmup:
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (epochs - warmup)))
    return 1.0

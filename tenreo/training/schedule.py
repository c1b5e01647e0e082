"""Learning rate schedules."""

import math

from tenreo.training.settings import Schedule, Settings

DECAY_EPOCH = 15  # number of epochs after which the schedule "step" divides the learning rate by ten


def lr_multiplier(settings: Settings, done: float) -> float:
    """Return the factor of the learning rate: a linear warm-up from 0 to 1, then the schedule.

    constant: 1. step: 1, and 0.1 after `DECAY_EPOCH` epochs, as in the reference implementation. cosine: half a period
    of the cosine, from 1 to 0 at the end of the run (arXiv 1608.03983, without restarts).

    >>> lr_multiplier(Settings(epochs=10, schedule="cosine"), done=5)
    0.5

    Args:
        settings: schedule, warm-up and number of epochs.
        done: epochs since the start of the run, up to the end of the step, in (0, epochs].

    Returns:
        A factor in [0, 1].
    """
    warmup, epochs = settings.warmup, settings.epochs
    if done < warmup:
        return done / warmup
    if settings.schedule == Schedule.STEP:
        return 0.1 if done > DECAY_EPOCH else 1.0
    if settings.schedule == Schedule.COSINE and epochs > warmup:
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (epochs - warmup)))
    return 1.0

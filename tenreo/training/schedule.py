"""Learning rate schedules."""

import math

from tenreo.training.settings import Schedule, Settings

DECAY_EPOCH = 15  # number of epochs after which the schedule "step" divides the learning rate by ten


def lr_multiplier(settings: Settings, start: float, end: float) -> float:
    """Return the factor of the learning rate of a step: a linear warm-up to 1, then the schedule.

    The schedule is evaluated at the start of the step and the warm-up at its end, so that neither the last step nor the
    first one has the rate 0. constant: 1. step: 1, and 0.1 after `DECAY_EPOCH` epochs, as in the reference
    implementation. cosine: half a period of the cosine, which would be 0 at the end of the run (arXiv 1608.03983,
    without restarts).

    >>> lr_multiplier(Settings(epochs=10, schedule="cosine"), 5, 6)
    0.5

    Args:
        settings: schedule, warm-up and number of epochs.
        start: epochs from the start of the run to the start of the step, in [0, epochs).
        end: epochs from the start of the run to the end of the step.

    Returns:
        A factor in (0, 1].
    """
    warmup, epochs = settings.warmup, settings.epochs
    if start < warmup:
        return min(1.0, end / warmup)
    if settings.schedule == Schedule.STEP:
        return 0.1 if start >= DECAY_EPOCH else 1.0
    if settings.schedule == Schedule.COSINE:
        return 0.5 * (1 + math.cos(math.pi * (start - warmup) / (epochs - warmup)))
    return 1.0

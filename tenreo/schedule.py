"""The learning rate at every moment of a run."""

from __future__ import annotations

import math

from tenreo.errors import TenreoError

SCHEDULES = ("constant", "step", "cosine")
DECAY_EPOCH = 15  # of "step": the rate is divided by ten from this epoch on, counted from 0


def check_schedule(schedule: str, warmup: float, epochs: int) -> None:
    """Raise unless `factor` knows what to do.

    Args:
        schedule: one of `SCHEDULES`.
        warmup: in epochs.
        epochs: of the run.

    Raises:
        TenreoError: when the name is unknown, or the warm-up is negative or longer than the run.
    """
    if schedule not in SCHEDULES:
        raise TenreoError(f"schedule: given {schedule!r}, needs one of {', '.join(SCHEDULES)}")
    if not 0 <= warmup <= epochs:
        raise TenreoError(f"warmup: given {warmup} epochs, needs 0 to {epochs}, the length of the run")


def factor(schedule: str, warmup: float, epochs: int, done: float) -> float:
    """What the learning rate is multiplied by: a straight line up to 1, then the schedule.

    Args:
        schedule: "constant"; "step", a tenth from epoch `DECAY_EPOCH` on (the reference's); "cosine",
            half a period down to 0 at the end of the run (arXiv 1608.03983, without restarts).
        warmup: epochs of the straight line; 0 has none.
        epochs: of the run.
        done: epochs behind the step in question, its own included, in (0, epochs].

    Returns:
        In [0, 1].
    """
    if done < warmup:
        return done / warmup
    if schedule == "step":
        return 0.1 if done > DECAY_EPOCH else 1.0
    if schedule == "cosine" and epochs > warmup:
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (epochs - warmup)))
    return 1.0

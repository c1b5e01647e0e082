"""How training images are varied. This module does not import torch."""

from __future__ import annotations

from enum import StrEnum


class Augmentation(StrEnum):
    """How training images are varied.

    "none" resizes and takes the center, as the paper; "standard" takes a random part of a photograph, flipped or not,
    and moves, turns and scales a digit a little. "randaugment" does that and RandAugment (arXiv 1909.13719: two of 14
    operations, of magnitude 9).
    """

    NONE = "none"
    STANDARD = "standard"
    RANDAUGMENT = "randaugment"

"""Kinds of augmentation of training images. This module does not import torch."""

from enum import StrEnum


class Augmentation(StrEnum):
    """How training images are varied at random.

    "none" resizes and crops the center, as in the paper. "standard" takes a random resized crop of a photograph and
    flips half of them; digits are shifted, rotated and scaled slightly instead. "randaugment" adds RandAugment
    (arXiv 1909.13719: two of 14 operations with magnitude 9).
    """

    NONE = "none"
    STANDARD = "standard"
    RANDAUGMENT = "randaugment"

"""Batches of unlabeled images for the statistics of a model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images


class UnlabeledBatches:
    """Randomly chosen batches of images without labels, each (batch_size, 3, crop, crop) float32 on the CPU.

    Iterating raises a TenreoError if an image cannot be read. If broken images are skipped, another image takes the
    place of each.

    Args:
        images: images to choose from.
        count: maximum number of batches.
        loading: how images are read.
        seed: seed of the choice.

    Attributes:
        batches: all batches, which record the broken images.
    """

    def __init__(self, images: Images, count: int, loading: Loading, seed: int = 0) -> None:
        self.batches, self.count = Batches(images, loading, torch.device("cpu"), seed=seed), count

    def __iter__(self) -> Iterator[Tensor]:
        return (images for images, _ in islice(self.batches, min(self.count, len(self.batches))))

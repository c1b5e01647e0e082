"""Batches of images on a device, the work shared by processes, broken images and lost workers named."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from tenreo.errors import TenreoError
from tenreo.vision.images import Broken, Images


class Share(NamedTuple):
    """Which of several processes this one is, that go through the same images together.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1


@dataclass(frozen=True)
class Loading:
    """How images are read.

    Attributes:
        batch_size: images per batch and process.
        workers: processes that decode images.
        skip_broken: go on past broken images: in training the next readable image takes the place, so that
            batches stay the same size; otherwise the image is not counted.
    """

    batch_size: int
    workers: int = 0
    skip_broken: bool = False


class _SeededImages(Dataset[Any]):
    """Images for training: what is random about one depends on seed and image alone."""

    def __init__(self, images: Images, seed: int, skip_broken: bool) -> None:
        self.images, self.seed, self.skip_broken = images, seed, skip_broken

    def __getitem__(self, i: int) -> Any:
        # The generator's own words: torch.manual_seed would seed the GPU's as well.
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed((self.seed * 1_000_003 + i) % 2**63)
        try:
            return self._readable(i)
        finally:
            torch.default_generator.set_state(before)

    def _readable(self, i: int) -> Any:
        """The image, or with skip_broken the next one that can be read, and those that can not."""
        broken: list[Broken] = []
        for k in range(len(self.images)):
            sample = self.images[(i + k) % len(self.images)]
            if not isinstance(sample, Broken):
                return (*sample, broken)
            broken.append(sample)
            if not self.skip_broken:
                break
        return broken[0]


def _collate(samples: list[Any]) -> Any:
    """Samples -> (images, labels, broken)."""
    good = [s for s in samples if not isinstance(s, Broken)]
    broken = [s for s in samples if isinstance(s, Broken)] + [b for s in good for b in s[2:] for b in b]
    return (*(default_collate([s[:2] for s in good]) if good else (None, None)), broken)


def _ignore_signals(worker: int) -> None:
    """Leave stopping to the main process, which gets the same signals and still needs its images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Batches:
    """Batches of (images, labels) on a device; a broken image is an error that names its path.

    With several processes each goes through its part: in training, of every batch that they make together;
    otherwise, of the batches.

    Args:
        images: what to go through.
        loading: how they are read; in training, a last batch of fewer than two images per process is left out,
            where BatchNorm has no variance.
        device: where batches go.
        seed: shuffles for training, the same way for the same seed; None keeps the order.
        share: which of how many processes this is.
        first: batches to leave out at the beginning, without reading them.

    Attributes:
        totals: images per batch of all processes together, without those left out; for training.
        broken: paths of the broken images that were met.
        waited: seconds spent on waiting for the latest batch.
    """

    def __init__(
        self,
        images: Images,
        loading: Loading,
        device: torch.device,
        *,
        seed: int | None = None,
        share: Share = Share(),
        first: int = 0,
    ) -> None:
        self.device, self.skip_broken = device, loading.skip_broken
        self.totals: list[int] = []
        self.broken: set[str] = set()
        self.waited = 0.0
        if seed is None:
            together = torch.split(torch.arange(len(images)), loading.batch_size)
            own = [batch.tolist() for batch in together[first:]][share.rank :: share.size]
        else:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            together = torch.split(order, loading.batch_size * share.size)
            if len(together[-1]) < 2 * share.size:
                together = together[:-1]
            together = together[first:]
            self.totals = [len(batch) for batch in together]
            own = [batch.tensor_split(share.size)[share.rank].tolist() for batch in together]
        self.steps = first + len(own)  # of the whole epoch
        self.loader = DataLoader(
            images if seed is None else _SeededImages(images, seed, loading.skip_broken),
            batch_sampler=own,
            num_workers=loading.workers,
            collate_fn=_collate,
            worker_init_fn=_ignore_signals,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(seed or 0),
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        start = time.perf_counter()
        for images, labels, broken in _with_lost_workers(self.loader):
            self.waited = time.perf_counter() - start
            self.broken |= {b.path for b in broken}
            if broken and (not self.skip_broken or (images is None and self.totals)):
                raise TenreoError(
                    f"{broken[0].path}: can not be read as an image ({broken[0].why}); repair or remove it, "
                    "or skip broken images"
                )
            if images is None:  # not one of them can be read
                continue
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            start = time.perf_counter()


def _with_lost_workers(loader: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from loader
    except (EOFError, ConnectionError) as error:
        time.sleep(1)  # the connection broke first; torch's own error comes with the signal, which ends this
        raise RuntimeError("DataLoader worker ended") from error


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """Turn the death of a process that decodes images into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TenreoError(
            f"a process that decodes images has ended ({str(error).splitlines()[0].strip()}); "
            "where memory is short, try fewer workers"
        ) from error


def unlabeled(images: Images, batches: int, loading: Loading, seed: int = 0) -> Iterator[Tensor]:
    """Some batches of a data set, without their labels, as the statistics of a model want them.

    Args:
        images: what to choose from.
        batches: at most so many.
        loading: how they are read; other images are taken for broken ones that are skipped.
        seed: the same images for the same seed.

    Yields:
        (batch_size, 3, crop, crop) float32, on the CPU.

    Raises:
        TenreoError: when an image can not be read.
    """
    loader = Batches(images, loading, torch.device("cpu"), seed=seed)
    return (batch for batch, _ in islice(loader, batches))

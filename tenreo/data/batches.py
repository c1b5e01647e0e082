"""Batches of images on a device, the work shared by processes, broken images and lost workers named."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import queues
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from tenreo.data.images import Broken, Images, Read
from tenreo.errors import TenreoError


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


class _PlainImages(Dataset[Any]):
    """Images in their order, with all that is known of each."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, i: int) -> tuple[Read | None, list[Broken]]:
        read = self.images.read(i)
        return (None, [read]) if isinstance(read, Broken) else (read, [])


class _SeededImages(Dataset[Any]):
    """Images for training: what is random about one depends on seed and image alone."""

    def __init__(self, images: Images, seed: int, skip_broken: bool) -> None:
        self.images, self.seed, self.skip_broken = images, seed, skip_broken

    def __getitem__(self, i: int) -> tuple[Read | None, list[Broken]]:
        # The generator's own words: torch.manual_seed would seed the GPU's as well.
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed((self.seed * 1_000_003 + i) % 2**63)
        try:
            return self._readable(i)
        finally:
            torch.default_generator.set_state(before)

    def _readable(self, i: int) -> tuple[Read | None, list[Broken]]:
        """The image, or with skip_broken the next one that can be read, and those that can not."""
        broken: list[Broken] = []
        for k in range(len(self.images)):
            read = self.images.read((i + k) % len(self.images))
            if not isinstance(read, Broken):
                return read, broken
            broken.append(read)
            if not self.skip_broken:
                break
        return None, broken


class _Batch(NamedTuple):
    """What one batch's images are, as it travels from the process that read them.

    Attributes:
        images: (batch, 3, crop, crop); None where no image could be read.
        labels: of the images; no tensor, which would need shared memory where nobody hears of a failure.
        paths: of their files.
        broken: images that could not be read.
        warned: path and text of what was wrong with others.
        failure: why the images could not be put together.
    """

    images: Tensor | None
    labels: list[int]
    paths: list[str]
    broken: list[Broken]
    warned: list[tuple[str, str]]
    failure: str = ""


def _collate(samples: list[tuple[Read | None, list[Broken]]]) -> _Batch:
    good = [read for read, _ in samples if read is not None]
    broken = [each for _, several in samples for each in several]
    warned = [(read.path, text) for read in good for text in read.warned]
    try:
        images = default_collate([read.image for read in good]) if good else None
    except Exception as error:  # such as shared memory that is full
        first = good[0].path or "an image"
        return _Batch(
            None, [], [], broken, warned, f"{first} and {len(good) - 1} more: {type(error).__name__}: {error}"
        )
    return _Batch(images, [read.label for read in good], [read.path for read in good], broken, warned)


def _prepare_worker(worker: int) -> None:
    """Leave stopping to the main process, which gets the same signals and still needs its images.

    A batch that can not be sent ends the worker, which is noticed; torch would wait for it for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: BaseException, batch: object) -> None:
    os.write(2, f"a batch of images can not be sent: {type(error).__name__}: {error}\n".encode(errors="replace"))
    os._exit(1)


class Batches:
    """Batches of (images, labels) on a device; a broken image is an error that names its path.

    With several processes each goes through its part: in training, of every batch that they make together;
    otherwise, of the batches.

    Args:
        images: what to go through.
        loading: how they are read; in training, a last batch of fewer than two images per process is left out,
            where BatchNorm has no variance, unless all batches are such.
        device: where batches go.
        seed: shuffles for training, the same way for the same seed; None keeps the order.
        share: which of how many processes this is.
        first: batches to leave out at the beginning, without reading them.

    Attributes:
        highest: label of the latest batch.
        paths: of the files of the latest batch; empty ones of images that have none.
        totals: images per batch of all processes together, without those left out; for training.
        left_out: how many images those have.
        broken: paths of the broken images that were met.
        warned: path and text of what was wrong with images that could be read.
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
        self.highest = -1
        self.paths: list[str] = []
        self.totals: list[int] = []
        self.left_out = 0
        self.broken: set[str] = set()
        self.warned: set[tuple[str, str]] = set()
        self.waited = 0.0
        if seed is None:
            together = torch.split(torch.arange(len(images)), loading.batch_size)
            own = [batch.tolist() for batch in together[first:]][share.rank :: share.size]
            self.steps = first + len(own)  # of the whole epoch
        else:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            together = torch.split(order, loading.batch_size * share.size)
            if len(together[-1]) < min(2, loading.batch_size) * share.size:
                together = together[:-1]
            self.steps = len(together)
            self.left_out = sum(map(len, together[:first]))
            self.totals = [len(batch) for batch in together[first:]]
            own = [batch.tensor_split(share.size)[share.rank].tolist() for batch in together[first:]]
        self.loader = DataLoader(
            _PlainImages(images) if seed is None else _SeededImages(images, seed, loading.skip_broken),
            batch_sampler=own,
            num_workers=loading.workers,
            collate_fn=_collate,
            worker_init_fn=_prepare_worker,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(seed or 0),
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self._batches()
        _unfinished.add(batches)
        return batches

    def _batches(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        start = time.perf_counter()
        for batch in _from_workers(self.loader):
            self.waited = time.perf_counter() - start
            self.broken |= {b.path for b in batch.broken}
            self.warned |= set(batch.warned)
            if batch.failure:
                raise TenreoError(
                    f"a batch of images can not be put together: {batch.failure}; where memory or shared memory "
                    "is short, try fewer workers or a smaller batch"
                )
            if batch.broken and (not self.skip_broken or (batch.images is None and self.totals)):
                raise TenreoError(
                    f"{batch.broken[0].path}: can not be read as an image ({batch.broken[0].why}); "
                    "repair or remove it, or skip broken images"
                )
            if batch.images is None:  # not one of them can be read
                continue
            labels, self.highest, self.paths = torch.tensor(batch.labels), max(batch.labels), batch.paths
            yield batch.images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            start = time.perf_counter()


def _from_workers(loader: DataLoader[Any]) -> Iterator[_Batch]:
    """What a loader gives; its processes are gone at the end, which they do not reach by SIGTERM."""
    others = set(multiprocessing.active_children())
    batches = None
    try:
        batches = iter(loader)
        yield from batches
    except BaseException as error:
        _forget(error)
        if isinstance(error, (EOFError, ConnectionError)):
            time.sleep(1)  # the connection broke first; torch's own error comes with the signal, which ends this
            raise RuntimeError("DataLoader worker ended") from error
        if isinstance(error, OSError):
            why = error.strerror or error
            raise TenreoError(
                f"the processes that decode images can not be started: {why}; try fewer workers"
            ) from error
        raise
    finally:
        batches = None  # ends them in an orderly way, after which torch does not take it for a failure
        for process in set(multiprocessing.active_children()) - others:
            process.kill()


def _forget(error: BaseException) -> None:
    """Let go of the iterator that an error came from, so that it ends its processes.

    Of one that was not made to its end, torch's own ending fails, and would print that.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    traceback.clear_frames(error.__traceback__)
    sys.unraisablehook = hook


_unfinished: WeakSet[Generator[Any, None, None]] = WeakSet()


@atexit.register
def _finish() -> None:
    """End the processes of iterations that an error left in the middle: the exit would wait for them for ever."""
    for batches in list(_unfinished):
        batches.close()


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """Turn the death of a process that decodes images into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = " ".join(dict.fromkeys((lines[0], lines[-1])))  # what is between is a traceback
        raise TenreoError(
            f"a process that decodes images has ended ({why}); where memory is short, try fewer workers"
        ) from error


class Unlabeled:
    """Some batches of a data set without their labels, (batch_size, 3, crop, crop) float32 on the CPU each.

    Attributes:
        batches: where they come from, which know the broken images.
        count: at most so many.
    """

    def __init__(self, batches: Batches, count: int) -> None:
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[Tensor]:
        return (images for images, _ in islice(self.batches, min(self.count, len(self.batches))))


def unlabeled(images: Images, batches: int, loading: Loading, seed: int = 0) -> Unlabeled:
    """Some batches of a data set, without their labels, as the statistics of a model want them.

    Args:
        images: what to choose from.
        batches: at most so many.
        loading: how they are read; other images are taken for broken ones that are skipped.
        seed: the same images for the same seed.

    Raises:
        TenreoError: while they are gone through, when an image can not be read.
    """
    return Unlabeled(Batches(images, loading, torch.device("cpu"), seed=seed), batches)

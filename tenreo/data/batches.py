"""Batches of labeled images on a device, divided among the processes of a distributed run."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from tenreo.data.images import BrokenImage, DecodedImage, Images
from tenreo.data.workers import initialize_worker, iterate_batches
from tenreo.errors import TenreoError


@dataclass(frozen=True)
class Loading:
    """How images are loaded.

    Attributes:
        batch_size: number of images per batch and process.
        workers: number of worker processes that decode images; 0 decodes in the main process.
        skip_broken: whether broken images are skipped instead of raising an error. In training, the next readable
            image replaces a broken one, so that batches keep their size; in evaluation, a broken image is not counted.
    """

    batch_size: int
    workers: int = 0
    skip_broken: bool = False


# An image, or None if it cannot be read, and the broken images that were met while reading it.
_Sample = tuple[DecodedImage | None, list[BrokenImage]]


class _Samples(Dataset[_Sample]):
    """Images with a seed for training, or None for evaluation.

    In training, random augmentation depends on the seed and the index alone, so that runs can be resumed.
    """

    def __init__(self, images: Images, seed: int | None, skip_broken: bool) -> None:
        self.images, self.seed = images, seed
        self.attempts = len(images) if skip_broken and seed is not None else 1

    def __getitem__(self, i: int) -> _Sample:
        if self.seed is None:
            return self._read(i)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPU's generator as well.
            torch.default_generator.manual_seed((self.seed * 1_000_003 + i) % 2**63)
            return self._read(i)

    def _read(self, i: int) -> _Sample:
        """Read the first readable image from index i on, within the number of attempts."""
        broken: list[BrokenImage] = []
        for k in range(self.attempts):
            result = self.images.read((i + k) % len(self.images))
            if not isinstance(result, BrokenImage):
                return result, broken
            broken.append(result)
        return None, broken


@dataclass(frozen=True)
class _Batch:
    """A batch as a worker process sends it.

    Attributes:
        images: (batch, 3, crop, crop) float32 or uint8; None if no image could be read.
        labels: labels of the images; not a tensor, which would be sent through shared memory and could fail there.
        paths: paths of their files.
        broken: images that could not be read.
        warnings: path of an image and text of a warning about it.
        failure: why the images could not be combined into a tensor; empty if they could.
    """

    images: Tensor | None
    labels: list[int]
    paths: list[str]
    broken: list[BrokenImage]
    warnings: list[tuple[str, str]]
    failure: str = ""

    def pin_memory(self) -> "_Batch":
        """Return the batch with pinned images; a DataLoader calls this method.

        Without it, torch 2.10 and older would convert the tuples to lists, which cannot be elements of a set.
        """
        return self if self.images is None else replace(self, images=self.images.pin_memory())


def _collate(samples: list[_Sample]) -> _Batch:
    read = [image for image, _ in samples if image is not None]
    broken = [each for _, several in samples for each in several]
    warnings = [(image.path, text) for image in read for text in image.warnings]
    try:
        images = default_collate([image.image for image in read]) if read else None
    except Exception as error:  # for example, because shared memory is full
        first = read[0].path or "an image"
        failure = f"{first} and {len(read) - 1} more: {type(error).__name__}: {error}"
        return _Batch(None, [], [], broken, warnings, failure)
    return _Batch(images, [image.label for image in read], [image.path for image in read], broken, warnings)


class Batches:
    """Batches of (images, labels) on a device.

    In a distributed run, every process loads its part: for training, a part of every batch; for evaluation, every
    world_size-th batch. Iterating raises a TenreoError that names the image if an image is broken.

    Args:
        images: images to load.
        loading: how images are loaded. In training, a last batch of fewer than two images per process is dropped,
            because BatchNorm has no variance on it, unless all batches are that small.
        device: device that batches are moved to.
        seed: seed of the shuffling and augmentation for training; None keeps the order, for evaluation.
        rank: index of this process.
        world_size: number of processes.
        skip: number of batches at the start that are skipped without reading them.

    Attributes:
        steps: number of batches of the whole epoch.
        number: number of the latest batch, from 0; in evaluation, among those of all processes.
        max_label: highest label of the latest batch.
        paths: paths of the files of the latest batch; empty for images without a file.
        global_sizes: for training, the number of images of all processes in each batch that is not skipped.
        image_count: number of images in the batches of this process.
        skipped_images: number of images in the skipped batches.
        broken: paths of the broken images met so far.
        warnings: path and text of the warnings about images that could be read.
        wait_seconds: time spent waiting for the latest batch.
    """

    def __init__(
        self,
        images: Images,
        loading: Loading,
        device: torch.device,
        *,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        skip: int = 0,
    ) -> None:
        self.device, self.skip_broken = device, loading.skip_broken
        # A GPU normalizes faster than the CPU, and bytes are moved in a quarter of the time.
        self._normalize: Callable[[Tensor], Tensor] | None = None
        if device.type != "cpu" and (in_bytes := images.in_bytes()) is not None:
            images, self._normalize = in_bytes
        self.number, self.max_label = -1, -1
        self._first, self._step = (skip + rank, world_size) if seed is None else (skip, 1)
        self.paths: list[str] = []
        self.global_sizes: list[int] = []
        self.skipped_images = 0
        self.broken: set[str] = set()
        self.warnings: set[tuple[str, str]] = set()
        self.wait_seconds = 0.0
        if seed is None:
            batches = torch.split(torch.arange(len(images), device="cpu"), loading.batch_size)
            own = [batch.tolist() for batch in batches[skip:]][rank::world_size]
            self.steps = skip + len(own)
        else:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed), device="cpu")
            batches = torch.split(order, loading.batch_size * world_size)
            if len(batches[-1]) < min(2, loading.batch_size) * world_size:
                batches = batches[:-1]
            self.steps = len(batches)
            self.skipped_images = sum(map(len, batches[:skip]))
            self.global_sizes = [len(batch) for batch in batches[skip:]]
            own = [batch.tensor_split(world_size)[rank].tolist() for batch in batches[skip:]]
        self.image_count = sum(map(len, own))
        self.loader = DataLoader(
            _Samples(images, seed, loading.skip_broken),
            batch_sampler=own,
            num_workers=loading.workers,
            collate_fn=_collate,
            worker_init_fn=initialize_worker,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(seed or 0),
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        start = time.perf_counter()
        for i, batch in enumerate(iterate_batches(self.loader)):
            self.number = self._first + i * self._step
            self.wait_seconds = time.perf_counter() - start
            self.broken |= {image.path for image in batch.broken}
            self.warnings |= set(batch.warnings)
            if batch.failure:
                raise TenreoError(
                    f"a batch of images cannot be assembled: {batch.failure}; if memory or shared memory is short, use "
                    "fewer workers or a smaller batch"
                )
            if batch.broken and (not self.skip_broken or (batch.images is None and self.global_sizes)):
                raise TenreoError(
                    f"{batch.broken[0].path}: cannot be read as an image ({batch.broken[0].why}); "
                    "repair or remove it, or skip broken images"
                )
            if batch.images is None:  # every image of this batch is broken
                continue
            labels = torch.tensor(batch.labels, dtype=torch.int64, device="cpu")
            self.max_label, self.paths = max(batch.labels), batch.paths
            moved = batch.images.to(self.device, non_blocking=True)
            inputs = moved if self._normalize is None else self._normalize(moved)
            yield inputs, labels.to(self.device, non_blocking=True)
            start = time.perf_counter()


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

"""Images to batches: ImageNet-style folders, and scikit-learn's handwritten digits."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification

from tenreo.distributed import ALONE, Group
from tenreo.errors import TenreoError
from tenreo.header import Preprocess

DIGITS = "digits"


@dataclass(frozen=True)
class Broken:
    """Stands for an image that could not be read; raised as an error where batches are used."""

    path: str
    why: str


class Images(Dataset[Any]):
    """Labelled images, prepared for a model.

    Args:
        samples: (path or array (height, width) uint8, label).
        classes: number of different labels.
        prepare: PIL image -> (3, crop, crop) float32.
    """

    def __init__(
        self, samples: list[tuple[Any, int]], classes: int, prepare: Callable[[Any], Tensor]
    ) -> None:
        self.samples = samples
        self.classes = classes
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int] | Broken:
        source, label = self.samples[i]
        try:
            with Image.fromarray(source) if isinstance(source, np.ndarray) else Image.open(source) as file:
                image = file.convert("RGB")
        except Exception as error:  # a damaged image can fail in any way
            return Broken(str(source), str(error) or type(error).__name__)
        return self.prepare(image), label

    def limited(self, limit: int | None) -> Images:
        """At most `limit` images, spread evenly over all of them."""
        if limit is None or limit >= len(self):
            return self
        picked = np.linspace(0, len(self) - 1, limit).round().astype(int)
        return Images([self.samples[i] for i in picked], self.classes, self.prepare)


def open_images(
    data: str, split: str, preprocess: Preprocess, classes: int | None, augment: str = "none"
) -> Images:
    """Open one split of a data set.

    Args:
        data: a folder with `train/` and `val/`, each with one folder per class; or "digits".
        split: train or val.
        preprocess: how the model wants its images.
        classes: outputs of the model; None skips the check.
        augment: "none" resizes and takes the centre, as the paper; "standard" takes a random part of a
            photograph, flipped or not, and moves, turns and scales a digit a little.

    Raises:
        TenreoError: when a folder is missing or empty, or the classes are not as many as the
            model's; the message names the path.
    """
    prepare = _preparation(preprocess, augment, data == DIGITS)
    samples, count, where = _digits(split) if data == DIGITS else _folder(Path(data), split)
    if classes is not None and count != classes:
        raise TenreoError(
            f"{where}: has {count} classes, the model has {classes}; give the data it was trained on"
        )
    return Images(samples, count, prepare)


def _preparation(preprocess: Preprocess, augment: str, digits: bool) -> Callable[[Any], Tensor]:
    """PIL image -> (3, crop, crop) float32."""
    how = InterpolationMode(preprocess.interpolation)
    plain: Callable[[Any], Tensor] = ImageClassification(
        crop_size=preprocess.crop, resize_size=preprocess.resize, mean=preprocess.mean, std=preprocess.std,
        interpolation=how, antialias=True,
    )  # fmt: skip
    if augment == "none":
        return plain
    if digits:
        moved = v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR)
        return v2.Compose([moved, plain])  # type: ignore[no-any-return]
    return v2.Compose(  # type: ignore[no-any-return]
        [
            v2.RandomResizedCrop(preprocess.crop, interpolation=how, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocess.mean, preprocess.std),
        ]
    )


def _digits(split: str) -> tuple[list[tuple[Any, int]], int, str]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise TenreoError("digits: needs scikit-learn; install tenreo[demo]") from error
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    shuffled = np.random.RandomState(0).permutation(len(images))
    chosen = shuffled[:360] if split == "val" else shuffled[360:]
    return [(images[i], int(digits.target[i])) for i in chosen], 10, DIGITS


def _folder(root: Path, split: str) -> tuple[list[tuple[Any, int]], int, str]:
    folder = root / split
    if not folder.is_dir():
        raise TenreoError(
            f"{folder}: no such folder; data are laid out as {root}/{split}/<class>/*.JPEG, or say digits"
        )
    samples: list[tuple[Any, int]] = []
    names = sorted(f for f in folder.iterdir() if f.is_dir())
    for label, name in enumerate(names):
        files = sorted(f for f in name.rglob("*") if f.suffix.lower() in IMG_EXTENSIONS)
        if not files:
            raise TenreoError(f"{name}: holds no image; every class needs one ({', '.join(IMG_EXTENSIONS)})")
        samples += [(f, label) for f in files]
    if not names:
        raise TenreoError(f"{folder}: holds no class folder; needs {folder}/<class>/*.JPEG")
    return samples, len(names), str(folder)


class _Drawn(Dataset[Any]):
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


def _deaf(worker: int) -> None:
    """Leave stopping to the main process, which gets the same signals and still needs its images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Batches:
    """Batches of (images, labels) on a device; a broken image is an error that names its path.

    With several processes each goes through its part: in training, of every batch that they make together;
    otherwise, of the batches.

    Args:
        images: what to go through.
        batch_size: images per batch and process; a last batch of fewer than two per process is left out of
            training, where BatchNorm has no variance.
        device: where batches go.
        workers: processes that decode images.
        seed: shuffles for training, the same way for the same seed; None keeps the order.
        group: the processes.
        first: batches to leave out at the beginning, without reading them.
        skip_broken: go on past broken images: in training the next readable image takes the place, so that
            batches stay the same size; otherwise the image is not counted.

    Attributes:
        totals: images per batch of all processes together, without those left out; for training.
        broken: paths of the broken images that were met.
        waited: seconds spent on waiting for the latest batch.
    """

    def __init__(
        self, images: Images, batch_size: int, device: torch.device, workers: int = 0, seed: int | None = None,
        *, group: Group = ALONE, first: int = 0, skip_broken: bool = False,
    ) -> None:  # fmt: skip
        self.device, self.group, self.skip_broken = device, group, skip_broken
        self.totals: list[int] = []
        self.broken: set[str] = set()
        self.waited = 0.0
        if seed is None:
            together = torch.split(torch.arange(len(images)), batch_size)
            own = [batch.tolist() for batch in together[first:]][group.rank :: group.size]
        else:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            together = torch.split(order, batch_size * group.size)
            if len(together[-1]) < 2 * group.size:
                together = together[:-1]
            together = together[first:]
            self.totals = [len(batch) for batch in together]
            own = [batch.tensor_split(group.size)[group.rank].tolist() for batch in together]
        self.steps = first + len(own)  # of the whole epoch
        source = images if seed is None else _Drawn(images, seed, skip_broken)
        self.loader = DataLoader(
            source, batch_sampler=own, num_workers=workers, collate_fn=_collate, worker_init_fn=_deaf,
            pin_memory=device.type == "cuda", generator=torch.Generator().manual_seed(seed or 0),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        start = time.perf_counter()
        for images, labels, broken in _hearing_of_lost_workers(self.loader):
            self.waited = time.perf_counter() - start
            self.broken |= {b.path for b in broken}
            if broken and (not self.skip_broken or (images is None and self.totals)):
                raise TenreoError(
                    f"{broken[0].path}: can not be read as an image ({broken[0].why}); repair or remove it, "
                    "or say --skip-broken"
                )
            if images is None:  # not one of them can be read
                continue
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            start = time.perf_counter()


def _hearing_of_lost_workers(loader: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from loader
    except (EOFError, ConnectionError) as error:
        time.sleep(1)  # the connection broke first; torch's own error comes with the signal, which ends this
        raise RuntimeError("DataLoader worker ended") from error


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Turn the death of a process that decodes images into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TenreoError(
            f"a process that decodes images has ended ({str(error).splitlines()[0].strip()}); "
            "where memory is short, try fewer --workers"
        ) from error


def unlabelled(
    images: Images, batches: int, batch_size: int, workers: int = 0, seed: int = 0, skip_broken: bool = False
) -> Iterator[Tensor]:
    """Some batches of a data set, without their labels, as the statistics of a model want them.

    Args:
        images: what to choose from.
        batches: at most so many.
        batch_size: images per batch.
        workers: processes that decode images.
        seed: the same images for the same seed.
        skip_broken: take other images for those that can not be read.

    Yields:
        (batch_size, 3, crop, crop) float32, on the CPU.

    Raises:
        TenreoError: when an image can not be read.
    """
    loader = Batches(images, batch_size, torch.device("cpu"), workers, seed, skip_broken=skip_broken)
    return (batch for batch, _ in islice(loader, batches))

"""What a model says of every image: classes that it knows badly, which it takes for which, and rows of a CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.data.batches import Batches
from tenreo.devices import half
from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write

COLUMNS = ("path", "label", "predicted", "confidence", "correct")


@dataclass(frozen=True)
class ClassAccuracy:
    """How often the images of one class are recognized.

    Attributes:
        name: of the class, or its number.
        images: how many it has.
        top1: of these, in percent.
        mistaken_for: the class that most of the others were taken for; None where there are none.
    """

    name: str
    images: int
    top1: float
    mistaken_for: str | None


@dataclass(frozen=True)
class Confusion:
    """How many images of each class were taken for each.

    Attributes:
        labels: names of the classes that images have, the rows.
        predicted: names of those and of all that the model named first, the columns.
        counts: (labels, predicted) whole numbers.
    """

    labels: list[str]
    predicted: list[str]
    counts: Tensor

    def write_csv(self, path: Path) -> None:
        """Write a row per class, with the class in the column `label`.

        Raises:
            TenreoError: when the file can not be written.
        """
        rows = ([name, *row] for name, row in zip(self.labels, self.counts.tolist(), strict=True))
        _write(path, ["label", *self.predicted], rows)


class Predictions:
    """The class that a model names first, and how sure it is, for every image of batches.

    Args:
        batches: that are gone through.
        class_names: of the model's outputs; empty where they are not known.
    """

    def __init__(self, batches: Batches, class_names: Sequence[str] = ()) -> None:
        self.batches, self.class_names = batches, _distinct(class_names)
        self.paths: list[str] = []
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Include the latest batch: logits (batch, classes) float32 and labels (batch,), -1 without one."""
        confidence, predicted = logits.softmax(1).max(1)
        self.paths += self.batches.paths
        self._parts.append((labels, predicted, confidence))  # on their device: copying would wait for it

    def _columns(self) -> tuple[list[int], list[int], list[float]]:
        if not self._parts:
            return [], [], []
        labels, predicted, confidence = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        return labels.tolist(), predicted.tolist(), confidence.tolist()

    def name(self, label: int) -> str:
        """The name of a class, or its number where it is not known."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def classes(self) -> list[ClassAccuracy]:
        """The accuracy of every class that images have, in the order of the labels."""
        labels, predicted, _ = self._columns()
        images, hits = Counter(labels), Counter(a for a, b in zip(labels, predicted, strict=True) if a == b)
        mistakes: dict[int, Counter[int]] = {}
        for label, other in zip(labels, predicted, strict=True):
            if label != other:
                mistakes.setdefault(label, Counter())[other] += 1
        found = []
        for label in sorted(images):
            most = min(mistakes[label].items(), key=lambda item: (-item[1], item[0]))[0] if label in mistakes else None
            name = None if most is None else self.name(most)
            found.append(ClassAccuracy(self.name(label), images[label], 100 * hits[label] / images[label], name))
        return found

    def confusion(self) -> Confusion:
        """The confusion matrix of the classes that occur."""
        labels, predicted, _ = self._columns()
        rows = sorted(set(labels))
        columns = sorted({*labels, *predicted})
        at_row, at_column = ({label: i for i, label in enumerate(each)} for each in (rows, columns))
        counts = torch.zeros(len(rows), len(columns), dtype=torch.int64)
        for (label, other), count in Counter(zip(labels, predicted, strict=True)).items():
            counts[at_row[label], at_column[other]] = count
        return Confusion([self.name(each) for each in rows], [self.name(each) for each in columns], counts)

    def write_csv(self, path: Path) -> None:
        """Write a row per image: path, label, predicted class, its probability, and whether it is right (1 or 0).

        An image without a file has the number of its row, from 1; one without a label leaves two cells empty.

        Raises:
            TenreoError: when the file can not be written.
        """
        rows = []
        for i, (source, label, predicted, sure) in enumerate(zip(self.paths, *self._columns(), strict=True)):
            known = label >= 0
            rows.append([
                source or f"#{i + 1}", self.name(label) if known else "", self.name(predicted), f"{sure:.6f}",
                int(label == predicted) if known else "",
            ])  # fmt: skip
        _write(path, COLUMNS, rows)


def predict(
    model: nn.Module,
    predictions: Predictions,
    amp: bool = False,
    *,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Go through batches that need no labels.

    Args:
        model: on the batches' device, in evaluation mode.
        predictions: of the batches, to be filled.
        amp: autocast to `half`.
        progress: called with the number of images done.

    Raises:
        TenreoError: when no image can be read.
    """
    device = predictions.batches.device
    autocast = torch.autocast(device.type, half(device)) if amp else nullcontext()
    with torch.inference_mode(), parametrize.cached(), autocast:
        for images, labels in predictions.batches:
            predictions.add(model(images).float(), labels)
            if progress is not None:
                progress(len(labels))
    if not predictions.paths:
        raise TenreoError("no image to predict; give at least one that can be read")


def answers(model: nn.Module, batches: Batches, amp: bool = False) -> dict[str, int]:
    """The class that a model names first for every file, by its path.

    Args:
        model: on the batches' device, in evaluation mode.
        batches: of images that have files.
        amp: autocast to `half`.

    Raises:
        TenreoError: when no image can be read.
    """
    predictions = Predictions(batches)
    predict(model, predictions, amp)
    return dict(zip(predictions.paths, predictions._columns()[1], strict=True))


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that are all different: ImageNet has two classes named crane."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)

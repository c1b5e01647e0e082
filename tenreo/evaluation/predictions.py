"""Predictions of a model for single images: accuracy per class, confusion matrix and CSV files."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tenreo.data.batches import Batches
from tenreo.devices import half_dtype
from tenreo.distributed import ProcessGroup
from tenreo.errors import TenreoError, printable
from tenreo.evaluation.ranking import predicted_classes
from tenreo.files.atomic import atomic_write
from tenreo.modules.copies import evaluating

COLUMNS = ("path", "label", "predicted", "confidence", "correct")


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy on the images of one class.

    Attributes:
        name: name or number of the class.
        images: number of its images.
        top1: top-1 accuracy on them, in percent.
        mistaken_for: class that is most often predicted wrongly for them; None if every prediction is correct.
    """

    name: str
    images: int
    top1: float
    mistaken_for: str | None


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix.

    Attributes:
        labels: names of the rows: all classes of the images.
        predicted: names of the columns: the same classes and all other predicted ones.
        counts: number of images per label and predicted class, (labels, predicted) int64.
    """

    labels: list[str]
    predicted: list[str]
    counts: Tensor

    def write_csv(self, path: Path) -> None:
        """Write one row per class, with its name in the column `label`.

        Raises:
            TenreoError: if the file cannot be written.
        """
        rows = ([name, *row] for name, row in zip(self.labels, self.counts.tolist(), strict=True))
        _write(path, ["label", *self.predicted], rows)


class _Batch(NamedTuple):
    number: int
    paths: list[str]
    labels: Tensor
    predicted: Tensor
    confidence: Tensor


class Predictions:
    """Predicted class and its probability for every image of batches.

    Args:
        batches: batches that the model is evaluated on.
        class_names: names of the model's outputs; empty if unknown.
    """

    def __init__(self, batches: Batches, class_names: Sequence[str] = ()) -> None:
        self.batches, self.class_names = batches, _distinct(class_names)
        self._batches: list[_Batch] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add the latest batch: logits (batch, classes) float32 and labels (batch,), -1 if unknown."""
        predicted = predicted_classes(logits)
        confidence = logits.softmax(1).gather(1, predicted[:, None])[:, 0]
        # The tensors stay on their device: copying would wait for it.
        self._batches.append(_Batch(self.batches.number, self.batches.paths, labels, predicted, confidence))

    def gather(self, group: ProcessGroup) -> None:
        """Collect the predictions of all processes, in the order of the images."""
        own = [_Batch(x.number, x.paths, x.labels.cpu(), x.predicted.cpu(), x.confidence.cpu()) for x in self._batches]
        self._batches = sorted(group.gather(own), key=lambda batch: batch.number)

    @property
    def paths(self) -> list[str]:
        """Paths of the images; empty for images without a file."""
        return [path for batch in self._batches for path in batch.paths]

    def _columns(self) -> tuple[list[int], list[int], list[float]]:
        if not self._batches:
            return [], [], []
        _, _, *columns = zip(*self._batches, strict=True)
        labels, predicted, confidence = (torch.cat(parts) for parts in columns)
        return labels.tolist(), predicted.tolist(), confidence.tolist()

    def name(self, label: int) -> str:
        """Return the name of a class, or its number if the name is unknown."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def classes(self) -> list[ClassAccuracy]:
        """Return the accuracy on every class that occurs among the labels, in the order of the labels."""
        predictions: dict[int, Counter[int]] = {}
        labels, predicted, _ = self._columns()
        for label, other in zip(labels, predicted, strict=True):
            predictions.setdefault(label, Counter())[other] += 1
        classes = []
        for label, counts in sorted(predictions.items()):
            images, hits = counts.total(), counts.pop(label, 0)
            mistaken_for = self.name(min(counts, key=lambda other: (-counts[other], other))) if counts else None
            classes.append(ClassAccuracy(self.name(label), images, 100 * hits / images, mistaken_for))
        return classes

    def confusion(self) -> Confusion:
        """Return the confusion matrix of the classes that occur."""
        labels, predicted, _ = self._columns()
        rows = sorted(set(labels))
        columns = sorted({*labels, *predicted})
        row_of, column_of = ({label: i for i, label in enumerate(each)} for each in (rows, columns))
        counts = torch.zeros(len(rows), len(columns), dtype=torch.int64, device="cpu")
        for (label, other), count in Counter(zip(labels, predicted, strict=True)).items():
            counts[row_of[label], column_of[other]] = count
        return Confusion([self.name(each) for each in rows], [self.name(each) for each in columns], counts)

    def write_csv(self, path: Path) -> None:
        """Write one row per image: path, label, predicted class, its probability, and whether it is correct (1 or 0).

        An image without a file has the number of its row, from 1, as path. For an image without a label, the cells
        `label` and `correct` are empty.

        Raises:
            TenreoError: if the file cannot be written.
        """
        rows = []
        for i, (source, label, predicted, confidence) in enumerate(zip(self.paths, *self._columns(), strict=True)):
            labeled = label >= 0
            rows.append([
                source or f"#{i + 1}", self.name(label) if labeled else "", self.name(predicted), f"{confidence:.6f}",
                int(label == predicted) if labeled else "",
            ])  # fmt: skip
        _write(path, COLUMNS, rows)


def predict(
    model: nn.Module,
    predictions: Predictions,
    amp: bool = False,
    *,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Predict the classes of images, which need no labels.

    Args:
        model: model on the batches' device, in either mode.
        predictions: object that the predictions for its batches are added to.
        amp: whether to autocast to `half_dtype`.
        progress: function that is called with the number of images of every batch.

    Raises:
        TenreoError: if no image can be read.
    """
    device, model = predictions.batches.device, evaluating(model)
    with torch.inference_mode(), torch.autocast(device.type, half_dtype(device), enabled=amp):
        for images, labels in predictions.batches:
            predictions.add(model(images).float(), labels)
            if progress is not None:
                progress(len(labels))
    if not predictions.paths:
        raise TenreoError("no image to predict; give at least one that can be read")


def predict_labels(model: nn.Module, batches: Batches, amp: bool = False) -> dict[str, int]:
    """Return the predicted class of every image file, by its path.

    Args:
        model: model on the batches' device, in either mode.
        batches: images that have files.
        amp: whether to autocast to `half_dtype`.

    Raises:
        TenreoError: if no image can be read.
    """
    predictions = Predictions(batches)
    predict(model, predictions, amp)
    return dict(zip(predictions.paths, predictions._columns()[1], strict=True))


def _distinct(names: Sequence[str]) -> list[str]:
    """Append the number to names that occur twice: ImageNet has two classes named crane."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def _cell(value: object) -> object:
    r"""Return the content of a CSV cell without control characters, and without a formula that a spreadsheet would run.

    >>> _cell("=1+1"), _cell("cat\x1b[2J"), _cell(3)
    ("'=1+1", 'cat\\x1b[2J', 3)
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([_cell(value) for value in row] for row in (header, *rows))

"""Predictions for single images compared with scikit-learn's metrics."""

import csv

import numpy as np
import pytest
import torch
from networks import digits_classifier
from sklearn.metrics import confusion_matrix, recall_score
from torch import nn

from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images
from tenreo.evaluation.accuracy import evaluate
from tenreo.evaluation.predictions import Predictions, predict

CPU = torch.device("cpu")


@pytest.fixture
def predicted(digits):
    """Return (predictions, labels, predicted labels, confidence) for digits other than 7."""
    few = digits[1].limited(100)
    few.samples = [(image, label) for image, label in few.samples if label != 7]
    net = digits_classifier()
    batches = Batches(few, Loading(16), CPU)
    predictions = Predictions(batches)
    evaluate(net, batches, each=predictions.add)
    with torch.no_grad():
        logits = net.eval()(torch.stack([few[i][0] for i in range(len(few))]))
    confidence, names = logits.softmax(1).max(1)
    return predictions, np.array([label for _, label in few.samples]), names.numpy(), confidence.numpy()


def test_class_accuracy_and_confusion_equal_sklearns(predicted):
    predictions, labels, names, _ = predicted
    confusion = predictions.confusion()
    columns = sorted({*labels, *names})
    full = confusion_matrix(labels, names, labels=columns)
    assert confusion.predicted == [str(i) for i in columns]
    assert confusion.labels == [str(i) for i in range(10) if i != 7]
    assert confusion.counts.tolist() == full[[columns.index(int(i)) for i in confusion.labels]].tolist()
    classes = predictions.classes()
    recall = recall_score(labels, names, labels=range(10), average=None, zero_division=0)
    assert [c.top1 for c in classes] == pytest.approx([100 * recall[int(c.name)] for c in classes])
    assert [c.images for c in classes] == [int((labels == int(c.name)).sum()) for c in classes]
    for c in classes:
        wrong = [n for label, n in zip(labels, names, strict=True) if label == int(c.name) != n]
        assert c.mistaken_for is None if not wrong else wrong.count(int(c.mistaken_for)) == max(map(wrong.count, wrong))


def test_csv_has_one_row_per_image(predicted, tmp_path):
    predictions, labels, names, confidence = predicted
    predictions.write_csv(tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [r["path"] for r in rows] == [f"#{i + 1}" for i in range(len(labels))]
    assert [int(r["label"]) for r in rows] == labels.tolist() and [int(r["predicted"]) for r in rows] == names.tolist()
    assert [float(r["confidence"]) for r in rows] == pytest.approx(confidence.tolist(), abs=1e-5)
    assert [r["correct"] == "1" for r in rows] == (labels == names).tolist()


def test_csv_quotes_commas_and_distinguishes_equal_names(tmp_path):
    class Third(nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, 0.0, 9.0]]).expand(len(images), -1)

    images = Images([(np.zeros((8, 8), np.uint8), label) for label in (0, 1)], 3, lambda _: torch.zeros(3, 4, 4))
    batches = Batches(images, Loading(2), CPU)
    predictions = Predictions(batches, ("crane", "cat, tabby", "crane"))
    evaluate(Third(), batches, each=predictions.add)
    predictions.confusion().write_csv(tmp_path / "c.csv")
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert rows == [["label", "crane (0)", "cat, tabby", "crane (2)"],
                    ["crane (0)", "0", "0", "1"], ["cat, tabby", "0", "0", "1"]]  # fmt: skip


def test_images_without_labels_are_predicted(tmp_path, digits):
    few = digits[1].limited(5)
    few.samples, few.classes = [(image, -1) for image, _ in few.samples], 0
    predictions = Predictions(Batches(few, Loading(2), CPU))
    predict(digits_classifier(), predictions)
    predictions.write_csv(tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(rows) == 5 and {(r["label"], r["correct"]) for r in rows} == {("", "")}


def test_cells_of_a_csv_are_neither_formulas_nor_control_characters(tmp_path, predicted):
    predictions = predicted[0]
    predictions.class_names = ["=1+1", "+1", "-1", "@SUM(A1)", "\x1b[2J", "a\nb", "d,e", 'f"g', "h", "caf\u00e9"]
    predictions._batches[0].paths[:3] = ["=cmd|' /C calc'!A0", "\udcff.png", "-x.png"]
    predictions.write_csv(tmp_path / "p.csv")
    predictions.confusion().write_csv(tmp_path / "c.csv")
    for name in ("p.csv", "c.csv"):
        text = (tmp_path / name).read_text("utf-8")
        assert text.replace("\n", "").isprintable()
        cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
        assert cells and not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text("utf-8").splitlines()))
    assert [row["path"] for row in rows[:3]] == ["'=cmd|' /C calc'!A0", "\\udcff.png", "'-x.png"]

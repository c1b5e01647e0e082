"""Equal outputs: accuracy, predictions and agreement all choose the lowest class."""

import csv

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import nn

from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images
from tenreo.evaluation.accuracy import evaluate
from tenreo.evaluation.agreement import compare
from tenreo.evaluation.predictions import Predictions
from tenreo.evaluation.ranking import predicted_classes, ranks

CPU = torch.device("cpu")


class Table(nn.Module):
    """Return the row of a table of outputs that the first pixel of an image names."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, images):
        return self.table[images[:, 0, 0, 0].long()]


def numbered(labels):
    """Images whose pixels are their number."""
    samples = [(np.full((1, 1), i, np.uint8), label) for i, label in enumerate(labels)]
    return Images(samples, 10, lambda picture: torch.full((3, 1, 1), float(picture.getpixel((0, 0))[0])))


def close_to(shape, generator):
    """Outputs with many exact ties, and others whose probabilities are equal in float32 although they differ."""
    ties = generator.integers(0, 3, shape)
    close = np.float32(1) + generator.integers(0, 3, shape) * np.float32(2**-23)
    return torch.from_numpy(np.where(np.arange(shape[0])[:, None] % 2, ties, close).astype(np.float32))


def test_every_figure_follows_one_rule(tmp_path):
    generator = np.random.default_rng(0)
    outputs, labels = close_to((61, 10), generator), generator.integers(0, 10, 61)
    # The rank of every class when classes are sorted by output, and by number if outputs are equal.
    order = np.array([np.lexsort((np.arange(10), -row.double().numpy())) for row in outputs])
    place = np.array([list(row).index(label) for row, label in zip(order, labels, strict=True)])
    net, batches = Table(outputs).eval(), Batches(numbered(labels.tolist()), Loading(16), CPU)
    predictions = Predictions(batches)
    measured = evaluate(net, batches, each=predictions.add)
    assert round(measured.top1 * 61 / 100) == (place == 0).sum()
    assert round(measured.top5 * 61 / 100) == (place < 5).sum()
    predictions.write_csv(tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [int(row["predicted"]) for row in rows] == order[:, 0].tolist()
    assert [row["correct"] == "1" for row in rows] == (place == 0).tolist()
    assert sum(c.top1 * c.images for c in predictions.classes()) == pytest.approx(measured.top1 * 61)
    constant = Table(torch.zeros(61, 10)).eval()  # predicts class 0
    agreement = compare(net, constant, batches)
    assert agreement.top1 == pytest.approx(measured.top1)
    assert agreement.reference_top1 == pytest.approx(100 * (labels == 0).mean())
    assert agreement.agreement == pytest.approx(100 * (order[:, 0] == 0).mean())


@pytest.mark.parametrize("classes", [2, 7, 1000])
def test_ranks_equal_scipys(classes):
    generator = np.random.default_rng(classes)
    outputs, labels = close_to((40, classes), generator), torch.from_numpy(generator.integers(0, classes, 40))
    expected = rankdata(-outputs.double().numpy(), "ordinal", axis=1) - 1  # of equal values, the first comes first
    assert ranks(outputs, labels).tolist() == expected[np.arange(40), labels.numpy()].tolist()
    assert predicted_classes(outputs).tolist() == expected.argmin(1).tolist()

"""The difference between outputs, of detections in any order."""

from pathlib import Path

import pytest
import torch

from tenreo.errors import TenreoError
from tenreo.exporting.comparison import largest_difference

PATH = Path("model.onnx")


def detections(count, seed):
    """Boxes, labels, scores and masks."""
    draw = torch.Generator().manual_seed(seed)
    return [
        160 * torch.rand(count, 4, generator=draw), torch.randint(0, 9, (count,), generator=draw),
        torch.rand(count, generator=draw), torch.rand(count, 1, 6, 6, generator=draw),
    ]  # fmt: skip


def test_the_largest_difference_counts():
    x = torch.zeros(2, 3)
    assert largest_difference(PATH, [x, x + 1, "text"], [x, "other", x - 0.5]) == 1.5
    assert largest_difference(PATH, [torch.zeros(0, 4)], [torch.zeros(0, 4)]) == 0.0
    with pytest.raises(TenreoError, match=r"model\.onnx: is written, but its outputs have the shapes"):
        largest_difference(PATH, [x], [x, x])


def test_detections_are_compared_without_order():
    expected = detections(5, 0) + detections(0, 1) + detections(7, 2)
    swap = torch.tensor([1, 0, 4, 3, 2])
    outputs = [x[swap] for x in expected[:4]] + expected[4:8] + [x.flip(0) for x in expected[8:]]
    assert largest_difference(PATH, outputs, expected, images=3) == 0.0
    assert largest_difference(PATH, outputs, expected) > 1.0
    outputs[3][1, 0, 2, 3] += 0.25
    assert largest_difference(PATH, outputs, expected, images=3) == pytest.approx(0.25)


@pytest.mark.parametrize("given", [0, 1])
def test_one_detection_twice_is_not_two(given):
    expected = detections(3, 0)
    twice = [x[[0, 0, 1]] for x in expected]
    assert largest_difference(PATH, *((twice, expected) if given else (expected, twice)), images=1) > 0.1

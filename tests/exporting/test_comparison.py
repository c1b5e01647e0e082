"""How far outputs are apart, detections in any order."""

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


def test_it_is_that_of_the_number_that_differs_most():
    x = torch.zeros(2, 3)
    assert largest_difference(PATH, [x, x + 1, "text"], [x, "other", x - 0.5]) == 1.5
    assert largest_difference(PATH, [torch.zeros(0, 4)], [torch.zeros(0, 4)]) == 0.0
    with pytest.raises(TenreoError, match=r"model\.onnx: is written, but puts out"):
        largest_difference(PATH, [x], [x, x])


def test_detections_may_come_in_another_order():
    wanted = detections(5, 0) + detections(0, 1) + detections(7, 2)
    swap = torch.tensor([1, 0, 4, 3, 2])
    found = [x[swap] for x in wanted[:4]] + wanted[4:8] + [x.flip(0) for x in wanted[8:]]
    assert largest_difference(PATH, found, wanted, images=3) == 0.0
    assert largest_difference(PATH, found, wanted) > 1.0
    found[3][1, 0, 2, 3] += 0.25
    assert largest_difference(PATH, found, wanted, images=3) == pytest.approx(0.25)


@pytest.mark.parametrize("given", [0, 1])
def test_one_detection_twice_is_not_two(given):
    wanted = detections(3, 0)
    twice = [x[[0, 0, 1]] for x in wanted]
    assert largest_difference(PATH, *((twice, wanted) if given else (wanted, twice)), images=1) > 0.1

"""Accuracy and loss, counted by hand; devices."""

import time

import pytest
import torch
from networks import digits_classifier
from scipy import stats
from torch import nn

from tenreo.data.batches import Batches, Loading, Share
from tenreo.data.images import Images
from tenreo.devices import choose_device, memory_named
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import evaluate, wilson_interval

CPU = torch.device("cpu")


def test_evaluation_counts_as_counting_by_hand(digits):
    net, val = digits_classifier(), digits[1]
    measured = evaluate(net, Batches(val, Loading(100), CPU))
    x, y = zip(*(val[i] for i in range(len(val))), strict=True)
    with torch.no_grad():
        logits = net.eval()(torch.stack(x))
    order = logits.argsort(1, descending=True)
    y = torch.tensor(y)
    assert measured.images == 360
    assert measured.top1 == pytest.approx(100 * (order[:, 0] == y).float().mean().item(), abs=1e-4)
    assert measured.top5 == pytest.approx(100 * (order[:, :5] == y[:, None]).any(1).float().mean().item(), abs=1e-4)
    logp = logits.double() - logits.double().logsumexp(1, keepdim=True)
    assert measured.loss == pytest.approx(-logp[torch.arange(360), y].mean().item(), rel=1e-5)


def test_evaluation_puts_the_mode_back(digits):
    net = digits_classifier().train()
    evaluate(net, Batches(digits[1].limited(10), Loading(5), CPU))
    assert net.training


@pytest.mark.parametrize(
    ("name", "match"), [("gpu", "given 'gpu'"), ("cuda:99", "not available here"), ("meta", "not available")]
)
def test_devices_that_are_not_there(name, match):
    with pytest.raises(TenreoError, match=match):
        choose_device(name)


def test_shares_of_the_images_add_up(digits):
    """Two processes see every image once; the sums of both are those of one."""
    net, val = digits_classifier(), digits[1].limited(50)
    whole = evaluate(net, Batches(val, Loading(8), CPU))
    sums = []
    for rank in range(2):
        evaluate(net, Batches(val, Loading(8), CPU, share=Share(rank, 2)), total=lambda s: sums.append(s) or s)
    top1, top5, loss, seen, _ = sum(sums).tolist()
    assert seen == whole.images == 50
    assert (100 * top1 / 50, 100 * top5 / 50) == (whole.top1, whole.top5)
    assert loss / 50 == pytest.approx(whole.loss)


def test_few_classes_have_no_top5(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))
    few = digits[1].limited(40)
    few.samples = [(image, label % 5) for image, label in few.samples]
    assert evaluate(net, Batches(few, Loading(16), CPU)).top5 is None


def test_too_little_memory_names_a_smaller_batch():
    with pytest.raises(TenreoError, match="not enough memory for batch size 30; try batch size 15"), memory_named(30):
        raise torch.OutOfMemoryError


class Outputs(nn.Module):
    """The same outputs for every image."""

    def __init__(self, *values):
        super().__init__()
        self.register_buffer("values", torch.tensor(values))

    def forward(self, images):
        return self.values.expand(len(images), -1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 9])
def test_outputs_that_are_not_finite_are_an_error(digits, value, at):
    """Wherever they are: no image of this batch has the label 9."""
    few = digits[1].limited(40)
    few.samples = [(image, label % 9) for image, label in few.samples]
    values = [0.0] * 10
    values[at] = value
    with pytest.raises(TenreoError, match="an output of the model is not finite"):
        evaluate(Outputs(*values), Batches(few, Loading(16), CPU))


def test_labels_without_an_output_are_an_error(digits):
    with pytest.raises(TenreoError, match=r"an image has the label 9, .* outputs are \[9\]"):
        evaluate(Outputs(*[0.0] * 9), Batches(digits[1], Loading(360), CPU))


def test_too_little_memory_of_the_machine_is_told():
    with pytest.raises(TenreoError, match="the machine has not enough memory for batch size 9"), memory_named(9):
        torch.empty(2**50, dtype=torch.uint8)


@pytest.mark.parametrize(("correct", "images"), [(0, 10), (3, 10), (10, 10), (900, 1000), (1, 1)])
def test_the_interval_is_that_of_scipy(correct, images):
    theirs = stats.binomtest(correct, images).proportion_ci(0.95, "wilson")
    assert wilson_interval(correct, images) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-9)


def test_the_time_of_reading_is_told_apart(digits):
    class Slow(Images):
        def read(self, i):
            time.sleep(0.02)
            return super().read(i)

    few = digits[1].limited(20)
    slow = Slow(few.samples, 10, few.prepare)
    measured = evaluate(digits_classifier(), Batches(slow, Loading(5), CPU))
    assert 0.4 <= measured.reading_seconds < measured.seconds
    assert measured.model_images_per_second == pytest.approx(20 / (measured.seconds - measured.reading_seconds))
    assert measured.to_dict()["top1_interval"][0] <= measured.top1 <= measured.to_dict()["top1_interval"][1]

"""Accuracy, loss and speed compared with direct computations; devices."""

import time
from dataclasses import dataclass, field

import pytest
import torch
from networks import digits_classifier
from scipy import stats
from torch import nn

from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images
from tenreo.devices import choose_device, explain_out_of_memory
from tenreo.distributed import ProcessGroup
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import evaluate, wilson_interval
from tenreo.evaluation.agreement import compare
from tenreo.evaluation.predictions import Predictions

CPU = torch.device("cpu")


def test_accuracy_and_loss_equal_a_direct_computation(digits):
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


def test_evaluation_restores_the_training_mode(digits):
    net = digits_classifier().train()
    evaluate(net, Batches(digits[1].limited(10), Loading(5), CPU))
    assert net.training


@pytest.mark.parametrize(
    ("name", "match"), [("gpu", "given 'gpu'"), ("cuda:99", "not available on this machine"), ("meta", "not available")]
)
def test_unavailable_devices_are_rejected(name, match):
    with pytest.raises(TenreoError, match=match):
        choose_device(name)


@dataclass(frozen=True)
class InTurn(ProcessGroup):
    """Processes that run one after another; the last one gathers the items of all."""

    items: list = field(default_factory=list)

    def gather(self, items):
        self.items.extend(items)
        return list(self.items)


@pytest.mark.parametrize("size", [2, 3, 9])
def test_several_processes_give_the_numbers_of_one(digits, size):
    """Every image counts once, also if some processes have no batch."""
    net, val = digits_classifier(), digits[1].limited(50)
    alone = Batches(val, Loading(8), CPU)
    whole, expected = evaluate(net, alone), Predictions(alone)
    evaluate(net, alone, each=expected.add)
    other = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    agreement = compare(net, other, alone)
    sums, collected, compared = [], [], []
    for rank in range(size):
        group, rows = InTurn(rank, size, sums), InTurn(rank, size, collected)
        batches = Batches(val, Loading(8), CPU, rank=rank, world_size=size)
        predictions = Predictions(batches)
        result = evaluate(net, batches, each=predictions.add, group=group)
        predictions.gather(rows)
        total = compare(net, other, batches, group=InTurn(rank, size, compared))
    assert (result.images, result.top1, result.top5, result.loss) == (50, whole.top1, whole.top5, whole.loss)
    assert total == agreement and total.images == 50
    assert predictions.paths == expected.paths and predictions._columns() == expected._columns()


def test_five_classes_have_no_top5(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))
    few = digits[1].limited(40)
    few.samples = [(image, label % 5) for image, label in few.samples]
    assert evaluate(net, Batches(few, Loading(16), CPU)).top5 is None


def test_out_of_memory_on_the_gpu_suggests_a_smaller_batch():
    with (
        pytest.raises(TenreoError, match="does not have enough memory for batch size 30; try batch size 15"),
        explain_out_of_memory(30),
    ):
        raise torch.OutOfMemoryError


class Outputs(nn.Module):
    """Return the same outputs for every image."""

    def __init__(self, *values):
        super().__init__()
        self.register_buffer("values", torch.tensor(values))

    def forward(self, images):
        return self.values.expand(len(images), -1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 9])
def test_outputs_that_are_not_finite_are_an_error(digits, value, at):
    """Output 9 is checked although no image has the label 9."""
    few = digits[1].limited(40)
    few.samples = [(image, label % 9) for image, label in few.samples]
    values = [0.0] * 10
    values[at] = value
    with pytest.raises(TenreoError, match="an output of the model is not finite"):
        evaluate(Outputs(*values), Batches(few, Loading(16), CPU))


def test_labels_without_an_output_are_an_error(digits):
    with pytest.raises(TenreoError, match=r"an image has the label 9, .* outputs have the shape \[9\]"):
        evaluate(Outputs(*[0.0] * 9), Batches(digits[1], Loading(360), CPU))


def test_out_of_memory_on_the_machine_is_explained():
    with (
        pytest.raises(TenreoError, match="the machine does not have enough memory for batch size 9"),
        explain_out_of_memory(9),
    ):
        torch.empty(2**50, dtype=torch.uint8)


@pytest.mark.parametrize(("correct", "images"), [(0, 10), (3, 10), (10, 10), (900, 1000), (1, 1)])
def test_confidence_interval_equals_scipys(correct, images):
    expected = stats.binomtest(correct, images).proportion_ci(0.95, "wilson")
    assert wilson_interval(correct, images) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


def test_time_spent_reading_is_measured_separately(digits):
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

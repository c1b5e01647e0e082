"""Agreement of two models' outputs compared with direct computations."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import log_softmax
from torch import nn

from tenreo.data.batches import Batches, Loading
from tenreo.data.images import open_images, open_optionally_labeled
from tenreo.errors import TenreoError
from tenreo.evaluation.agreement import compare, compare_outputs
from tenreo.files.records import Preprocess

SMALL = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CPU = torch.device("cpu")


def linear(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()


def outputs(model, images):
    with torch.no_grad():
        return model(torch.stack([images[i][0] for i in range(len(images))])).double().numpy()


def test_agreement_and_divergence_equal_their_formulas():
    images = open_images("digits", "val", SMALL, 10).limited(50)
    model, reference = linear(0), linear(1)
    agreement = compare(model, reference, Batches(images, Loading(16), CPU))
    q, p = log_softmax(outputs(model, images), 1), log_softmax(outputs(reference, images), 1)
    labels = np.array([label for _, label in images.samples])
    assert agreement.images == 50
    assert agreement.kl == pytest.approx((np.exp(p) * (p - q)).sum(1).mean(), rel=1e-4)
    assert agreement.agreement == pytest.approx(100 * (p.argmax(1) == q.argmax(1)).mean())
    assert agreement.top1 == pytest.approx(100 * (q.argmax(1) == labels).mean())
    assert agreement.reference_top1 == pytest.approx(100 * (p.argmax(1) == labels).mean())


def test_a_model_agrees_with_itself():
    batches = Batches(open_images("digits", "val", SMALL, 10).limited(20), Loading(8), CPU)
    agreement = compare(linear(0), linear(0), batches)
    assert agreement.agreement == 100 and agreement.kl == pytest.approx(0, abs=1e-6)


def test_outputs_that_are_not_finite_are_rejected():
    broken = linear(0)
    with torch.no_grad():
        broken[1].bias[0] = torch.nan
    batches = Batches(open_images("digits", "val", SMALL, 10).limited(20), Loading(8), CPU)
    with pytest.raises(TenreoError, match="not finite"):
        compare(broken, linear(0), batches)


def test_images_without_labels_are_compared(tmp_path):
    for name in ("a.png", "deeper/b.png", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / name)
    images = open_optionally_labeled(str(tmp_path), SMALL, 10)
    assert len(images) == 2 and not images.labeled
    agreement = compare(linear(0), linear(1), Batches(images, Loading(2), CPU))
    assert agreement.top1 is None and agreement.reference_top1 is None and agreement.images == 2
    with pytest.raises(TenreoError, match="no such folder"):
        open_optionally_labeled(str(tmp_path / "nowhere"), SMALL, 10)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TenreoError, match="contains no image"):
        open_optionally_labeled(str(tmp_path / "empty"), SMALL, 10)


class Sequences(nn.Module):
    """Two outputs of which neither has classes."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x, mask):
        return {"states": self.factor * x, "ids": x.argmax(1), "pooled": self.factor * x.sum(2)}


def test_outputs_of_any_form_are_compared_by_their_signal_to_noise_ratio():
    model, reference = Sequences(1.5).eval(), Sequences(1.0).train()
    batches = [{"x": torch.randn(n, 4, 3), "mask": None} for n in (5, 2)]
    result = compare_outputs(model, reference, batches)
    assert result.snr == pytest.approx(10 * np.log10(1 / 0.25)) and result.examples == 7 and reference.training
    assert result.to_dict() == {"snr": result.snr, "agreement": None, "kl": None, "examples": 7}
    assert compare_outputs(reference, reference, batches).to_dict()["snr"] is None  # infinite, which is not JSON
    with pytest.raises(TenreoError, match="no classes"):
        compare(model, reference, batches)
    with pytest.raises(TenreoError, match=r"the shape \[5, 10\] in one model and \[5, 4\] in the other"):
        compare(nn.Linear(3, 10), nn.Linear(3, 4), [torch.randn(5, 3)])
    with pytest.raises(TenreoError, match="give at least one"):
        compare(model, reference, [])

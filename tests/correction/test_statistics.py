"""Correction of statistics: the formulas against independent implementations, and all supported inputs."""

import copy
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

import tenreo
from tenreo.correction.moments import PRIOR
from tenreo.correction.noise import noise_batch
from tenreo.errors import TenreoError
from tenreo.evaluation.agreement import compare

RECIPE = tenreo.Recipe(4, tenreo.Uniform(20.0), include=("3",), refine=0)
MEAN, VAR = "running_mean", "running_var"


def net(norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), norm(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), norm(64), nn.ReLU(),
    )  # fmt: skip
    return settled(model, 3, 8, 8)


def settled(model, *shape):
    """Set BatchNorms to random affine parameters and statistics of a trained model, in place; return the model."""
    torch.manual_seed(1)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(getattr(m, MEAN, None), torch.Tensor):
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_()
                m.running_mean.normal_(0, 0.2)
                m.running_var.uniform_(0.5, 1.5)
        for _ in range(20):
            model(torch.randn(16, *shape))
    return model.eval()


def pair(norm=nn.BatchNorm2d):
    dense = net(norm)
    small = copy.deepcopy(dense)
    tenreo.compress_(small, RECIPE)
    return small, dense


def perturbed(dense, name):
    """Return a copy with the output of a layer scaled and shifted, which a correction can undo entirely."""
    changed = copy.deepcopy(dense)
    layer = changed.get_submodule(name)
    with torch.no_grad():
        layer.weight.mul_(0.5)
        layer.bias.mul_(0.5).add_(0.3)
    return changed


def remaining_error(changed, dense, x, before):
    """Return the output error of a corrected model, relative to the error before the correction."""
    with torch.no_grad():
        return ((changed(x) - dense(x)).norm() / (before(x) - dense(x)).norm()).item()


def moments(x):
    rows = x.double().transpose(0, 1).flatten(1)
    return rows.mean(1), rows.var(1, correction=0)


def by_hand(small, dense, batches, norms, prior):
    """Compute the matched statistics independently, with hooks that replace the outputs of nn.BatchNorm."""
    measured = {}

    def replace(model, name, other):
        norm = model.get_submodule(name)

        def hook(_, inputs, __):
            x = inputs[0].double()
            m, v = moments(x)
            measured.setdefault((id(model), name), []).append((m, v, x.numel() // len(m)))
            n = x.numel() // len(m)
            t = n / (n + prior)
            rm, rv = dense.get_submodule(name).running_mean, dense.get_submodule(name).running_var
            am, av = rm, rv
            if other is None:
                mean, var = t * m + (1 - t) * am, t * v + (1 - t) * av
            else:
                dm, dv, _ = measured[id(other), name][-1]
                bm, bv = t * dm + (1 - t) * am, t * dv + (1 - t) * av
                ratio = ((v + norm.eps) / (dv + norm.eps)) ** t
                mean, var = bm * ratio.sqrt() + t * (m - dm * ratio.sqrt()), bv * ratio
            shape = (1, -1) + (1,) * (x.dim() - 2)
            y = (x - mean.reshape(shape)) / (var.reshape(shape) + norm.eps).sqrt()
            return (y * norm.weight.reshape(shape) + norm.bias.reshape(shape)).float()

        return norm.register_forward_hook(hook)

    handles = [replace(dense, n, None) for n in norms] + [replace(small, n, dense) for n in norms]
    with torch.no_grad():
        for x in batches:
            dense(x)
            small(x)
    for handle in handles:
        handle.remove()
    result = {}
    for name in norms:
        pooled = []
        for model in (dense, small):
            calls = measured[id(model), name]
            total = sum(n for *_, n in calls)
            mean = sum(m * n for m, _, n in calls) / total
            pooled += [mean, sum((v + (m - mean) ** 2) * n for m, v, n in calls) / total]
        dm, dv, cm, cv = pooled
        t, norm = total / (total + prior), dense.get_submodule(name)
        ratio = ((cv + norm.eps) / (dv + norm.eps)) ** t
        result[name] = (
            norm.running_mean * ratio.sqrt() + t * (cm - dm * ratio.sqrt()),
            norm.running_var * ratio,
        )
    return result


@pytest.mark.parametrize("sizes", [(32,), (12, 20), (2, 1, 2)])
def test_matching_equals_the_formula_with_batch_statistics(sizes):
    small, dense = pair()
    torch.manual_seed(3)
    batches = [2 * torch.randn(n, 3, 8, 8) + 1 for n in sizes]
    wanted = by_hand(copy.deepcopy(small), copy.deepcopy(dense), batches, ("1", "4"), PRIOR)
    done = tenreo.match_statistics_(small, dense, batches)
    assert (done.batchnorms, done.biases, done.images, done.note) == (2, 0, sum(sizes), "")
    for name, (mean, var) in wanted.items():
        torch.testing.assert_close(small.get_submodule(name).running_mean, mean.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(small.get_submodule(name).running_var, var.float(), rtol=1e-4, atol=1e-5)


def test_on_many_values_matching_equals_the_formula_without_a_prior():
    small, dense = pair()
    x = torch.randn(256, 3, 8, 8)
    with torch.no_grad():
        (dm, dv), (cm, cv) = (moments(copy.deepcopy(m)[:4].train()(x)) for m in (dense, small))  # 16,384 values
    tenreo.match_statistics_(small, dense, x)
    var = dense[4].running_var * cv / dv
    mean = cm + (dense[4].running_mean - dm) * (cv / dv).sqrt()
    torch.testing.assert_close(small[4].running_var, var.float(), rtol=1e-2, atol=5e-3)
    torch.testing.assert_close(small[4].running_mean, mean.float(), rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("images", [torch.randn(64, 3, 8, 8), None])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d])
def test_a_scaled_and_shifted_layer_is_undone(norm, images):
    dense = net(norm)
    changed = perturbed(dense, "3")
    x = torch.randn(8, 3, 8, 8)
    done = tenreo.match_statistics_(changed, dense, images, size=8)
    assert done.batchnorms == 2
    assert remaining_error(changed, dense, x, perturbed(dense, "3")) < 0.05


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Linear(6, 16), nn.BatchNorm1d(16)), (6,)),
        ((nn.Conv1d(6, 16, 3), nn.BatchNorm1d(16)), (6, 9)),
        ((nn.Conv3d(2, 16, 3), nn.BatchNorm3d(16)), (2, 5, 5, 5)),
    ],
)
def test_batchnorm_of_every_dimension(layers, shape):
    dense = settled(nn.Sequential(*copy.deepcopy(layers)), *shape)
    changed = perturbed(dense, "0")
    x = torch.randn(4096, *shape)
    tenreo.match_statistics_(changed, dense, [x])
    assert remaining_error(changed, dense, x, perturbed(dense, "0")) < 0.05


def test_a_batchnorm_with_an_activation_is_corrected():
    class BatchNormAct(nn.BatchNorm2d):  # like timm's BatchNormAct2d
        def forward(self, x):
            return super().forward(x).relu()

    dense = settled(nn.Sequential(nn.Conv2d(3, 16, 3), BatchNormAct(16)), 3, 8, 8)
    changed, x = perturbed(dense, "0"), torch.randn(256, 3, 8, 8)
    tenreo.match_statistics_(changed, dense, x)
    assert remaining_error(changed, dense, x, perturbed(dense, "0")) < 0.05


def test_on_any_images_batchnorm_outputs_have_mean_beta_and_deviation_gamma():
    dense = net()
    outputs = []
    handle = dense[1].register_forward_hook(lambda _, __, y: outputs.append(y))
    measured = []
    for x in (torch.randn(64, 3, 8, 8), 100 * torch.rand(64, 3, 8, 8) - 30):
        tenreo.match_statistics_(copy.deepcopy(dense), dense, x)
        measured += outputs[:2]  # of both models; those that follow are compared
        outputs.clear()
    handle.remove()
    norm = dense[1]
    for y in measured:
        mean, var = moments(y)
        torch.testing.assert_close(mean.float(), norm.bias.detach(), rtol=0.02, atol=0.02)
        torch.testing.assert_close(var.sqrt().float(), norm.weight.detach(), rtol=0.02, atol=0.02)


def test_matching_an_unchanged_model_changes_nothing():
    dense = net()
    for batches in (None, [torch.randn(1, 3, 8, 8)], [torch.zeros(2, 3, 8, 8)]):
        same = copy.deepcopy(dense)
        tenreo.match_statistics_(same, dense, batches, size=8)
        for key, value in same.state_dict().items():
            torch.testing.assert_close(value, dense.state_dict()[key])


class Shared(nn.Module):
    """One head, with BatchNorm or a bias, that runs on three levels of very different scale."""

    def __init__(self, norm):
        super().__init__()
        self.norm = nn.BatchNorm2d(64) if norm else nn.Identity()
        self.head = nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x):
        levels = (x, 3 * x[..., ::2, ::2] + 1, 0.1 * x[..., ::4, ::4] - 2)
        return torch.cat([self.head(self.norm(self.head(level))).flatten(1) for level in levels], 1)


@pytest.mark.parametrize("norm", [True, False])
def test_a_layer_that_runs_several_times_is_compared_call_by_call(norm):
    dense = settled(Shared(norm), 64, 8, 8)
    same, small = copy.deepcopy(dense), copy.deepcopy(dense)
    tenreo.compress_(same, tenreo.Recipe(4, tenreo.Uniform(1.0), ("head",), refine=0))
    tenreo.compress_(small, tenreo.Recipe(4, tenreo.Uniform(8.0), ("head",), refine=0))
    x = torch.randn(16, 64, 8, 8)
    plain = (small(x) - dense(x)).norm()
    for batches in (x, x.split(4)):
        tenreo.match_statistics_(same, dense, batches)
        assert (same(x) - dense(x)).norm() < 1e-5 * dense(x).norm()
    tenreo.match_statistics_(small, dense, x)
    assert (small(x) - dense(x)).norm() < plain


def test_a_call_that_only_one_model_makes_is_ignored():
    class Several(nn.Module):
        def __init__(self, runs):
            super().__init__()
            self.conv, self.norm, self.runs = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), runs

        def forward(self, x):  # like a detector's head, which runs once per detected box
            return [self.norm(self.conv((1 + 2 * i) * x + i)) for i in range(self.runs)]

    dense = settled(Several(2), 3, 8, 8)
    batches = torch.randn(64, 3, 8, 8).split(16)
    means = []
    for runs, others in ((1, 2), (1, 1), (2, 1)):
        changed, twin = perturbed(dense, "conv"), copy.deepcopy(dense)
        changed.runs, twin.runs = runs, others
        tenreo.match_statistics_(changed, twin, batches)
        means.append(changed.norm.running_mean)
    torch.testing.assert_close(means[0], means[1])
    torch.testing.assert_close(means[2], means[1])


def test_one_value_per_channel_and_constant_channels_stay_finite():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 64, 1),
        nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4, bias=False),
    )  # fmt: skip
    dense = settled(model, 3, 8, 8)
    small = copy.deepcopy(dense)
    tenreo.compress_(small, RECIPE)
    x = torch.randn(64, 3, 8, 8)
    plain = (small(x) - dense(x)).norm()
    for batch in (torch.randn(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.ones(3, 3, 8, 8)):
        corrected = copy.deepcopy(small)
        tenreo.match_statistics_(corrected, dense, batch)
        assert (corrected(x) - dense(x)).norm() < 1.2 * plain  # a single value per channel must do no harm
    tenreo.match_statistics_(small, dense, torch.randn(256, 3, 8, 8))
    assert (small(x) - dense(x)).norm() < 0.8 * plain


def conv_pair():
    """Return a compressed and a dense model without BatchNorm."""
    dense = nn.Sequential(*net(lambda _: nn.Identity()))
    small = copy.deepcopy(dense)
    tenreo.compress_(small, RECIPE)
    return small, dense


def test_without_batchnorm_the_bias_preserves_mean_over_deviation():
    small, dense = conv_pair()
    x = torch.randn(256, 3, 8, 8)
    done = tenreo.match_statistics_(small, dense, [x])
    assert (done.batchnorms, done.biases) == (0, 1)
    with torch.no_grad():
        (mean, var), (mean_small, var_small) = moments(dense[:4](x)), moments(small[:4](x))
    torch.testing.assert_close(mean_small / var_small.sqrt(), mean / var.sqrt(), rtol=1e-2, atol=1e-2)


def test_on_noise_half_of_the_bias_correction_is_applied():
    changes = []
    for images in (None, next(noise_batch(conv_pair()[1], 8, 0))):
        small, dense = conv_pair()
        before = small[3].bias.detach().clone()
        tenreo.match_statistics_(small, dense, images, size=8)
        changes.append((small[3].bias - before).detach())
    torch.testing.assert_close(changes[0], 0.5 * changes[1], rtol=1e-4, atol=1e-5)
    assert changes[0].abs().max() > 1e-3


def test_the_channels_of_a_linear_layer_are_its_last_dimension():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 64))
    small = copy.deepcopy(dense)
    tenreo.compress_(small, tenreo.Recipe(4, tenreo.Uniform(20.0), ("0",), refine=0))
    x = torch.randn(64, 9, 64) + torch.randn(64)
    tenreo.match_statistics_(small, dense, x)
    with torch.no_grad():
        (mean, var), (mean_small, var_small) = (moments(m(x).transpose(1, 2)) for m in (dense, small))
    torch.testing.assert_close(mean_small / var_small.sqrt(), mean / var.sqrt(), rtol=0.1, atol=0.1)


def test_calibration_moves_by_the_part_beyond_two_standard_errors():
    """The expected statistics are computed image by image in NumPy."""
    small = perturbed(net(), "0")
    small[1].eps = 0.1
    torch.manual_seed(4)
    x = torch.randn(24, 3, 8, 8) * torch.rand(24, 1, 1, 1) * 2
    norm = copy.deepcopy(small[1])
    with torch.no_grad():
        z = small[0](x).double().flatten(2).numpy()  # (images, channels, pixels)
    std = np.sqrt(norm.running_var.double().numpy() + norm.eps)
    z = (z - norm.running_mean.double().numpy()[:, None]) / std[:, None]
    mean = z.mean((0, 2))
    spread = ((z - mean[:, None]) ** 2).mean(2)  # (images, channels): their means are the variances
    var = spread.mean(0) + norm.eps / std**2
    fractions = [
        max(0, 1 - 4 * (values.var(0) / (24 - 1) / scale).mean() / (change**2).mean())
        for values, scale, change in ((z.mean(2), 1, mean), (spread, var**2, np.log(var)))
    ]
    assert min(fractions) > 0.05 and max(fractions) < 0.999
    done = tenreo.calibrate_(small, [x])
    got = small[1].running_mean.double().numpy(), small[1].running_var.double().numpy()
    np.testing.assert_allclose(got[0], norm.running_mean.numpy() + fractions[0] * mean * std, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got[1] + norm.eps, std**2 * var ** fractions[1], rtol=1e-3)
    assert "% of what the means say" in done.note and done.batchnorms == 2


def test_calibration_of_a_good_model_on_few_images_changes_little():
    dense = net()
    torch.manual_seed(5)
    x, few = (
        torch.randn(256, 3, 8, 8),
        torch.randn(4, 3, 8, 8) * torch.tensor([0.1, 0.3, 1, 2]).reshape(4, 1, 1, 1),
    )
    tenreo.calibrate_(dense, x.split(64))  # the model now has accurate statistics
    same, naive = copy.deepcopy(dense), copy.deepcopy(dense).train()
    naive[1].momentum = naive[4].momentum = 1.0
    naive(few)
    tenreo.calibrate_(same, few)
    assert remaining_error(same, dense, x, naive.eval()) < 0.3


def test_calibration_on_many_images_undoes_a_change():
    dense = net()
    torch.manual_seed(6)
    x = torch.randn(512, 3, 8, 8)
    tenreo.calibrate_(dense, x.split(64))
    changed = perturbed(dense, "3")
    tenreo.calibrate_(changed, x.split(64))
    assert remaining_error(changed, dense, x, perturbed(dense, "3")) < 0.05


def test_the_correction_of_a_dead_channel_is_bounded():
    dense = settled(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)), 3, 8, 8)
    with torch.no_grad():
        dense[0].weight[0] = 0
    changed = copy.deepcopy(dense)
    with torch.no_grad():
        changed[0].weight[0, 0, 0, 0] = 1e-3
    tenreo.match_statistics_(changed, dense, torch.randn(64, 3, 8, 8))
    assert changed[1].running_var[0] < 1.2 * dense[1].running_var[0]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)
        self.aux = nn.BatchNorm2d(64)  # used only in training

    def forward(self, x):
        y = self.norm(self.conv(x))
        return y + self.aux(y) if self.training else y


def test_an_unreached_layer_is_unchanged_and_named():
    dense = Branches().eval()
    small = perturbed(dense, "conv").train()
    before = copy.deepcopy(small.aux.state_dict())
    done = tenreo.match_statistics_(small, dense, torch.randn(64, 3, 8, 8))
    assert done.batchnorms == 1 and "aux" in done.note and "1 not reached: aux" in str(done)
    assert all(torch.equal(before[k], v) for k, v in small.aux.state_dict().items())


def test_only_running_statistics_of_the_compressed_model_change():
    small, dense = pair()
    small.train()
    small[1].eval()
    x = torch.randn(32, 3, 8, 8)
    first, second = copy.deepcopy(small.state_dict()), copy.deepcopy(dense.state_dict())
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in (*small.modules(), *dense.modules())]
    tenreo.match_statistics_(small, dense, x)
    tenreo.calibrate_(small, x)
    assert [m.training for m in small] == [True, False, True, True, True, True] and not dense.training
    assert all(torch.equal(second[k], v) for k, v in dense.state_dict().items())
    changed = {k for k, v in small.state_dict().items() if not torch.equal(first[k], v)}
    assert changed == {f"{i}.{s}" for i in (1, 4) for s in (MEAN, VAR)}
    after = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in (*small.modules(), *dense.modules())]
    assert after == hooks


def in_threads(*calls):
    """Make all calls at the same time in threads of their own, and return their results or errors."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        try:
            return call()
        except TenreoError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


@pytest.mark.parametrize("training", [False, True])
def test_threads_that_share_a_dense_model_get_the_result_of_one_thread(training, tmp_path):
    """Each thread corrects a copy of its own; others compare, export and run the dense model at the same time."""
    small, dense = pair()
    x = torch.randn(8, 3, 8, 8)
    wanted_outputs = dense(x)
    dense.train(training)
    kinds = [[torch.randn(16, 3, 8, 8) * (i + 1) + i for _ in range(6)] for i in range(3)]
    pairs = [(torch.randn(16, 3, 8, 8), torch.full((16,), -1)) for _ in range(4)]

    def corrected(images):
        own = copy.deepcopy(small)
        tenreo.match_statistics_(own, dense, images)
        return own.state_dict()

    def agreement():
        flat = (nn.Sequential(model, nn.Flatten()) for model in (small, dense))
        return compare(*flat, pairs)

    def exported():
        tenreo.export(dense, tmp_path / "dense.pth", inputs=x)
        return torch.load(tmp_path / "dense.pth")

    calls = [*(partial(corrected, images) for images in kinds), agreement, exported]
    serial, parallel = [call() for call in calls], in_threads(*calls)
    for one, other in zip(serial[:3], parallel[:3], strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert serial[3] == parallel[3]
    assert all(torch.equal(value, dense.state_dict()[name]) for name, value in parallel[4].items())
    assert all(module.training == training for module in dense.modules())
    torch.testing.assert_close(dense.eval()(x), wanted_outputs, rtol=0, atol=0)


def test_a_model_is_corrected_by_one_thread_at_a_time():
    small, dense = pair()
    batches = [torch.randn(16, 3, 8, 8) for _ in range(3)]
    meeting = threading.Barrier(2)

    def waiting():
        for batch in batches:
            meeting.wait(10)
            yield batch
        meeting.wait(10)

    def others():
        meeting.wait(10)
        refusals = []
        for call in (
            lambda: tenreo.match_statistics_(small, dense, batches),
            lambda: tenreo.calibrate_(small, batches),
            lambda: tenreo.calibrate_(dense, batches),
        ):
            with pytest.raises(TenreoError, match="another thread is changing or measuring this model") as refusal:
                call()
            refusals.append(refusal)
        for _ in batches:
            meeting.wait(10)
        return refusals

    wanted = copy.deepcopy(small)
    tenreo.match_statistics_(wanted, dense, batches)
    done, refusals = in_threads(lambda: tenreo.match_statistics_(small, dense, waiting()), others)
    assert done.batchnorms == 2 and len(refusals) == 3
    assert all(torch.equal(wanted.state_dict()[k], v) for k, v in small.state_dict().items())
    assert tenreo.calibrate_(dense, batches).batchnorms == 2  # the models are free again


def test_a_correction_that_harms_is_not_applied():
    """BatchNorms with their initial statistics do not describe their inputs, so no correction can be based on them."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(64, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(4)]
    dense = nn.Sequential(nn.Conv2d(3, 64, 3), *blocks).eval()
    small = copy.deepcopy(dense)
    tenreo.compress_(small, tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0))
    before = copy.deepcopy(small.state_dict())
    for images in (None, torch.randn(32, 3, 16, 16)):
        done = tenreo.match_statistics_(small, dense, images, size=16)
        lowered = re.search(r"not applied, because it lowered the SNR of the outputs from (\S+) to (\S+) dB", done.note)
        assert lowered and (done.batchnorms, done.biases) == (0, 0)
        assert float(lowered[2]) < float(lowered[1])
        assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())
    with torch.no_grad():
        wanted, given = dense(images), small(images)
    snr = 10 * math.log10(wanted.square().sum() / (wanted - given).square().sum())
    assert float(lowered[1]) == pytest.approx(snr, abs=0.06)


def test_outputs_that_cannot_be_compared_do_not_prevent_a_correction():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.found = nn.BatchNorm2d(3), 0

        def forward(self, x):
            self.found += 1
            return {"boxes": self.norm(x).flatten()[: self.found], "kept": None, "number": torch.tensor(self.found)}

    dense = Counting().eval()
    images = torch.randn(64, 3, 8, 8) * 5 + 3
    for forward in (None, lambda model, batch: [model(batch)] * 0):
        assert tenreo.match_statistics_(copy.deepcopy(dense), dense, images, forward=forward).batchnorms == 1


def test_a_failure_or_an_interruption_changes_nothing():
    small, dense = pair()
    before = copy.deepcopy(small.state_dict())

    def stop(_):
        raise KeyboardInterrupt

    x = torch.randn(8, 3, 8, 8)
    for call in (
        lambda: tenreo.match_statistics_(small, dense, x, progress=stop),
        lambda: tenreo.match_statistics_(small, dense, [x, x[:, :2]]),
        lambda: tenreo.calibrate_(small, [x, x[:, :2]]),
    ):
        with pytest.raises((KeyboardInterrupt, TenreoError)):
            call()
        assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in (*small, *dense))


class Two(nn.Module):
    """Network that takes an image, a mask and an optional scale."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)

    def forward(self, image, mask, scale=1.0):
        return self.norm(self.conv(image * mask * scale))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)

    def forward(self, images, targets=None):
        assert isinstance(images, list)
        return [self.norm(self.conv(x[None])) for x in images]


X = torch.randn(6, 3, 8, 8)
LABELS = torch.arange(6)
BATCHES = {
    "a tensor": (net, X, None, 6),
    "tensors": (net, X.split(2), None, 6),
    "a generator": (net, lambda: (x for x in X.split(2)), None, 6),
    "pairs": (net, list(zip(X.split(2), LABELS.split(2), strict=True)), None, 6),
    "lists of two": (net, [[X, LABELS]], None, 6),
    "a loader": (net, torch.utils.data.DataLoader(list(zip(X, LABELS, strict=True)), 4), None, 6),
    "two inputs": (Two, [(X, X.abs(), LABELS)], None, 6),
    "a dictionary": (Two, [{"image": X, "mask": X.abs(), "label": LABELS}], None, 6),
    "one dictionary": (Two, {"image": X, "mask": X.abs()}, None, 6),
    "images of a detector": (Detector, [list(X), list(X[:, :, :5])], None, 12),
    "and their targets": (Detector, [(list(X), [{"labels": n} for n in LABELS])], None, 6),
    "forward": (Two, [{"x": X}], lambda model, batch: model(batch["x"], batch["x"].abs()), 6),
}


@pytest.mark.parametrize("form", BATCHES)
def test_every_form_of_batches_is_accepted(form):
    build, batches, forward, count = BATCHES[form]
    torch.manual_seed(0)
    dense = build().eval()
    norm = next(n for n, m in dense.named_modules() if isinstance(m, nn.BatchNorm2d))
    for correct in (tenreo.match_statistics_, lambda model, _, *a, **kw: tenreo.calibrate_(model, *a, **kw)):
        changed = perturbed(dense, next(n for n, m in dense.named_modules() if isinstance(m, nn.Conv2d)))
        counts = []
        given = batches() if callable(batches) else batches
        done = correct(changed, dense, given, forward=forward, progress=counts.append)
        assert done.images == count == sum(counts) and done.batchnorms >= 1
        assert not torch.equal(changed.get_submodule(norm).running_mean, dense.get_submodule(norm).running_mean)


def test_a_model_without_anything_to_correct_is_reported():
    dense = nn.Sequential(nn.Linear(64, 64, bias=False))
    small = copy.deepcopy(dense)
    tenreo.compress_(small, tenreo.Recipe(4, tenreo.Uniform(4.0), refine=0))
    before = copy.deepcopy(small.state_dict())
    done = tenreo.match_statistics_(small, dense, [torch.randn(4, 64)])
    assert "nothing corrected" in str(done) and "no compressed layer with a bias" in str(done)
    assert "no BatchNorm" in str(tenreo.match_statistics_(small, dense))
    assert "no BatchNorm" in str(tenreo.calibrate_(small, torch.randn(4, 64)))
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())


def test_an_empty_iterator_is_an_error():
    small, dense = pair()
    empty = iter(())
    with pytest.raises(TenreoError, match="photographs contained no batch"):
        tenreo.match_statistics_(small, dense, empty, source="photographs")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_noise_has_the_models_dtype_and_size(dtype):
    dense = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval().to(dtype)
    inputs = []
    dense[0].register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    dense.pretrained_cfg = {"input_size": (3, 24, 24)}  # as in timm's models
    tenreo.match_statistics_(copy.deepcopy(dense), dense)
    tenreo.match_statistics_(copy.deepcopy(dense), dense, size=8, seed=1)
    assert [x.dtype for x in inputs[-2:]] == [dtype] * 2
    assert [x.shape[1:] for x in inputs if x.shape[-1] == 24] and inputs[-1].shape[1:] == (3, 8, 8)


def test_swapped_arguments_are_refused_before_anything_changes():
    small, dense = pair()
    before = [copy.deepcopy(model.state_dict()) for model in (small, dense)]
    x = torch.randn(8, 3, 8, 8)
    for call, message in (
        (lambda: tenreo.match_statistics_(dense, small, x), "first has none, so the arguments are swapped"),
        (lambda: tenreo.match_statistics_(nn.DataParallel(dense), nn.DataParallel(small), x), "are swapped"),
        (lambda: tenreo.match_statistics_(copy.deepcopy(small), small, x), "second model has a compressed layer '3'"),
        (lambda: tenreo.match_statistics_(small, x), "given an object of type Tensor, needs a torch.nn.Module"),
        (lambda: tenreo.calibrate_(x, small), "given an object of type Tensor, needs a torch.nn.Module"),
        (lambda: tenreo.compress_(dense.state_dict(), RECIPE), "OrderedDict, needs a torch.nn.Module"),
        (lambda: tenreo.expand_(dense.state_dict()), "OrderedDict, needs a torch.nn.Module"),
    ):
        with pytest.raises(TenreoError, match=message):
            call()
        for model, state in zip((small, dense), before, strict=True):
            assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_other_models_and_unknown_sizes_are_refused():
    small, dense = pair()
    with pytest.raises(TenreoError, match="size of the model's input is not known"):
        tenreo.match_statistics_(small, dense)
    with pytest.raises(TenreoError, match="dense model has no BatchNorm2d named '1'"):
        tenreo.match_statistics_(small, nn.Sequential(nn.Conv2d(3, 64, 3)), size=8)
    with pytest.raises(TenreoError, match="are the same object; pass a copy"):
        tenreo.match_statistics_(small, small, size=8)
    with pytest.raises(TenreoError, match=r"cannot process images of shape \[2, 5, 8, 8\]"):
        tenreo.match_statistics_(small, dense, [torch.randn(2, 5, 8, 8)])
    flat = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(TenreoError, match="no example can be generated"):
        tenreo.match_statistics_(flat, copy.deepcopy(flat), size=8)


@pytest.mark.parametrize("images", [5, "photos"])
def test_images_that_are_no_batches_are_refused(images):
    with pytest.raises(TenreoError, match=rf"images: given '?{images}'?, needs a tensor, or an iterable of batches"):
        tenreo.calibrate_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), images)

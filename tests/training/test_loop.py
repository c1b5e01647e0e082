"""Tests of fine-tuning on real images: learning, resuming and stopping."""

import math
from copy import copy, deepcopy
from functools import partial
from itertools import pairwise

import pytest
import torch
from networks import digits_classifier
from safetensors.torch import load_file
from torch import nn
from torch._inductor import config

import tenreo
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import open_images
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import evaluate
from tenreo.training.compilation import explain_compiler
from tenreo.training.loop import finetune_
from tenreo.training.observer import Observer
from tenreo.training.settings import Settings
from tenreo.training.state import StateFile
from tenreo.training.trainer import Resources

CPU = torch.device("cpu")


def plain_net():
    torch.manual_seed(2)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 10))


class StopAfter(Observer):
    """Asks to stop after a number of steps."""

    def __init__(self, steps):
        self.left = steps

    def should_stop(self):
        self.left -= 1
        return self.left < 0


def test_training_learns(digits):
    few = digits[0], digits[1].limited(60)
    history = finetune_(digits_classifier(), *few, Settings(epochs=4, lr=0.1, batch_size=32))
    assert history[-1].train_loss < 0.9 * history[1].train_loss  # measured: 0.83


def test_resume_repeats_the_uninterrupted_run_exactly(digits, tmp_path):
    digits = digits[0], digits[1].limited(60)
    settings = Settings(epochs=3, lr=0.05, batch_size=32, seed=5)
    whole = digits_classifier()
    expected = finetune_(whole, *digits, settings)

    class Stop(Exception):
        pass

    class StopIn2(Observer):
        def on_step(self, step):
            if step.epoch == 2:
                raise Stop

    part = digits_classifier()
    state = tmp_path / "run.state"
    with pytest.raises(Stop):
        finetune_(part, *digits, settings, state=StateFile(state), observer=StopIn2())
    again = digits_classifier()
    history = finetune_(again, *digits, settings, state=StateFile(state, resume=True))
    assert [(e.train_loss, e.top1, e.loss) for e in history] == [(e.train_loss, e.top1, e.loss) for e in expected]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(TenreoError, match=r"made with lr 0.05, now 0.1"):
        finetune_(
            digits_classifier(),
            *digits,
            Settings(epochs=3, lr=0.1, batch_size=32, seed=5),
            state=StateFile(state, resume=True),
        )
    with pytest.raises(TenreoError, match="there is nothing to resume"):
        finetune_(digits_classifier(), *digits, settings, state=StateFile(tmp_path / "none", resume=True))


def test_too_few_images_are_an_error(digits):
    one = digits[0].limited(1), digits[1].limited(4)
    with pytest.raises(TenreoError, match="no batch to train on: given 1 images, needs at least 2 per process"):
        finetune_(digits_classifier(), *one, Settings())


def test_the_learning_rate_is_divided_by_ten_after_15_epochs(digits):
    few = digits[0].limited(4), digits[1].limited(4)
    history = finetune_(digits_classifier(), *few, Settings(epochs=17, lr=0.01))
    assert [e.lr for e in history[15:]] == [0.01, pytest.approx(0.001), pytest.approx(0.001)]


class Saver(Observer):
    """Writes the model after every epoch."""

    def __init__(self, net, path):
        self.net, self.path = net, path

    def on_epoch(self, epoch, is_best):
        tenreo.save(self.net, self.path)


class Overflowing(nn.Module):
    """Net whose BatchNorm meets a variance that overflows in one step, although the loss of this step is finite."""

    def __init__(self, value):
        super().__init__()
        self.steps, self.value = 0, value
        self.norm, self.net = nn.BatchNorm2d(3), plain_net()

    def forward(self, images):
        self.steps += self.training
        if self.training and self.steps == 4:  # the last step of the second epoch
            self.norm.running_var[1] = self.value
        return self.net(images)


@pytest.mark.parametrize(
    ("net", "lr", "steps", "epoch"),
    [
        (plain_net, 1e30, 4, 1),  # nan in a step
        (plain_net, 1e30, 1, 1),  # finite weights after the only step, but outputs that are not
        (partial(Overflowing, math.nan), 0.01, 2, 2),
        (partial(Overflowing, math.inf), 0.01, 2, 2),
    ],
)
def test_divergence_is_named_and_leaves_the_files_of_earlier_epochs(digits, tmp_path, net, lr, steps, epoch):
    """It ended in "cannot be written: running_var contains NaN" or "inspect its file"."""
    few, net = (digits[0].limited(32), digits[1].limited(16)), net()
    model, state = tmp_path / "last.safetensors", tmp_path / "run.state"
    settings = Settings(epochs=3, lr=lr, batch_size=32 // steps, momentum=0, weight_decay=0, schedule="constant")
    with pytest.raises(TenreoError, match=rf"^the loss became (nan|inf) in epoch {epoch}.* smaller learning rate"):
        finetune_(net, *few, settings, state=StateFile(state), observer=Saver(net, model))
    assert all(tensor.isfinite().all() for tensor in load_file(model).values())
    assert len(torch.load(state, weights_only=True)["progress"]["history"]) == epoch
    assert all(value.isfinite().all() for value in torch.load(state, weights_only=True)["parts"]["model"].values())


def test_training_follows_its_schedule(digits):
    few = digits[0].limited(64), digits[1].limited(4)
    settings = Settings(epochs=4, lr=0.01, batch_size=16, schedule="cosine", warmup=2)
    history = finetune_(digits_classifier(), *few, settings)
    assert [e.lr for e in history[1:]] == pytest.approx(
        [0.005, 0.01, 0.01 * cosine_factor(3 / 8), 0.01 * cosine_factor(7 / 8)]
    )


def cosine_factor(part):
    return (1 + math.cos(math.pi * part)) / 2


@pytest.mark.parametrize("how", [{}, {"warmup": 1.0}, {"schedule": "step"}, {"epochs": 2}])
def test_every_epoch_of_one_step_trains(digits, how):
    """The cosine had the rate 0 in the last step, so a run of one step changed nothing."""
    few, net, weights = (digits[0].limited(16), digits[1].limited(4)), plain_net(), []

    class Recorder(Observer):
        def on_step(self, step):
            weights.append(net[2].weight.detach().clone())

    finetune_(net, *few, Settings(**{"lr": 0.1, "batch_size": 16, "schedule": "cosine", **how}), observer=Recorder())
    assert not any(torch.equal(*pair) for pair in pairwise([plain_net()[2].weight, *weights]))


STATELESS = (  # these options add nothing to the state of a run
    {"label_smoothing": 0.1, "clip": 1.0}, {"channels_last": True}, {"freeze": "dense", "lr": 0.2},
    {"freeze_batchnorm": True}, {"dense_lr_scale": 2.0},
)  # fmt: skip


@pytest.mark.parametrize(
    "how",
    [
        {"optimizer": "adamw", "lr": 0.01}, {"ema": 0.9}, {"amp": True}, {"accumulate": 2, "batch_size": 16},
        {"mixup": 0.2, "cutmix": 1.0, "lr": 0.2}, {"erase": 0.5, "augment": "randaugment"},
        {"amp_dtype": "float16", "amp": True}, {"patience": 2},
        *(pytest.param(how, marks=pytest.mark.slow) for how in STATELESS),
    ],
    ids=lambda how: next(iter(how)),
)  # fmt: skip
def test_every_training_option_learns_and_resumes_exactly(digits, tmp_path, how, small):
    settings = Settings(**{"epochs": 2, "lr": 0.1, "batch_size": 32, "save_every": 2, "augment": "standard", **how})
    train = open_images("digits", "train", small, 10, settings.augment, erase=settings.erase)
    data = train.limited(128), digits[1].limited(16)
    whole, state = digits_classifier(), tmp_path / "run.state"
    part, again = deepcopy(whole), deepcopy(whole)
    expected = finetune_(whole, *data, settings)
    assert expected[2].train_loss < expected[1].train_loss
    with pytest.raises(KeyboardInterrupt):  # in the second epoch, between two regular saves
        finetune_(part, *data, settings, state=StateFile(state), observer=StopAfter(8))
    history = finetune_(again, *data, settings, state=StateFile(state, resume=True))
    assert [(e.train_loss, e.train_top1, e.top1, e.loss) for e in history] == [
        (e.train_loss, e.train_top1, e.top1, e.loss) for e in expected
    ]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.slow
def test_a_failure_of_the_compiler_is_one_line(digits, monkeypatch):
    class Stopping(Observer):
        def should_stop(self):
            return True

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    settings = Settings(lr=0.05, batch_size=32, compile=True)
    why = r"compile: torch.compile cannot compile the model: .*compiler.*leave out"
    with pytest.raises(TenreoError, match=why) as failure:
        finetune_(digits_classifier(), *(images.limited(32) for images in digits), settings)
    with pytest.raises(KeyboardInterrupt), explain_compiler(Stopping()):  # Ctrl-C also reaches the compiler
        raise failure.value.__cause__


def test_a_compiled_run_trains_like_a_plain_one(digits, monkeypatch):
    data = digits[0].limited(64), digits[1].limited(32)
    plain = finetune_(digits_classifier(), *data, Settings(lr=0.05, batch_size=32))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # needs no C++ compiler
    compiled = finetune_(digits_classifier(), *data, Settings(lr=0.05, batch_size=32, compile=True))
    assert compiled[1].train_loss == pytest.approx(plain[1].train_loss, rel=1e-5)


def test_distillation_needs_a_teacher_and_learns_from_it(digits):
    data = digits[0].limited(96), digits[1].limited(32)
    with pytest.raises(TenreoError, match="distill: needs a teacher"):
        finetune_(digits_classifier(), *data, Settings(distill=True))
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    settings = Settings(epochs=3, lr=0.05, batch_size=32, distill=True, distill_weight=1.0, temperature=2)
    history = finetune_(digits_classifier(), *data, settings, teacher=teacher)
    assert history[-1].train_loss < 0.5 * history[1].train_loss


def test_the_loss_is_the_mean_over_all_images_of_uneven_batches(digits):
    few = digits[0].limited(50), digits[1].limited(10)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    x, y = zip(*(few[0][i] for i in range(50)), strict=True)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(net(torch.stack(x)), torch.tensor(y))
    history = finetune_(net, *few, Settings(lr=0.0, batch_size=16))
    assert history[1].train_loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.cuda
def test_cuda_trains_with_amp_and_the_compiler(digits):
    settings = Settings(epochs=2, lr=0.05, batch_size=32, amp=True, channels_last=True, compile=True)
    history = finetune_(digits_classifier(), *digits, settings, resources=Resources(torch.device("cuda")))
    assert history[2].train_loss < history[1].train_loss


def test_an_observer_receives_every_step_and_epoch(digits):
    few = digits[0].limited(50), digits[1].limited(40)

    class Recorder(Observer):
        steps, epochs, best = (), (), ()

        def on_step(self, step):
            self.steps += (step,)

        def on_epoch(self, epoch, is_best):
            self.epochs += (epoch,)
            self.best += (is_best,)

    recorded = Recorder()
    history = finetune_(digits_classifier(), *few, Settings(epochs=3, lr=0.1, batch_size=16), observer=recorded)
    assert list(recorded.epochs) == history
    assert [(s.epoch, s.step, s.steps, s.images) for s in recorded.steps] == [
        (epoch, step, 4, images) for epoch in (1, 2, 3) for step, images in enumerate((16, 16, 16, 2), 1)
    ]
    top1 = [e.top1 for e in history]
    assert list(recorded.best) == [all(top1[i] > earlier for earlier in top1[:i]) for i in range(4)]
    for epoch in history[1:]:
        own = [s for s in recorded.steps if s.epoch == epoch.epoch]
        assert epoch.train_loss == pytest.approx(sum(s.loss * s.images for s in own) / 50)
        assert epoch.train_top1 == pytest.approx(sum(s.top1 * s.images for s in own) / 50)


def test_positions_stay_and_the_model_ends_in_evaluation_mode(digits):
    few, net = (digits[0].limited(32), digits[1].limited(8)), digits_classifier()
    before = {name: value for name, value in net.state_dict().items() if name.endswith("positions")}
    finetune_(net, *few, Settings(lr=0.1, batch_size=16))
    assert before and not net.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_epoch_0_is_the_evaluation_before_training(digits):
    """Epoch 0 has the results of `evaluate` for the initial model."""
    few, net = (digits[0].limited(64), digits[1].limited(100)), digits_classifier()
    expected = evaluate(digits_classifier(), Batches(few[1], Loading(100), CPU))
    start = finetune_(net, *few, Settings(epochs=2, lr=0.1, batch_size=32))[0]
    assert (start.epoch, start.steps, start.lr, start.train_loss, start.train_top1) == (0, 0, None, None, None)
    assert (start.top1, start.top5) == (expected.top1, expected.top5)
    assert start.loss == pytest.approx(expected.loss)


def test_a_state_with_an_impossible_step_is_refused(digits, tmp_path):
    few, state = (digits[0].limited(64), digits[1].limited(10)), tmp_path / "run.state"
    settings = Settings(batch_size=16, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        finetune_(digits_classifier(), *few, settings, state=StateFile(state), observer=StopAfter(3))
    values = torch.load(state, weights_only=True)
    assert (values["progress"]["step"], values["progress"]["seen"]) == (3, 48)
    for step, seen in ((10**9, 48), (3, 47), (5, 80)):
        values["progress"] |= {"step": step, "seen": seen, "correct": 1}
        torch.save(values, state)
        with pytest.raises(TenreoError, match=r"run\.state: is damaged"):
            finetune_(digits_classifier(), *few, settings, state=StateFile(state, resume=True))


def test_a_run_resumes_only_with_the_same_model_and_images(digits, tmp_path):
    few, settings = (digits[0].limited(32), digits[1].limited(10)), Settings(batch_size=16)
    path = tmp_path / "run.state"
    finetune_(digits_classifier(), *few, settings, state=StateFile(path, start="a"))
    again = finetune_(digits_classifier(), *few, settings, state=StateFile(path, True, start="a"))
    assert [epoch.epoch for epoch in again] == [0, 1]
    other = digits[0].limited(33)
    other.samples = other.samples[1:]
    for data, start, message in (
        (few, "b", "from another model's file"), ((other, few[1]), "a", "training images of other"),
        ((few[0], digits[1].limited(11)), "a", "evaluation images of other"),
    ):  # fmt: skip
        with pytest.raises(TenreoError, match=message):
            finetune_(digits_classifier(), *data, settings, state=StateFile(path, True, start=start))


def test_batches_of_one_image_train_if_the_model_allows_it(digits):
    few = digits[0].limited(3), digits[1].limited(10)
    history = finetune_(digits_classifier(), *few, Settings(batch_size=1))
    assert history[1].steps == 3
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 10))
    recorded = []

    class Recorder(Observer):
        def on_epoch(self, epoch, is_best):
            recorded.append(epoch)

    with pytest.raises(TenreoError, match=r"^batch_size: given 1, .*more than 1 value per channel.* at least 2"):
        finetune_(net, *few, Settings(batch_size=1), observer=Recorder())
    assert not recorded and net[1].num_batches_tracked == 0


@pytest.mark.parametrize("affine", [True, False])
def test_frozen_batchnorms_keep_their_statistics(digits, affine):
    few = digits[0].limited(32), digits[1].limited(10)
    net = digits_classifier()
    net[1] = nn.BatchNorm2d(16, affine=affine)
    before = [value.clone() for value in net[1].state_dict().values()]
    finetune_(net, *few, Settings(batch_size=16, freeze="dense", ema=0.5))
    assert all(torch.equal(a, b) for a, b in zip(before, net[1].state_dict().values(), strict=True))
    finetune_(net, *few, Settings(batch_size=16, freeze="coefficients"))
    assert net[1].num_batches_tracked == 2


def test_accumulated_gradients_are_those_of_the_whole_batch(digits):
    """The net has no BatchNorm, whose statistics depend on the batch; 41 images make uneven batches."""
    few = digits[0].limited(41), digits[1].limited(8)
    one, many = plain_net(), plain_net()
    first = finetune_(one, *few, Settings(epochs=2, lr=0.1, batch_size=16, clip=0.5))
    second = finetune_(many, *few, Settings(epochs=2, lr=0.1, batch_size=4, accumulate=4, clip=0.5))
    assert [e.train_loss for e in first[1:]] == pytest.approx([e.train_loss for e in second[1:]], rel=1e-5)
    assert [(e.steps, e.train_top1) for e in first] == [(e.steps, e.train_top1) for e in second]
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_batch_of_one_trains_with_frozen_batchnorm(digits):
    def net():
        torch.manual_seed(1)
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 10))

    few = digits[0].limited(8), digits[1].limited(8)
    with pytest.raises(TenreoError, match=r"batch_size: given 1, .* or freeze BatchNorm"):
        finetune_(net(), *few, Settings(batch_size=1))
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    finetune_(model, *few, Settings(batch_size=1, accumulate=2, freeze_batchnorm=True, lr=0.1))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"3.weight", "3.bias"} and all(p.requires_grad for p in model.parameters())


def test_patience_ends_new_and_resumed_runs(digits, tmp_path):
    few = digits[0].limited(32), digits[1].limited(16)
    settings, state = Settings(epochs=9, lr=0.0, patience=2), tmp_path / "s.state"
    assert [e.epoch for e in finetune_(plain_net(), *few, settings, state=StateFile(state))] == [0, 1, 2]
    again = finetune_(plain_net(), *few, settings, state=StateFile(state, resume=True))
    assert [e.epoch for e in again] == [0, 1, 2]


def test_dense_lr_scale_applies_to_all_other_parameters(digits):
    few = digits[0].limited(16), digits[1].limited(4)
    changes = {}
    for scale in (1.0, 3.0, 0.0):
        net = digits_classifier()
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        settings = Settings(lr=0.01, batch_size=16, dense_lr_scale=scale, momentum=0, weight_decay=0)
        finetune_(net, *few, settings)
        changes[scale] = {name: p.detach() - before[name] for name, p in net.named_parameters()}
    coefficients = [name for name in changes[1.0] if "parametrizations" in name]
    assert 0 < len(coefficients) < len(changes[1.0])
    for name, change in changes[1.0].items():
        factor = {s: 1.0 if name in coefficients else s for s in (3.0, 0.0)}
        for scale, expected in factor.items():
            torch.testing.assert_close(changes[scale][name], expected * change, rtol=1e-3, atol=1e-6)


def test_distillation_needs_no_labels(digits):
    few = digits[0].limited(96), digits[1].limited(32)
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    settings = Settings(epochs=2, lr=0.05, batch_size=32, distill=True, distill_weight=1.0, mixup=0.2)
    with_labels, without = plain_net(), plain_net()
    expected = finetune_(with_labels, *few, settings, teacher=teacher)
    bare = few[0].limited(96)
    bare = copy(bare)
    bare.samples, bare.classes = [(image, -1) for image, _ in bare.samples], 0
    history = finetune_(without, bare, few[1], settings, teacher=teacher)
    assert [e.train_loss for e in history] == [e.train_loss for e in expected]
    for a, b in zip(with_labels.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)


def test_running_averages_end_as_the_results_of_the_epoch(digits):
    class Last(Observer):
        def on_step(self, step):
            self.step = step

    last = Last()
    history = finetune_(
        plain_net(), digits[0].limited(50), digits[1].limited(8), Settings(batch_size=16), observer=last
    )
    assert (last.step.epoch_loss, last.step.epoch_top1) == (history[-1].train_loss, history[-1].train_top1)

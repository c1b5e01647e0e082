"""Data, evaluation and fine-tuning on real images."""

import pytest
import torch
from conftest import SMALL
from torch import nn

import tenreo
from tenreo.data import Batches, open_images
from tenreo.errors import TenreoError
from tenreo.evaluation import choose_device, evaluate
from tenreo.finetuning import Settings, default_lr, finetune_
from tenreo.schedule import factor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return open_images("digits", "train", SMALL, 10).limited(192), open_images("digits", "val", SMALL, 10)


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 64, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10),
    )  # fmt: skip
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("3", "8")))
    return net


def test_evaluation_counts_as_counting_by_hand(digits):
    net, val = network(), digits[1]
    measured = evaluate(net, Batches(val, 100, CPU))
    x, y = zip(*(val[i] for i in range(len(val))), strict=True)
    with torch.no_grad():
        logits = net.eval()(torch.stack(x))
    order = logits.argsort(1, descending=True)
    y = torch.tensor(y)
    assert measured.images == 360
    assert measured.top1 == pytest.approx(100 * (order[:, 0] == y).float().mean().item(), abs=1e-4)
    assert measured.top5 == pytest.approx(
        100 * (order[:, :5] == y[:, None]).any(1).float().mean().item(), abs=1e-4
    )
    logp = logits.double() - logits.double().logsumexp(1, keepdim=True)
    assert measured.loss == pytest.approx(-logp[torch.arange(360), y].mean().item(), rel=1e-5)


def test_evaluation_puts_the_mode_back(digits):
    net = network().train()
    evaluate(net, Batches(digits[1].limited(10), 5, CPU))
    assert net.training


def test_training_learns(digits):
    history = finetune_(network(), *digits, Settings(epochs=4, lr=0.1, batch_size=32), device=CPU)
    assert history[-1].train_loss < 0.9 * history[0].train_loss
    assert history[-1].top1 > 20


def test_resume_repeats_the_uninterrupted_run_exactly(digits, tmp_path):
    settings = Settings(epochs=3, lr=0.05, batch_size=32, seed=5)
    whole = network()
    expected = finetune_(whole, *digits, settings, device=CPU)

    class Stop(Exception):
        pass

    def stop(step):
        if step.epoch == 2:
            raise Stop

    part = network()
    state = tmp_path / "run.state"
    with pytest.raises(Stop):
        finetune_(part, *digits, settings, device=CPU, state=state, progress=stop)
    again = network()
    history = finetune_(again, *digits, settings, device=CPU, state=state, resume=True)
    assert [(e.train_loss, e.top1, e.loss) for e in history] == [
        (e.train_loss, e.top1, e.loss) for e in expected
    ]
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
    )
    with pytest.raises(TenreoError, match=r"made with lr 0.05, now 0.1"):
        finetune_(
            network(),
            *digits,
            Settings(epochs=3, lr=0.1, batch_size=32, seed=5),
            device=CPU,
            state=state,
            resume=True,
        )
    with pytest.raises(TenreoError, match="nothing to resume"):
        finetune_(network(), *digits, settings, device=CPU, state=tmp_path / "none", resume=True)


def test_too_few_images_and_a_state_without_a_file_are_told(digits):
    one = digits[0].limited(1), digits[1].limited(4)
    with pytest.raises(
        TenreoError, match="no batch to train on: given 1 images, needs at least 2 per process"
    ):
        finetune_(network(), *one, Settings(), device=CPU)
    with pytest.raises(TenreoError, match="resume: needs the file of the state"):
        finetune_(network(), *one, Settings(), device=CPU, resume=True)


def test_the_rate_is_divided_by_ten_from_epoch_15(digits):
    few = digits[0].limited(4), digits[1].limited(4)
    history = finetune_(network(), *few, Settings(epochs=17, lr=0.01), device=CPU)
    assert [e.lr for e in history[14:]] == [0.01, pytest.approx(0.001), pytest.approx(0.001)]


def test_the_papers_learning_rates():
    assert default_lr("mobilenet_v2") == 0.0001 and default_lr("resnet50") == 0.00025


def test_a_loss_that_explodes_is_an_error(digits):
    with pytest.raises(TenreoError, match=r"the loss became .*smaller --lr"):
        finetune_(network(), *digits, Settings(epochs=20, lr=1e18), device=CPU)


def test_factors_of_the_schedules():
    at = [factor("cosine", 2, 10, done) for done in (0.5, 1, 2, 6, 10)]
    assert at == pytest.approx([0.25, 0.5, 1, 0.5, 0])
    assert [factor("step", 0, 20, done) for done in (0.1, 15, 15.1)] == [1, 1, 0.1]
    assert [factor("constant", 1, 20, done) for done in (0.1, 1, 15.1)] == [0.1, 1, 1]


def test_training_follows_its_schedule(digits):
    few = digits[0].limited(64), digits[1].limited(4)
    settings = Settings(epochs=4, lr=0.01, batch_size=16, schedule="cosine", warmup=2)
    history = finetune_(network(), *few, settings, device=CPU)
    assert [e.lr for e in history] == pytest.approx([0.005, 0.01, 0.005, 0])


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": -1},
        {"schedule": "linear"},
        {"warmup": 2.0},
        {"batch_size": 0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"seed": 2**63},
    ],
)
def test_settings_out_of_range(bad):
    with pytest.raises(TenreoError, match=next(iter(bad))):
        Settings(**bad)


@pytest.mark.parametrize(("name", "match"), [("gpu", "given 'gpu'"), ("cuda:99", "not available here"), ("meta", "not available")])  # fmt: skip
def test_devices_that_are_not_there(name, match):
    with pytest.raises(TenreoError, match=match):
        choose_device(name)


@pytest.mark.parametrize(
    "how",
    [
        {"optimizer": "adamw", "lr": 0.01}, {"label_smoothing": 0.1, "clip": 1.0}, {"ema": 0.9}, {"amp": True},
        {"channels_last": True}, {"freeze": "others", "lr": 0.2},
    ],
    ids=lambda how: next(iter(how)),
)  # fmt: skip
def test_every_way_of_training_learns_and_resumes_exactly(digits, tmp_path, how):
    settings = Settings(
        **{"epochs": 2, "lr": 0.1, "batch_size": 32, "save_every": 2, "augment": "standard", **how}
    )
    data = open_images("digits", "train", SMALL, 10, "standard").limited(128), digits[1].limited(64)
    whole, part, again, state = network(), network(), network(), tmp_path / "run.state"
    expected = finetune_(whole, *data, settings, device=CPU)
    assert expected[1].train_loss < expected[0].train_loss
    asked = iter([False] * 6 + [True] * 99)  # stops within the second epoch, between two saves
    with pytest.raises(KeyboardInterrupt):
        finetune_(part, *data, settings, device=CPU, state=state, stopping=lambda: next(asked))
    history = finetune_(again, *data, settings, device=CPU, state=state, resume=True)
    assert [(e.train_loss, e.train_top1, e.top1, e.loss) for e in history] == [
        (e.train_loss, e.train_top1, e.top1, e.loss) for e in expected
    ]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_compiled_run_trains_like_a_plain_one(digits, monkeypatch):
    from functools import partial

    data = digits[0].limited(64), digits[1].limited(32)
    plain = finetune_(network(), *data, Settings(lr=0.05, batch_size=32), device=CPU)
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="aot_eager")
    )  # needs no C++ compiler
    compiled = finetune_(network(), *data, Settings(lr=0.05, batch_size=32, compile=True), device=CPU)
    assert compiled[0].train_loss == pytest.approx(plain[0].train_loss, rel=1e-5)


def test_a_teacher_is_needed_and_followed(digits):
    data = digits[0].limited(96), digits[1].limited(32)
    with pytest.raises(TenreoError, match="distill: needs a teacher"):
        finetune_(network(), *data, Settings(distill=True), device=CPU)
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    settings = Settings(epochs=3, lr=0.05, batch_size=32, distill=True, distill_weight=1.0, temperature=2)
    history = finetune_(network(), *data, settings, device=CPU, teacher=teacher)
    assert history[-1].train_loss < 0.5 * history[0].train_loss


def test_the_loss_is_the_mean_over_all_images_of_uneven_batches(digits):
    few = digits[0].limited(50), digits[1].limited(10)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    x, y = zip(*(few[0][i] for i in range(50)), strict=True)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(net(torch.stack(x)), torch.tensor(y))
    history = finetune_(net, *few, Settings(lr=0.0, batch_size=16), device=CPU)
    assert history[0].train_loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("compile", [False, True])
def test_cuda_trains_with_amp(digits, compile):
    settings = Settings(epochs=2, lr=0.05, batch_size=32, amp=True, channels_last=True, compile=compile)
    history = finetune_(network(), *digits, settings, device=torch.device("cuda"))
    assert history[1].train_loss < history[0].train_loss


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu(digits):
    there = evaluate(network().cuda(), Batches(digits[1], 100, torch.device("cuda")))
    here = evaluate(network(), Batches(digits[1], 100, CPU))
    assert there.top1 == pytest.approx(here.top1, abs=0.6)
    finetune_(network(), *digits, Settings(epochs=1, lr=0.01), device=torch.device("cuda"))

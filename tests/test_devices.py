"""Everything that a model does on a GPU, on the pretended ones, and with `-m cuda` on a real one."""

import copy
import pickle
from functools import cache
from unittest.mock import patch

import pytest
import torch
from networks import two_norms
from torch import nn
from torch.nn.utils import parametrize

import tenreo
from tenreo.codec import cosine
from tenreo.compression.parametrization import curves, quantized_coefficients
from tenreo.data.batches import Batches, Loading
from tenreo.devices import choose_device
from tenreo.evaluation.accuracy import evaluate
from tenreo.evaluation.agreement import compare
from tenreo.evaluation.targets import compress_to_
from tenreo.training.loop import finetune_
from tenreo.training.settings import Settings
from tenreo.training.state import StateFile
from tenreo.training.trainer import Resources

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CHAIN, SHARED, ROW = RECIPES = (
    tenreo.Recipe(4, tenreo.Uniform(4.0), refine=0),
    tenreo.Recipe(4, tenreo.Uniform(4.0), refine=2),
    tenreo.Recipe(None, tenreo.TargetSize(30_000)),
)
recipes = pytest.mark.parametrize("recipe", RECIPES, ids=["permuted", "shared", "one row"])


def dense():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def small(recipe=SHARED, device="cpu"):
    model = dense().to(device)
    tenreo.compress_(model, recipe, jobs=1)
    return model


@cache
def _on_cpu(number):
    return small(RECIPES[number])


def moved(recipe=SHARED, device="cpu"):
    """Return a model that was compressed on the CPU, for tests of anything but compression."""
    return copy.deepcopy(_on_cpu(RECIPES.index(recipe))).to(device)


def close(there, here, atol=1e-4):
    assert there.device.type != "cpu" and here.device.type == "cpu"
    torch.testing.assert_close(there.detach().cpu(), here.detach(), atol=atol, rtol=1e-3)


@recipes
def test_outputs_and_gradients_are_those_of_the_cpu(gpu, recipe):
    here, there = moved(recipe), moved(recipe, gpu)
    close(there(X.to(gpu)), here(X))
    for model, x in ((here, X), (there, X.to(gpu))):
        model(x).square().mean().backward()
    for own, other in zip(there.parameters(), here.parameters(), strict=True):
        close(own.grad, other.grad)


@recipes
def test_compressing_on_a_device_gives_what_the_cpu_gives(gpu, recipe):
    here, there = (list(curves(model)) for model in (moved(recipe), small(recipe, gpu)))
    for own, other in zip(there, here, strict=True):
        assert own.weight.errors.snr == pytest.approx(other.weight.errors.snr, abs=1e-3)
        assert torch.equal(own.weight.positions.cpu(), other.weight.positions)
        close(own.coefficients, other.coefficients)


def test_sweeps_and_allocation_on_a_device_give_what_the_cpu_gives(gpu):
    weight = torch.randn(4, 4200, generator=torch.Generator().manual_seed(0))
    here, there = (tenreo.encode(w, 4, 100, refine=4) for w in (weight, weight.to(gpu)))
    assert there.positions.device.type == there.coefficients.device.type == gpu.type
    assert torch.equal(there.positions.cpu(), here.positions)
    recipe = tenreo.Recipe(4, tenreo.Uniform(4.0), allocate=True, refine=0)
    here, there = ([c.coefficients.shape for c in curves(small(recipe, device))] for device in ("cpu", gpu))
    assert there == here


@pytest.mark.parametrize("precision", ["float16", "int6"])
def test_number_formats_of_coefficients(gpu, precision):
    recipe = tenreo.Recipe(4, tenreo.Uniform(4.0), refine=1, precision=precision)
    here, there = small(recipe), small(recipe, gpu)
    with quantized_coefficients(here), quantized_coefficients(there), torch.no_grad():
        close(there.eval()(X.to(gpu)), here.eval()(X), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_half_precision(gpu, dtype):
    model = moved(device=gpu).to(dtype)
    model(X.to(gpu, dtype)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_derivatives_of_higher_order(gpu):
    model = moved(device=gpu)
    curve = next(curves(model))
    c = curve.coefficients
    (gradient,) = torch.autograd.grad(curve.weight(c).square().sum(), c, create_graph=True)
    gradient.square().sum().backward()
    assert c.grad.device.type == gpu.type


def test_deterministic_algorithms(cuda):
    model = moved(device=cuda)
    torch.use_deterministic_algorithms(True)
    try:
        model(X.to(cuda)).square().mean().backward()
        curve = next(curves(model))
        curve.layer.weight = torch.randn(curve.weight.shape, device=cuda)
    finally:
        torch.use_deterministic_algorithms(False)
    assert model[3].weight.device.type == "cuda"


def test_inference_then_training(gpu):
    model = moved()
    for module in model.modules():  # moved without `Module.to`
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().to(gpu))
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = buffer.to(gpu)
    with torch.inference_mode(), parametrize.cached():
        first = model(X.to(gpu))
    assert torch.equal(first, model(X.to(gpu)))
    model(X.to(gpu)).sum().backward()


@pytest.mark.parametrize("images", [None, [X, X]], ids=["noise", "images"])
def test_statistics_are_corrected_as_on_the_cpu(gpu, images):
    base = two_norms()
    here = copy.deepcopy(base)
    tenreo.compress_(here, CHAIN)
    there = copy.deepcopy(here).to(gpu)
    tenreo.match_statistics_(here, base, images, size=8)
    tenreo.match_statistics_(there, copy.deepcopy(base).to(gpu), images, size=8)
    for own, other in zip(there.buffers(), here.buffers(), strict=True):
        close(own, other, atol=1e-3)
    tenreo.calibrate_(there, [X] * 2)


def test_biases_are_corrected_without_norms(gpu):
    base = two_norms(norm=False).to(gpu)
    model = copy.deepcopy(base)
    tenreo.compress_(model, CHAIN)
    tenreo.match_statistics_(model, base, size=8)
    assert not torch.equal(model[3].bias, base[3].bias) and model[3].bias.device.type == gpu.type


def test_assigning_expanding_copying_and_states(gpu):
    model = moved(device=gpu).eval()
    curve = next(curves(model))
    curve.layer.weight = torch.randn(curve.weight.shape, device=gpu)
    copied = copy.deepcopy(model)
    copied.load_state_dict(model.state_dict())
    pickle.loads(pickle.dumps(model))
    output = copied(X.to(gpu))
    tenreo.expand_(model)
    torch.testing.assert_close(model(X.to(gpu)), output, atol=1e-4, rtol=1e-3)
    assert type(model[3]) is nn.Conv2d


def test_saving_and_loading(gpu, tmp_path):
    model = moved(device=gpu).eval()
    tenreo.save(model, tmp_path / "a.safetensors")
    close(model(X.to(gpu)), tenreo.load(tmp_path / "a.safetensors", dense()).eval()(X), atol=1e-3)


@pytest.fixture
def few(digits):
    return digits[0].limited(16), digits[1].limited(16)


SETTINGS = {
    "plain": {},
    "amp": {"amp": True, "channels_last": True},
    "float16": {"amp": True, "amp_dtype": "float16", "clip": 1.0},
    "averaging": {"ema": 0.9, "label_smoothing": 0.1},
    "distilling": {"distill": True},
    "accumulating": {"optimizer": "adamw", "accumulate": 2, "freeze_batchnorm": True},
}


@pytest.mark.parametrize(
    "settings", [pytest.param(s, id=k, marks=() if "amp" in s else pytest.mark.slow) for k, s in SETTINGS.items()]
)
def test_fine_tuning(gpu, few, settings):
    settings = Settings(epochs=1, batch_size=8, lr=0.02, **settings)
    history = finetune_(moved(CHAIN), *few, settings, resources=Resources(gpu), teacher=dense())
    assert history[1].train_loss < 4


@pytest.mark.slow
def test_resuming(gpu, few, tmp_path):
    options = {"batch_size": 8, "lr": 0.02, "ema": 0.9, "optimizer": "adamw", "amp": True, "amp_dtype": "float16"}
    path = tmp_path / "state.pt"
    for epochs in (1, 2):
        settings, state = Settings(epochs=epochs, **options), StateFile(path, epochs == 2)
        history = finetune_(moved(CHAIN), *few, settings, resources=Resources(gpu), state=state)
    assert len(history) == 3


def test_evaluating_and_comparing(gpu, few):
    here, there = moved().eval(), moved(device=gpu).eval()
    expected = evaluate(here, Batches(few[1], Loading(8), torch.device("cpu")))
    found = evaluate(there, Batches(few[1], Loading(8), gpu))
    assert (found.top1, found.top5) == (expected.top1, expected.top5)
    assert found.loss == pytest.approx(expected.loss, abs=1e-3)
    assert evaluate(there, Batches(few[1], Loading(8), gpu), amp=True).loss == pytest.approx(expected.loss, abs=0.1)
    kl = [compare(m, dense().to(d).eval(), Batches(few[1], Loading(8), d)).kl
          for m, d in ((here, torch.device("cpu")), (there, gpu))]  # fmt: skip
    assert kl[1] == pytest.approx(kl[0], rel=0.01)


def test_an_evaluation_waits_once(counted, few):
    model, waits = moved(device=counted.device), []
    evaluate(model, Batches(few[1], Loading(16), counted.device))  # prepares the layers
    for size in (16, 4):
        counted.waits.clear()
        evaluate(model, Batches(few[1], Loading(size), counted.device))
        waits.append(counted.waits.total())
    assert waits[1] == waits[0] <= 1, counted.waits


def kernels_of_step(counted, model):
    """Return the number of kernels of a training step, which does not wait; the first step prepares the layers."""
    model, x = model.to(counted.device), X.to(counted.device)
    for _ in range(2):
        model.zero_grad()
        counted.operations.clear(), counted.waits.clear()
        model(x).square().mean().backward()
    assert not counted.waits
    return counted.operations.total()


@pytest.mark.parametrize(
    ("recipe", "most"), [(CHAIN, 8), (SHARED, 10), (ROW, 20)], ids=["permuted", "shared", "one row"]
)
def test_a_training_step_launches_few_kernels_and_never_waits(counted, recipe, most):
    model = moved(recipe)
    more = kernels_of_step(counted, model) - kernels_of_step(counted, dense())
    assert more <= most * len(list(curves(model)))


@pytest.mark.parametrize("recipe", [CHAIN, SHARED], ids=["permuted", "shared"])
@pytest.mark.parametrize("copies", [lambda m: m, copy.deepcopy], ids=["moved", "copied"])
def test_the_first_decoding_already_finds_the_order_and_the_factors(counted, recipe, copies):
    """Compiled code and CUDA graphs can read what a layer has, but can neither sort nor copy from the CPU."""
    curve = next(curves(copies(moved(recipe, counted.device))))
    cosine._twiddle.cache_clear()
    counted.operations.clear(), counted.waits.clear()
    curve.weight(curve.coefficients).sum().backward()
    assert not counted.waits and not {"sort", "argsort", "copy", "arange", "polar"} & set(counted.operations)


def test_a_deep_network_keeps_the_factors_of_all_its_layers():
    lengths = range(100, 400)
    held = [cosine.twiddles(length, 5, torch.float32, torch.device("cpu")) for length in lengths]
    again = [cosine.twiddles(length, 5, torch.float32, torch.device("cpu")) for length in lengths]
    assert all(a is b for both in zip(held, again, strict=True) for a, b in zip(*both, strict=True))


def test_images_travel_as_bytes(counted, digits):
    images = digits[1].limited(40)
    moved = []
    with patch.object(counted, "copied", lambda non_blocking: moved.append(non_blocking)):
        there = [x for x, _ in Batches(images, Loading(32), counted.device)]
    here = [x for x, _ in Batches(images, Loading(32), torch.device("cpu"))]
    assert all(moved)  # nothing waits
    for own, other in zip(there, here, strict=True):
        assert own.device.type == "cuda" and torch.equal(own.values_on_cpu, other)
    loaded = next(iter(Batches(images, Loading(32), counted.device).loader))
    assert loaded.images.dtype == torch.uint8


def test_a_chosen_gpu_becomes_the_current_one(cuda):
    before = torch.backends.cudnn.benchmark
    try:
        with patch.object(torch.cuda, "set_device") as set_device:
            assert choose_device("cuda:0").index == 0
        assert not torch.backends.cudnn.benchmark  # it would measure kernels again for every new shape
        choose_device("cuda", fixed_shapes=True)
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before
    set_device.assert_called_once_with(0)


@pytest.mark.cuda
def test_mixing_images(few):
    settings = Settings(epochs=1, batch_size=32, lr=0.02, mixup=0.2, cutmix=1.0)
    assert len(finetune_(small(CHAIN), *few, settings, resources=Resources(torch.device("cuda")))) == 2


@pytest.mark.slow
def test_compressing_to_an_agreement(gpu):
    recipe = tenreo.Recipe(None, tenreo.TargetKl(0.5))
    assert compress_to_(dense().to(gpu).eval(), recipe, size=16, jobs=2).agreement.kl <= 0.5

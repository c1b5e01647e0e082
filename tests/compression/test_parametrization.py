"""Compressed layers: decoding, training, copying, pickling and expanding."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from networks import strided_and_grouped
from torch.nn.utils import parametrize

import tenreo
from tenreo.compression.parametrization import Curve, curves, quantized_coefficients
from tenreo.errors import TenreoError

RECIPE = tenreo.Recipe(4, tenreo.Uniform(2.0), refine=3)
SMALL = tenreo.Recipe(4, tenreo.Uniform(4.0), refine=0, include=("*",))  # for a layer that rules leave dense
X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def test_expand_gives_the_same_classes_and_outputs():
    net = strided_and_grouped()
    before = [type(m) for m in net.modules()]
    tenreo.compress_(net, RECIPE)
    y = net(X)
    assert tenreo.expand_(net) is net
    assert [type(m) for m in net.modules()] == before
    assert set(net.state_dict()) == set(strided_and_grouped().state_dict())
    assert torch.equal(net(X), y)


def test_only_coefficients_are_trained_and_positions_stay():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    curve = next(curves(net))
    positions = curve.weight.positions.clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = curve.layer.weight.detach().clone()
    net(X).square().sum().backward()
    optimizer.step()
    assert torch.equal(curve.weight.positions, positions)
    assert not torch.equal(curve.layer.weight, before)
    assert curve.coefficients.shape == (4, 512)


def converted_and_plain(convert):
    """Return two equal compressed convolutions; `convert` converts the first."""
    conv = torch.nn.Conv2d(6, 8, 3)
    tenreo.compress_(conv, SMALL)
    return convert(copy.deepcopy(conv)), conv


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.to(memory_format=torch.channels_last),
        lambda m: copy.deepcopy(m.to(memory_format=torch.channels_last)).float(),
        lambda m: pickle.loads(pickle.dumps(m.to(memory_format=torch.channels_last))),
        lambda m: m.to(memory_format=torch.channels_last).to(memory_format=torch.channels_last),
    ],
    ids=["converted", "copied", "pickled", "twice"],
)
def test_a_weight_is_decoded_in_the_memory_format_of_the_model(convert):
    last, plain = converted_and_plain(convert)
    assert last.weight.stride() == plain.weight.contiguous(memory_format=torch.channels_last).stride()
    assert torch.equal(last.weight, plain.weight)
    x = torch.randn(2, 6, 9, 9)
    for conv in (last, plain):
        conv(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    coefficients = [next(curves(conv)).coefficients for conv in (last, plain)]
    torch.testing.assert_close(coefficients[0].grad, coefficients[1].grad, rtol=1e-4, atol=1e-4)
    state = last.state_dict()
    for key, value in plain.state_dict().items():
        assert torch.equal(state[key], value)
    last.load_state_dict(plain.state_dict())
    again = last.to(memory_format=torch.contiguous_format)
    assert again.weight.is_contiguous() and torch.equal(again.weight, plain.weight)


def test_compression_keeps_the_memory_format():
    conv = torch.nn.Conv2d(6, 8, 3).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(conv).to(memory_format=torch.contiguous_format)
    for model in (conv, plain):
        tenreo.compress_(model, SMALL)
    assert not conv.weight.is_contiguous() and torch.equal(conv.weight, plain.weight)


def test_groups_that_do_not_divide_the_channels_leave_a_weight_contiguous():
    conv = torch.nn.Conv2d(8, 6, 3).to(memory_format=torch.channels_last)
    expected = conv.weight.detach().clone()
    tenreo.compress_(conv, tenreo.Recipe(4, tenreo.Uniform(1.0), refine=0, include=("*",)))
    assert conv.weight.is_contiguous()
    torch.testing.assert_close(
        conv.to(memory_format=torch.channels_last).weight.detach().as_subclass(torch.Tensor), expected
    )


def test_assigning_a_weight_projects_it():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    weight = net[4].weight.detach().clone()
    net[4].weight = weight  # the curve represents this weight exactly
    torch.testing.assert_close(net[4].weight, weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_a_frozen_weight_stays_frozen_and_double_stays_double(dtype):
    net = strided_and_grouped().to(dtype)
    net[4].weight.requires_grad_(False)
    tenreo.compress_(net, RECIPE)
    original = net[4].parametrizations.weight.original
    assert not original.requires_grad and original.dtype == dtype


def test_autocast_decodes_in_float32():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    with torch.autocast("cpu", torch.bfloat16):
        assert net[4].weight.dtype == torch.float32
        assert net(X).isfinite().all()


def test_curves_are_the_compressed_layers():
    net = strided_and_grouped()
    assert list(curves(net)) == []
    report = tenreo.compress_(net, RECIPE)
    compressed = list(curves(net))
    assert all(isinstance(curve, Curve) for curve in compressed) and [c.name for c in compressed] == ["4", "7"]
    for curve, layer in zip(compressed, report.layers, strict=True):
        assert curve.layer is net[int(curve.name)]
        assert curve.coefficients is curve.layer.parametrizations.weight.original
        assert any(curve.coefficients is p for p in net.parameters())
        assert curve.record == layer.record and curve.weight.curve == layer.curve


def test_coefficients_are_quantized_inside_the_context():
    net = strided_and_grouped()
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0, precision="bfloat16"))
    coefficients = next(curves(net)).coefficients
    with torch.no_grad():
        coefficients.add_(torch.randn_like(coefficients))
    before = coefficients.detach().clone()
    with quantized_coefficients(net):
        assert torch.equal(coefficients, before.bfloat16().float()) and not torch.equal(coefficients, before)
    assert torch.equal(coefficients, before)


def test_copies_are_expanded_independently():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    y = net(X)
    first, second = copy.deepcopy(net), copy.deepcopy(net)
    third = copy.deepcopy(first)
    assert type(tenreo.expand_(first)[4]) is torch.nn.Conv2d
    for model in (net, first, second, third):
        assert torch.equal(model(X), y)
    tenreo.expand_(net)
    assert torch.equal(second(X), y) and torch.equal(tenreo.expand_(third)(X), y)
    assert [type(m) for m in third.modules()] == [type(m) for m in strided_and_grouped().modules()]


def test_a_layer_keeps_its_other_parametrizations():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    parametrize.register_parametrization(net[4], "bias", torch.nn.Softplus(), unsafe=True)
    y, other = net(X), copy.deepcopy(net)
    tenreo.expand_(net)
    assert isinstance(net[4].weight, torch.nn.Parameter) and parametrize.is_parametrized(net[4], "bias")
    assert torch.equal(net(X), y) and torch.equal(other(X), y)


def test_pickled_models_are_the_same_and_can_be_trained():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again(X), net(X)) and again.state_dict().keys() == net.state_dict().keys()
    again(X).square().sum().backward()
    assert next(curves(again)).coefficients.grad.abs().sum() > 0
    assert torch.equal(tenreo.expand_(again)(X), net(X))


def put_outputs(net, queue):
    queue.put(net(X).tolist())


def test_a_pickled_model_runs_in_another_process():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=put_outputs, args=(pickle.loads(pickle.dumps(net)), queue))
    process.start()
    outputs = torch.tensor(queue.get())
    process.join()
    torch.testing.assert_close(outputs, net(X))


def average_state_dict(average, model, decay):
    """Average all values of the state dict, integers included, as timm's ModelEmaV2 does."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        mean.copy_(decay * mean + (1 - decay) * value)


def test_weight_averaging_never_changes_positions():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    y, positions = net(X), next(curves(net)).weight.positions
    by_state = copy.deepcopy(net)
    averaged = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    for decay in (0.9999, 0.3, 1 / 3):
        average_state_dict(by_state, net, decay)
        averaged.update_parameters(net)
    for model in (by_state, averaged.module):
        assert torch.equal(next(curves(model)).weight.positions, positions)
        torch.testing.assert_close(model(X), y)
    assert not [name for name, _ in net.named_buffers() if "parametrizations" in name]


def test_positions_written_into_a_state_dict_are_refused():
    net, other = strided_and_grouped(), strided_and_grouped()
    with torch.no_grad():
        other[4].weight.copy_(torch.randn_like(other[4].weight))
    for model in (net, other):
        tenreo.compress_(model, RECIPE)
    for mine, value in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        mine.copy_(value)
    with pytest.raises(TenreoError, match="use load_state_dict"):
        net(X)
    net.load_state_dict(other.state_dict())
    assert torch.equal(net(X), other(X))


def test_loading_refuses_positions_that_do_not_fit():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    name = "4.parametrizations.weight.0.positions"
    good = net.state_dict()
    for value, message in (
        (good[name] + 1, r"outside \[0, 1024\)"),
        (good[name][:-1], "needs 1024 integers"),
        (good[name].float(), "needs 1024 integers"),
    ):
        with pytest.raises(RuntimeError, match=message):
            net.load_state_dict({**good, name: value})
    with pytest.raises(RuntimeError, match=r"Missing key.*positions"):
        net.load_state_dict({key: value for key, value in good.items() if key != name})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*order"):
        net.load_state_dict({**good, "4.parametrizations.weight.0.order": good[name]})


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.data.add_(1),
        lambda layer: torch.nn.init.zeros_(layer.weight),
        lambda layer: layer.weight.detach().mul_(2),
        lambda layer: layer.weight.data.__setitem__(0, 1.0),
        lambda layer: setattr(layer.weight, "data", torch.zeros(64, 64, 1, 1)),
        lambda layer: setattr(layer.weight, "data", layer.weight.data + 1),
    ],
)
def test_an_in_place_change_of_a_decoded_weight_is_refused(change):
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    with torch.no_grad(), pytest.raises(TenreoError, match=r"weight: .* is decoded.*expand_"):
        change(net[4])


def test_operations_on_a_decoded_weight_return_plain_tensors():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    weight = net[4].weight
    assert type(weight + 1) is torch.Tensor and type(weight.data.clone()) is torch.Tensor
    assert type(pickle.loads(pickle.dumps(weight.detach()))) is torch.Tensor
    assert torch.equal(copy.deepcopy(weight), weight) and weight.requires_grad


def memory_bytes(net):
    """Return the bytes of the parameters, the buffers and the tensors of compressed layers."""
    tensors = [*net.parameters(), *net.buffers(), *(v for c in curves(net) for v in vars(c.weight).values())]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def test_a_compressed_model_is_smaller_in_memory():
    net = torch.nn.Sequential(torch.nn.Linear(256, 256))
    dense = memory_bytes(net)
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(4.0), refine=0))
    (curve,) = curves(net)
    # Coefficients, an index of 16-bit integers, and the coded positions, which saving needs again.
    assert memory_bytes(net) == dense - 256 * 256 * 4 + 16384 * (4 + 2) + len(curve.weight.coded)


def trained_step(net):
    with torch.no_grad():
        for curve in curves(net):
            curve.coefficients.mul_(1.5)


def other_values(net):
    state = {name: value if "positions" in name else value / 2 for name, value in net.state_dict().items()}
    net.load_state_dict(state)


def other_positions(net):
    state = {name: value.flip(0) if "positions" in name else value for name, value in net.state_dict().items()}
    net.load_state_dict(state)


def other_storage(net):
    curve = next(curves(net))
    curve.coefficients.data = curve.coefficients.data * 2


def other_parameter(net):
    curve = next(curves(net))
    curve.layer.parametrizations[curve.tensor].original = torch.nn.Parameter(curve.coefficients.detach() * 3)


def changed_in_inference_mode(net):
    with torch.inference_mode():
        trained_step(net)


@pytest.mark.parametrize("change", [
    trained_step, other_values, other_positions, other_storage, other_parameter, changed_in_inference_mode,
    lambda net: net.double(), lambda net: net.train().eval(), lambda net: None,
])  # fmt: skip
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_decodes_a_weight_again_only_after_a_change(change, mode):
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    net.eval()
    assert net[4].weight is not net[4].weight  # with gradients, each use is decoded for itself
    with mode():
        kept = net[4].weight
        assert net[4].weight is kept and net[4].weight is kept
    change(net)
    expected = [curve.layer.weight.detach().clone() for curve in curves(net)]  # decoded with gradients
    x = X.to(expected[0].dtype)
    with mode():
        assert all(torch.equal(curve.layer.weight, weight) for curve, weight in zip(curves(net), expected, strict=True))
        assert torch.equal(net(x), tenreo.expand_(copy.deepcopy(net))(x))
    net(x).square().sum().backward()
    assert all(curve.coefficients.grad is not None for curve in curves(net) if curve.coefficients.requires_grad)


def test_a_kept_weight_is_neither_copied_nor_pickled_nor_used_by_other_tensors():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    net.eval()
    size, parameters = len(pickle.dumps(net)), dict(net.named_parameters())
    with torch.no_grad():
        before = net(X)
        assert len(pickle.dumps(net)) == size
        other = copy.deepcopy(net)
        trained_step(other)
        assert torch.equal(net(X), before) and torch.equal(other(X), tenreo.expand_(copy.deepcopy(other))(X))
        doubled = {name: 2 * value if "original" in name else value for name, value in parameters.items()}
        assert not torch.equal(torch.func.functional_call(net, doubled, (X,)), before)
        assert torch.equal(net(X), before)
        net[4].train()
        assert net[4].weight is not net[4].weight  # training mode


def test_a_thread_that_trains_does_not_use_the_weight_that_another_keeps():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    net.eval()
    with torch.inference_mode(), ThreadPoolExecutor(1) as trains:
        kept = net[4].weight
        trains.submit(lambda: net(X).square().sum().backward()).result()
        assert net[4].weight is kept
    assert next(curves(net)).coefficients.grad.abs().sum() > 0

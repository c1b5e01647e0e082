"""Decoding and its adjoint, against dense matrices made column by column."""

import copy

import oracle
import pytest
import torch
from networks import compressed

from tenreo.codec.codec import EncodedWeight, decode
from tenreo.codec.decoding import decode_adjoint, decode_columns, gather_index, segment_sum

PERMUTED = torch.randperm(12, generator=torch.Generator().manual_seed(0)).int()
SHARED = torch.tensor([3, 3, 0, 11, 3, 7, 7, 1, 5, 0, 9, 2, 2, 10], dtype=torch.int32)  # 4, 6 and 8: no column


def matrix(positions, per_row=5, length=12):
    """(columns, per_row): what decoding multiplies a row of coefficients by, from the literal cosines."""
    cosines = torch.as_tensor(oracle.cosine_matrix(length))  # (frequency, sample)
    return cosines[:per_row].T[positions.long()].double()


@pytest.mark.parametrize("positions", [PERMUTED, SHARED], ids=["permuted", "shared"])
def test_gradients_are_the_adjoint(positions):
    def f(c):
        return decode(EncodedWeight(c, positions, 12, (3, len(positions))))

    c = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, c) and torch.autograd.gradgradcheck(f, c)
    w = torch.randn(3, len(positions), dtype=torch.float64)
    torch.testing.assert_close(f(c).detach(), c.detach() @ matrix(positions).T)
    torch.testing.assert_close(torch.autograd.grad((f(c) * w).sum(), c)[0], w @ matrix(positions))


def test_columns_are_sorted_once():
    samples, order, starts = gather_index(PERMUTED, 12)
    assert samples[order.long()].tolist() == list(range(12)) and starts.numel() == 0
    samples, order, starts = gather_index(SHARED, 12)
    signal = torch.arange(12)
    folded = torch.cat([signal[::2], signal[1::2].flip(0)])
    assert torch.equal(folded[samples.long()], SHARED.long())
    for sample in range(12):
        assert all(samples[order[starts[sample] : starts[sample + 1]].long()] == sample)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck's own
@pytest.mark.parametrize("positions", [PERMUTED, SHARED], ids=["permuted", "shared"])
def test_torch_finds_nothing_wrong_with_the_operations(positions):
    """Schema, fake tensors, autograd and tracing, as torch checks them for operations of one's own."""
    known = gather_index(positions, 12)
    c = torch.randn(3, 5, requires_grad=True)
    torch.library.opcheck(decode_columns, (c, *known, 12))
    w = torch.randn(3, len(positions), requires_grad=True)
    torch.library.opcheck(decode_adjoint, (w, *known, 12, 5))


def test_the_gpus_segment_sum_is_that_of_a_loop():
    _, order, starts = gather_index(SHARED, 12)
    w = torch.randn(3, len(SHARED), dtype=torch.float64)
    expected = torch.zeros(3, 12, dtype=torch.float64)
    folded = torch.cat([torch.arange(12)[::2], torch.arange(12)[1::2].flip(0)]).tolist()
    for column, position in enumerate(SHARED.tolist()):
        expected[:, folded.index(position)] += w[:, column]
    torch.testing.assert_close(segment_sum(w, order, starts), expected)


def gradients(net, step):
    step(torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compressed_model_compiles_as_one_graph(backend):
    net = compressed()
    plain = compressed()
    expected = gradients(plain, plain)
    found = gradients(net, torch.compile(net, backend=backend, fullgraph=True))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_decoding_stays_in_float32_under_autocast():
    net = compressed()
    with torch.autocast("cpu", torch.bfloat16):
        weight = net[3].weight
    assert weight.dtype == torch.float32 and torch.equal(weight, net[3].weight)


def test_the_sort_follows_loaded_positions_and_stays_out_of_files():
    net, other = compressed(), copy.deepcopy(compressed())
    assert not [k for k in net.state_dict() if k.endswith(("samples", "order", "starts"))]
    curve = other[3].parametrizations.weight[0]
    curve.positions.copy_(curve.positions.flip(0))
    net.load_state_dict(other.state_dict())
    here = net[3].parametrizations.weight[0]
    for name, value in gather_index(curve.positions, curve.curve.length)._asdict().items():
        assert torch.equal(getattr(here, name), value)


@pytest.mark.cuda
@pytest.mark.parametrize("positions", [PERMUTED, SHARED], ids=["permuted", "shared"])
def test_cuda_sums_like_the_cpu_and_always_alike(positions):
    w = torch.randn(3, len(positions), dtype=torch.float64)
    there = [t.cuda() for t in gather_index(positions, 12)]
    first, again = (decode_adjoint(w.cuda(), *there, 12, 5) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first.cpu(), w @ matrix(positions))

"""Decoding and its adjoint, compared with dense matrices."""

import oracle
import pytest
import torch
from functorch.compile import make_boxed_func
from networks import compressed
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from tenreo.codec.decoding import (
    curve_index,
    decode_columns,
    folded_index,
    gather_adjoint,
    gather_samples,
    positions_of_index,
    segment_sum,
    sort_columns,
    unfolded_positions,
)
from tenreo.codec.encode import EncodedWeight, decode
from tenreo.codec.shape import Basis

PERMUTED = torch.randperm(12, generator=torch.Generator().manual_seed(0)).int()
SHARED = torch.tensor([3, 3, 0, 11, 3, 7, 7, 1, 5, 0, 9, 2, 2, 10], dtype=torch.int32)  # no column at 4, 6 and 8


def matrix(positions, per_row=5, length=12):
    """Return the (columns, per_row) matrix of decoding, from the definition of the DCT."""
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


@pytest.mark.parametrize("length", [1, 2, 7, 256, 257, 32768, 32769])
def test_the_index_has_the_smallest_dtype_and_preserves_the_positions(length):
    positions = torch.arange(length, dtype=torch.int32).flip(0)
    index = folded_index(positions, length)
    assert torch.equal(unfolded_positions(index, length), positions)
    signal = torch.arange(length)
    folded = torch.cat([signal[::2], signal[1::2].flip(0)])
    assert torch.equal(folded[index.long()], positions.long())
    assert index.element_size() == (1 if length <= 256 else 2 if length <= 32768 else 4)


@pytest.mark.parametrize(("length", "count", "number"), [(64, 8, 4), (64, 9, 2), (62, 15, 2), (64, 17, 1), (63, 2, 1)])
def test_a_curve_of_few_coefficients_is_decoded_in_branches(length, count, number):
    positions = torch.arange(length, dtype=torch.int32)
    index = curve_index(positions, length, count, Basis.COSINE)
    assert torch.equal(positions_of_index(index, length, count, Basis.COSINE), positions)
    # The branches follow one another, and sample m of branch q is sample m * number + q of the folded curve.
    folded = torch.cat([positions[::2], positions[1::2].flip(0)])
    assert torch.equal(torch.cat([folded[q::number] for q in range(number)])[index.long()], positions)
    c, w = (torch.randn(3, size, dtype=torch.float64) for size in (count, length))
    torch.testing.assert_close(decode_columns(c, index, length), c @ matrix(positions, count, length).T)
    torch.testing.assert_close(gather_adjoint(w, index, length, count), w @ matrix(positions, count, length))


def test_columns_are_sorted_by_sample():
    order, starts = sort_columns(folded_index(PERMUTED, 12), 12)
    assert folded_index(PERMUTED, 12)[order.long()].tolist() == list(range(12)) and starts is None
    index = folded_index(SHARED, 12)
    order, starts = sort_columns(index, 12)
    for sample in range(12):
        assert all(index[order[starts[sample] : starts[sample + 1]].long()] == sample)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck's own
@pytest.mark.parametrize("positions", [PERMUTED, SHARED], ids=["permuted", "shared"])
def test_the_custom_operators_pass_opcheck(positions):
    """torch checks the schema, fake tensors and tracing."""
    index = folded_index(positions, 12)
    torch.library.opcheck(gather_samples, (torch.randn(3, 5), index, 12, *sort_columns(index, 12)))
    torch.library.opcheck(gather_adjoint, (torch.randn(3, len(positions)), index, 12, 5, *sort_columns(index, 12)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own
@pytest.mark.parametrize("positions", [PERMUTED, SHARED], ids=["permuted", "shared"])
def test_transforms_of_torch_func_agree_with_the_dense_matrix(positions):
    index, c = folded_index(positions, 12), torch.randn(3, 5, dtype=torch.float64)

    def f(c):
        return decode_columns(c, index, 12).square()

    def dense(c):
        return (c @ matrix(positions).T).square()

    tangent, batch = torch.randn_like(c), torch.randn(4, 3, 5, dtype=torch.float64)
    for ours, expected in zip(
        torch.func.jvp(f, (c,), (tangent,)), torch.func.jvp(dense, (c,), (tangent,)), strict=True
    ):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.vmap(f)(batch), torch.vmap(dense)(batch))
    for of in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        torch.testing.assert_close(of(f)(c), of(dense)(c))
    sums = torch.vmap(torch.func.grad(lambda c, x: (f(c) * x).sum()), (None, 0))
    weights = torch.randn(4, 3, len(positions), dtype=torch.float64)
    expected = torch.stack([torch.func.grad(lambda c, x=x: (dense(c) * x).sum())(c) for x in weights])
    torch.testing.assert_close(sums(c, weights), expected)


def test_segment_sum_agrees_with_a_loop():
    order, starts = sort_columns(folded_index(SHARED, 12), 12)
    w = torch.randn(3, len(SHARED), dtype=torch.float64)
    expected = torch.zeros(3, 12, dtype=torch.float64)
    folded = torch.cat([torch.arange(12)[::2], torch.arange(12)[1::2].flip(0)]).tolist()
    for column, position in enumerate(SHARED.tolist()):
        expected[:, folded.index(position)] += w[:, column]
    torch.testing.assert_close(segment_sum(w, order, starts), expected)


def test_the_columns_of_a_single_row_are_summed_as_one_dimension():
    """CUDA adds them with a thread for each sample otherwise, and few samples have most columns."""
    shapes = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.segment_reduce.default:
                shapes.append(tuple(args[0].shape))
            return function(*args, **(kwargs or {}))

    columns = sort_columns(folded_index(SHARED, 12), 12)
    with Recorder():
        for rows in (1, 3):
            segment_sum(torch.ones(rows, len(SHARED)), *columns)
    assert shapes == [(14,), (14, 3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_half_precision_are_summed_in_float32(dtype):
    count = 20_000  # in bfloat16, the sum of as many ones is 256
    index = folded_index(torch.zeros(count, dtype=torch.int32), 4)
    sums = segment_sum(torch.ones(2, count, dtype=dtype), *sort_columns(index, 4))
    assert sums.tolist() == [[count, 0, 0, 0]] * 2
    c = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    decode(EncodedWeight(c, torch.zeros(count, dtype=torch.int32), 4, (2, count))).sum().backward()
    expected = count * torch.tensor(oracle.cosine_matrix(4)[:3, 0])
    torch.testing.assert_close(c.grad.double(), expected.expand(2, 3), rtol=2 * torch.finfo(dtype).eps, atol=0)


def gradients(net, step):
    step(torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "eager", "inductor"])
def test_a_compressed_model_compiles_as_one_graph(backend):
    net = compressed()
    plain = compressed()
    expected = gradients(plain, plain)
    compiled_gradients = gradients(net, torch.compile(net, backend=backend, fullgraph=True))
    for name in expected:
        torch.testing.assert_close(compiled_gradients[name], expected[name])


@pytest.mark.parametrize("positions", [PERMUTED, SHARED], ids=["permuted", "shared"])
def test_a_compiled_backward_pass_uses_the_order_that_it_is_given(positions):
    """On a GPU, sorting again in every step would wait for it, which CUDA graphs cannot."""
    index, graphs = folded_index(positions, 12), []
    columns = sort_columns(index, 12)

    def compiler(module, inputs):
        graphs.append(module.graph)
        return make_boxed_func(module.forward)

    @torch.compile(backend=aot_autograd(fw_compiler=compiler), fullgraph=True)
    def decoded(c):
        return decode_columns(c, index, 12, columns)

    c = torch.randn(3, 5, requires_grad=True)
    decoded(c).sum().backward()
    torch.testing.assert_close(c.grad.double(), torch.ones(3, len(positions)).double() @ matrix(positions))
    forward, backward = ([n for n in graph.nodes if n.op == "call_function"] for graph in graphs)
    assert [str(node.target) for node in forward] == ["tenreo.decode.default"]
    (adjoint,) = [node for node in backward if "tenreo" in str(node.target)]
    assert {str(node.target) for node in backward} <= {str(adjoint.target), "aten.expand.default"}
    given = [
        each for each in adjoint.args[4:] if each is not None
    ]  # the order, and the starts if columns share samples
    assert len(given) == (1 if positions is PERMUTED else 2)


def test_decoding_stays_in_float32_under_autocast():
    net = compressed()
    with torch.autocast("cpu", torch.bfloat16):
        weight = net[3].weight
    assert weight.dtype == torch.float32 and torch.equal(weight, net[3].weight)


@pytest.mark.parametrize("positions", [PERMUTED, SHARED], ids=["permuted", "shared"])
@pytest.mark.parametrize("rows", [1, 3])
def test_cuda_agrees_with_the_cpu_and_is_deterministic(cuda, rows, positions):
    w = torch.randn(rows, len(positions), dtype=torch.float64)
    index = folded_index(positions, 12).cuda()
    first, again = (gather_adjoint(w.cuda(), index, 12, 5, *sort_columns(index, 12)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(first, gather_adjoint(w.cuda(), index, 12, 5))
    torch.testing.assert_close(first.cpu(), w @ matrix(positions))

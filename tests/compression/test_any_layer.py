"""Weights of every layer type: planning, compressing, saving, training and expanding."""

import copy
import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tenreo
from tenreo.compression.parametrization import curves
from tenreo.errors import TenreoError
from tenreo.files.header import read_header
from tenreo.modules.wrappers import unwrapped


class Own(nn.Module):
    """Module with direct parameters and no layers."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(64, 64))
        self.list = nn.ParameterList([nn.Parameter(torch.randn(64, 64)) for _ in range(2)])

    def forward(self, x):
        return x @ self.table @ self.list[0] @ self.list[1]


class Everything(nn.Module):
    """Network with one layer of every supported type, in sequence."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(300, 64)
        self.lstm = nn.LSTM(64, 64, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(128, 64, batch_first=True)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.convolution = nn.Conv1d(64, 64, 3, padding=1)
        self.transposed = nn.ConvTranspose1d(64, 64, 3, padding=1)
        self.volume = nn.Conv3d(64, 64, (1, 1, 1))
        self.own = Own()
        self.transformer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.bilinear = nn.Bilinear(64, 64, 10)

    def forward(self, words):
        x = self.gru(self.lstm(self.embedding(words))[0])[0]
        x = self.attention(x, x, x)[0]
        x = self.transposed(self.convolution(x.transpose(1, 2)))  # (batch, 64, words)
        x = self.volume(x[..., None, None])[..., 0, 0].transpose(1, 2)
        x = self.transformer(self.own(x)).mean(1)
        return self.bilinear(x, x)


WORDS = torch.randint(0, 300, (3, 7), generator=torch.Generator().manual_seed(0))
ALL = tenreo.Recipe(4, tenreo.Uniform(2.0), include=("*",), refine=1)


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    return Everything().eval()


@pytest.fixture(scope="module")
def compressed(dense):
    net = copy.deepcopy(dense)
    tenreo.compress_(net, ALL)
    return net


@pytest.fixture
def net(compressed):
    return copy.deepcopy(compressed)


def test_every_matrix_is_in_the_plan(dense):
    plan = tenreo.resolve(ALL, dense)
    matrices = {name.removesuffix(".weight") for name, p in dense.named_parameters() if p.dim() > 1}
    assert {layer.name for layer in plan.layers} == matrices == {layer.name for layer in plan.compressed}
    assert {layer.parameter for layer in plan.layers} == {n for n, p in dense.named_parameters() if p.dim() > 1}
    covered = sum(p.numel() for p in dense.parameters() if p.dim() > 1)
    assert plan.coverage == covered / sum(p.numel() for p in dense.parameters())


def test_by_default_weights_that_multiply_inputs_or_are_looked_up_are_compressed(dense):
    plan = tenreo.resolve(tenreo.Recipe(4, tenreo.Uniform(2.0)), dense)
    recurrent = [n for n, p in dense.named_parameters() if n.startswith(("lstm.weight", "gru.weight"))]
    assert len(recurrent) == 10
    assert [layer.name for layer in plan.compressed] == [
        "embedding", *recurrent, "attention.in_proj_weight", "attention.out_proj", "convolution", "transposed",
        "volume",
        "transformer.self_attn.in_proj_weight", "transformer.self_attn.out_proj", "transformer.linear1",
        "transformer.linear2", "bilinear",
    ]  # fmt: skip


def test_stacks_of_matrices_are_compressed_and_tables_of_positions_are_not():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, 32, 64))
            self.positions = nn.Parameter(torch.randn(1, 80, 64))

    plan = tenreo.resolve(tenreo.Recipe(4, tenreo.Uniform(2.0)), Experts())
    assert [layer.name for layer in plan.compressed] == ["up"]


def test_only_a_first_convolution_over_an_area_is_left_dense():
    kernels = {"area": nn.Conv2d(3, 64, 5), "line": nn.Conv2d(1, 64, (64, 1)), "signal": nn.Conv1d(1, 64, 64)}
    layers = {name: nn.Sequential(kernel, nn.Linear(64, 64)) for name, kernel in kernels.items()}
    plans = {name: tenreo.resolve(tenreo.Recipe(4, tenreo.Uniform(2.0)), model) for name, model in layers.items()}
    assert [name for name, plan in plans.items() if len(plan.compressed) == 2] == ["line", "signal"]


def test_rate_one_changes_nothing(dense):
    net = copy.deepcopy(dense)
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(1.0), include=("*",), refine=0))
    assert len(list(curves(net))) == 24
    torch.testing.assert_close(net(WORDS), dense(WORDS), atol=1e-4, rtol=1e-4)


def test_a_file_gives_the_same_outputs(net, dense, tmp_path):
    path = tmp_path / "all.safetensors"
    tenreo.save(net, path, recipe=replace(ALL, pack="plain"))
    y = net(WORDS)
    assert not torch.equal(y, dense(WORDS))
    assert torch.equal(tenreo.load(path, copy.deepcopy(dense))(WORDS), y)
    header = read_header(path)
    planned = tenreo.resolve(replace(ALL, pack="plain"), dense).after
    assert replace(header.counts(), bytes=planned.bytes) == planned and path.stat().st_size <= planned.bytes
    assert header.dense_counts().parameters == sum(p.numel() for p in dense.parameters())
    assert "lstm.weight_hh_l1_reverse.positions" in header.tensors and "lstm.weight_hh_l1_reverse" in header.layers


def test_copies_and_pickles_are_independent_models(net):
    y = net(WORDS)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(WORDS), y)
        assert torch.equal(tenreo.expand_(other)(WORDS), y) and torch.equal(net(WORDS), y)


def test_every_parameter_is_trained(net):
    net.train()(WORDS).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    before = net.lstm.weight_ih_l0.detach().clone()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert not torch.equal(net.lstm.weight_ih_l0, before)


def test_expanding_restores_the_dense_model(net, dense):
    y = net(WORDS)
    tenreo.expand_(net)
    assert torch.equal(net(WORDS), y) and not any(parametrize.is_parametrized(m) for m in net.modules())
    assert [type(m) for m in net.modules()] == [type(m) for m in dense.modules()]
    assert net.state_dict().keys() == dense.state_dict().keys()
    net(WORDS).sum().backward()
    assert net.lstm.weight_ih_l0.grad is not None


def test_a_second_compression_skips_compressed_layers(dense, tmp_path):
    net = copy.deepcopy(dense)
    recipe = tenreo.Recipe(4, tenreo.Uniform(2.0), exclude=("embedding", "lstm.*"), refine=0, pack="plain")
    first = tenreo.compress_(net, recipe)
    weight = net.transposed.weight.detach().clone()
    rest = tenreo.Recipe(8, tenreo.Uniform(4.0), include=("embedding", "lstm.*"), refine=0, pack="plain")
    second = tenreo.compress_(net, rest)
    assert torch.equal(net.transposed.weight, weight)
    assert len(list(curves(net))) == len(first.layers) + len(second.layers) == 12 + 9
    assert second.before == first.before
    tenreo.save(net, tmp_path / "two.safetensors", recipe=rest)
    assert read_header(tmp_path / "two.safetensors").counts() == second.after
    with pytest.raises(TenreoError, match=r"include: transposed cannot be compressed: .* already"):
        tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("transposed",)))


def test_sparse_and_renormalized_embeddings_are_left_dense():
    for options in ({"sparse": True}, {"max_norm": 1.0}):
        plan = tenreo.resolve(
            tenreo.Recipe(4, tenreo.Uniform(2.0)), nn.Sequential(nn.Embedding(64, 64, **options), nn.Linear(64, 64))
        )
        assert "sparse gradients or is renormalized" in plan.layers[0].why_dense


def test_a_network_inside_another_keeps_its_layer_rule():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            import torchvision

            self.backbone = torchvision.models.resnet18()
            self.head = nn.Linear(1000, 64)

    with torch.device("meta"):
        net = Wrapped()
    recipe = tenreo.Recipe(4, tenreo.Progressive(1.0))
    plan, own = tenreo.resolve(recipe, net), tenreo.resolve(recipe, net.backbone)
    assert [x.name for x in plan.compressed] == [f"backbone.{x.name}" for x in own.compressed] + ["head"]
    assert [x.curve for x in plan.compressed][:-1] == [x.curve for x in own.compressed]


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.optim.swa_utils.AveragedModel, pytest.param(torch.compile, marks=pytest.mark.slow)],
)
def test_wrapped_models_are_compressed_and_expanded(dense, wrap):
    recipe = tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0)
    bare, wrapped = copy.deepcopy(dense), wrap(copy.deepcopy(dense))
    plan = tenreo.resolve(recipe, wrapped)
    assert [layer.name for layer in plan.layers] == [layer.name for layer in tenreo.resolve(recipe, bare).layers]
    tenreo.compress_(bare, recipe)
    tenreo.compress_(wrapped, plan)
    assert tenreo.expand_(wrapped) is wrapped
    inner, expected = unwrapped(wrapped).state_dict(), tenreo.expand_(bare).state_dict()
    assert inner.keys() == expected.keys() and all(torch.equal(inner[key], expected[key]) for key in inner)


@pytest.fixture
def group(tmp_path):
    """A process group with this process as its only member."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_layers_that_torch_jit_compiled_are_left_dense_and_whole_models_refused():
    compiled = torch.jit.script(nn.Linear(64, 64))
    net = nn.Sequential(compiled, nn.Linear(64, 64))
    with pytest.raises(
        TenreoError, match=r"model: is compiled by torch\.jit, .*; give the model that it was made from"
    ):
        tenreo.compress_(torch.jit.script(net), tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0))
    plan = tenreo.resolve(tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0), net)
    assert [layer.why_dense.partition(";")[0] for layer in plan.layers] == ["its layer is compiled by torch.jit", ""]
    tenreo.compress_(net, plan)
    assert torch.isfinite(net(torch.randn(2, 64))).all() and len(list(curves(net))) == 1


@pytest.mark.usefixtures("group")
def test_distributed_data_parallel_is_refused():
    net = nn.Sequential(nn.Linear(64, 64))
    wrapped = torch.compile(nn.parallel.DistributedDataParallel(net))
    for change in (partial(tenreo.compress_, recipe=tenreo.Recipe(4, tenreo.Uniform(2.0))), tenreo.expand_):
        with pytest.raises(TenreoError, match="is in DistributedDataParallel, which keeps the parameters"):
            change(wrapped)
    assert not parametrize.is_parametrized(net[0])


@pytest.mark.usefixtures("group")
def test_sharded_parameters_are_gathered_in_a_file(tmp_path):
    from torch.distributed.fsdp import fully_shard

    net, x = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10)), torch.randn(3, 64)
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0))
    wanted = net(x)
    tenreo.save(net, tmp_path / "whole.safetensors")
    fully_shard(net, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
    assert torch.equal(net(x), wanted)
    tenreo.save(net, tmp_path / "shards.safetensors")
    assert (tmp_path / "shards.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    for use in (tenreo.expand_, partial(tenreo.export, path=tmp_path / "m.pth")):
        with pytest.raises(TenreoError, match="is sharded over several processes; save the model"):
            use(net)
    assert not (tmp_path / "m.pth").exists()


def test_layers_can_have_their_own_recipes(dense):
    recipe = tenreo.Recipe(
        4, tenreo.Uniform(2.0), include=("*",), refine=0,
        layers={
            "lstm.*": {"groups": 8}, "lstm.weight_ih_l1": "dense", "own.*": {"progressive": 2, "precision": "int8"},
            "gru.*": {"uniform": 4, "position_bits": 5, "refine": 2},
        },
    )  # fmt: skip
    layers = {layer.name: layer for layer in tenreo.resolve(recipe, dense).layers}
    assert layers["lstm.weight_hh_l0"].curve.groups == 8 and layers["embedding"].curve.groups == 4
    assert layers["lstm.weight_ih_l1"].why_dense == "dense in the recipe"
    assert layers["own.table"].curve.precision == "int8" and layers["own.table"].curve.coefficients_per_row == 341
    assert layers["gru.weight_hh_l0"].curve.length == 32 == layers["gru.weight_hh_l0"].curve.coefficients_per_row
    net = copy.deepcopy(dense)
    report = {x.name: x for x in tenreo.compress_(net, recipe).layers}
    for name, improved in (("gru.weight_hh_l0", True), ("lstm.weight_hh_l0", False)):
        assert (report[name].squared_error < report[name].squared_error_unrefined) == improved
    assert tenreo.Recipe.from_dict(recipe.to_dict()) == recipe
    assert "lstm.weight_ih_l1: dense" in str(recipe) and "gru.*: uniform 4" in str(recipe)


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ({"nothing": "dense"}, "layers: pattern 'nothing' matches no weight"),
        ({"gru.*": "thick"}, r"layers: gru\.\*: given thick, needs dense, or values of groups"),
        ({"gru.*": {"rows": 4}}, r"given \{'rows': 4\}, needs dense, or values of groups, uniform"),
        ({"gru.*": {"groups": 0}}, r"layers: gru\.\*: groups: given 0"),
        ({"gru.*": {"uniform": 2, "progressive": 1}}, "needs at most one rate"),
        ([], "needs layer-name patterns"),
    ],
)
def test_invalid_layer_recipes_are_refused(dense, layers, match):
    with pytest.raises(TenreoError, match=match):
        tenreo.resolve(tenreo.Recipe(4, tenreo.Uniform(2.0), layers=layers), dense)

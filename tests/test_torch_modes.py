"""Public functions under torch's modes, with models on the meta device, and without enough memory."""

import copy
import mmap
import resource
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
import torch
from networks import two_norms
from torch import nn

import tenreo
from tenreo.errors import OutOfMemoryError, TenreoError, raise_if_out_of_memory
from tenreo.exporting.onnx_runs import Runner

RECIPE = tenreo.Recipe(4, tenreo.Uniform(4.0), include=("0.3", "3"), refine=1, precision="int8")
IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "default device": lambda: default_device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
}


@pytest.fixture(scope="module")
def dense():
    return nn.Sequential(two_norms(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64)).eval()


def everything(dense, folder):
    """Call the public functions; return the written files and the models that are left."""
    small, sized = copy.deepcopy(dense), copy.deepcopy(dense)
    tenreo.compress_(small, RECIPE)
    tenreo.match_statistics_(small, dense, size=8)
    tenreo.calibrate_(small, IMAGES)
    tenreo.save(small, folder / "small.safetensors")
    tenreo.export(small, folder / "dense.pth")
    tenreo.compress_(sized, tenreo.Recipe(None, tenreo.TargetSize(163_000), include=("3",)))
    tenreo.save(sized, folder / "sized.safetensors")
    loaded = tenreo.load(folder / "small.safetensors", copy.deepcopy(dense))
    expanded = tenreo.expand_(copy.deepcopy(loaded))
    small.state_dict()
    small(IMAGES)
    return small, sized, loaded, expanded


@pytest.fixture(scope="module")
def expected(dense, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    everything(dense, folder)
    return folder


SLOW = ("float64", "default device")  # variants of bfloat16 and of meta


@pytest.mark.parametrize("mode", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in MODES])
def test_results_are_the_same_in_every_mode_and_models_can_be_trained(mode, dense, expected, tmp_path):
    with MODES[mode]():
        models = everything(dense, tmp_path)
    for name in ("small.safetensors", "sized.safetensors"):
        assert (tmp_path / name).read_bytes() == (expected / name).read_bytes()
    exported = torch.load(expected / "dense.pth")
    assert all(torch.equal(exported[k], v) for k, v in torch.load(tmp_path / "dense.pth").items())
    for model in models:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        model.train()(IMAGES).square().sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        model.state_dict()
        model(IMAGES)
        assert not any(torch.equal(before[name], p) for name, p in model.named_parameters() if p.grad.any())


@pytest.mark.parametrize("mode", ["float64", "bfloat16", "meta", "autocast", "inference"])
def test_a_named_architecture_is_loaded_in_every_mode(mode, tmp_path):
    dense = pytest.importorskip("torchvision").models.squeezenet1_1(num_classes=4).eval()
    tenreo.save(dense, tmp_path / "dense.safetensors")
    with MODES[mode]():
        tenreo.save(dense, tmp_path / "again.safetensors")
        model = tenreo.load(tmp_path / "dense.safetensors")
    assert (tmp_path / "dense.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    images = torch.randn(2, 3, 64, 64)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model(images), dense(images))
    model.train()(images).sum().backward()


def test_models_on_the_meta_device_are_refused(dense, expected, tmp_path):
    small, path = copy.deepcopy(dense), tmp_path / "m.safetensors"
    tenreo.compress_(small, RECIPE)
    empty, meta = copy.deepcopy(dense).to("meta"), copy.deepcopy(small).to("meta")
    for call in (
        lambda: tenreo.load(expected / "small.safetensors", empty),
        lambda: tenreo.save(empty, path),
        lambda: tenreo.save(meta, path),
        lambda: tenreo.export(meta, tmp_path / "m.pth"),
        lambda: tenreo.expand_(meta),
        lambda: tenreo.match_statistics_(small, empty, size=8),
        lambda: tenreo.match_statistics_(meta, dense, size=8),
        lambda: tenreo.calibrate_(meta, IMAGES),
        lambda: tenreo.compress_(empty, RECIPE),
    ):
        with pytest.raises(TenreoError, match="on the meta device, without values"):
            call()
    assert not any(tmp_path.iterdir())


@contextmanager
def no_more_memory():
    """Allow the process hardly more address space than it uses."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(2**28), lambda: np.empty(2**30), lambda: bytearray(2**30), lambda: mmap.mmap(-1, 2**30),
        lambda: torch.UntypedStorage(2**30),
    ],
    ids=["torch", "numpy", "python", "map", "storage"],
)  # fmt: skip
def test_every_lack_of_memory_is_recognized(allocate):
    with pytest.raises((RuntimeError, MemoryError, OSError, ValueError)) as failure, no_more_memory():
        allocate()
    wrapped = TenreoError("the model cannot be run")
    wrapped.__cause__ = failure.value
    for error in (failure.value, wrapped):
        with pytest.raises(OutOfMemoryError, match=r"^out of memory: .*; try smaller batches"):
            raise_if_out_of_memory(error)


def test_lack_of_memory_is_found_behind_another_error():
    def load():  # as llvmlite loads its library
        try:
            raise OSError("libllvmlite.so: failed to map segment from shared object")
        except OSError:
            raise OSError("Could not find/load shared object file")  # noqa: B904

    with pytest.raises(OSError, match="Could not find") as failure:
        load()
    with pytest.raises(OutOfMemoryError, match="out of memory: the allocation failed"):
        raise_if_out_of_memory(failure.value)


def test_lack_of_memory_in_onnx_runtime_is_recognized():
    """Its errors are neither RuntimeErrors nor MemoryErrors."""
    tensors = [onnx.helper.make_tensor_value_info(name, 1, [size]) for name, size in (("x", 1), ("y", None))]
    shape = onnx.numpy_helper.from_array(np.array([2**42]), "shape")
    node = onnx.helper.make_node("Expand", ["x", "shape"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", tensors[:1], tensors[1:], [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        Runner(model.SerializeToString(), "model").run({"x": np.ones(1, np.float32)})


def test_a_thread_that_cannot_be_started_is_a_lack_of_memory():
    with pytest.raises(OutOfMemoryError):
        raise_if_out_of_memory(RuntimeError("Resource temporarily unavailable"))  # by the threads of torch's autograd
    raise_if_out_of_memory(BlockingIOError(11, "Resource temporarily unavailable"))  # by a pipe that nobody reads


def test_other_errors_are_not_about_memory():
    for error in (RuntimeError("size mismatch"), OSError(2, "No such file"), TenreoError("x"), ValueError("memory")):
        raise_if_out_of_memory(error)


class Hungry(nn.Module):
    """A network whose forward pass needs more memory than any machine has."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 64)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).mean((2, 3))) + x.new_empty(2**45)[0]


def test_lack_of_memory_is_reported_by_every_function_that_runs_a_model(tmp_path):
    dense = Hungry().eval()
    small = copy.deepcopy(dense)
    tenreo.compress_(small, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("fc",), refine=0))
    kl = tenreo.Recipe(None, tenreo.TargetKl(0.01))
    for call in (
        lambda: tenreo.match_statistics_(small, dense, size=8),
        lambda: tenreo.calibrate_(small, IMAGES),
        lambda: tenreo.compress_to_(copy.deepcopy(dense), kl, size=8),
        lambda: tenreo.export(small, tmp_path / "m.pt2", inputs=IMAGES),
    ):
        with pytest.raises(OutOfMemoryError, match="out of memory: 140,737,488,355,328 bytes could not be allocated"):
            call()

"""Fixtures of all tests."""

import fcntl
import json
import os
import resource
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from pretended_device import pretended
from processes import DATA, good, tiny_run
from safetensors import safe_open
from torch import nn

import tenreo
from tenreo.data.images import open_images
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.models import model_files
from tenreo.models.builders import build_model

# pytest has a worker for each core, and the networks are tiny, so more threads would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

SMALL = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


REAL = pytest.param("cuda", marks=pytest.mark.cuda)


@pytest.fixture(params=["pretended cuda", REAL])
def cuda(request):
    """A GPU of CUDA: a pretended one, and with `-m cuda` the machine's own."""
    with pretended("cuda") if request.param != "cuda" else nullcontext():
        yield torch.device("cuda")


@pytest.fixture(params=["pretended cuda", "pretended mps", REAL])
def gpu(request):
    """The device `cuda`, and a pretended GPU of a Mac."""
    kind = request.param.split()[-1]
    with pretended(kind) if request.param != "cuda" else nullcontext():
        yield torch.device(kind)


@pytest.fixture
def counted():
    """A pretended GPU of CUDA, which counts kernels and waits."""
    with pretended("cuda") as gpu:
        yield gpu


@pytest.fixture(scope="session")
def golden():
    """(cases, tensors): inputs and outputs of the reference implementation."""
    with safe_open(DATA / "codec.safetensors", framework="pt") as file:
        cases = json.loads(file.metadata()["cases"])
        return cases, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="session")
def paper_rows():
    return json.loads((DATA / "paper_tables.json").read_text())["rows"]


@pytest.fixture(scope="session")
def small():
    """The preprocessing of the networks in the tests."""
    return SMALL


@pytest.fixture(scope="session")
def digits(small):
    """192 digits for training, 360 for evaluation."""
    return open_images("digits", "train", small, 10).limited(192), open_images("digits", "val", small, 10)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """made_once(name, make): a path that is created once by the first worker; the other workers wait for it."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def path_of(name, make):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(path)
        return path

    return path_of


@pytest.fixture(scope="session")
def dense_file(made_once):
    """File of the smallest ShuffleNet-V2 with ten classes, and random weights with their statistics."""

    def make(path):
        torch.manual_seed(0)
        info = ModelInfo("shufflenet_v2_x0_5", 10, "none", SMALL)
        model = build_model("torchvision:shufflenet_v2_x0_5", {"num_classes": 10}).train()
        with torch.no_grad():
            for _ in range(20):  # BatchNorms without statistics would make all outputs equal
                model(torch.randn(8, 3, 32, 32))
        model_files.save(model.eval(), path, info)

    return made_once("dense/dense.safetensors", make)


@pytest.fixture(scope="session")
def compressed_file(dense_file, made_once):
    job = ("compress", "-a", "shufflenet_v2_x0_5", "-g", 8, "-r", 8, "--progressive", "--refine", 1)
    return made_once(
        "compressed/compressed.safetensors", lambda path: good(*job, "--weights", dense_file, "--out", path)
    )


@pytest.fixture(scope="session")
def saved_file(tmp_path_factory):
    """(model, report, path) of a ResNet-18 with seven classes, with some layers in the paper's encoding."""
    torch.manual_seed(0)
    model = build_model("torchvision:resnet18", {"num_classes": 7})
    recipe = tenreo.Recipe(8, tenreo.Progressive(4.0), ("layer1.*", "layer2.0.*", "fc"), refine=0)
    report = tenreo.compress_(model, recipe)
    path = tmp_path_factory.mktemp("saved") / "m.safetensors"
    tenreo.save(model, path)
    return model, report, path


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """A folder of PNG files: 215 digits for training, 37 for evaluation."""
    folder = tmp_path_factory.mktemp("digits")
    for split, count in (("train", 215), ("val", 37)):
        for i, (array, label) in enumerate(open_images("digits", split, SMALL, 10).limited(count).samples):
            path = folder / split / f"class{label}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return folder


@pytest.fixture(scope="session")
def uninterrupted(digits_folder, made_once):
    """(output, folder) of a run of tests/tiny_run.py without interruption."""

    def make(folder):
        folder.mkdir()
        (folder / "output").write_text(tiny_run(digits_folder, folder))

    folder = made_once("uninterrupted", make)
    return (folder / "output").read_text(), folder


@pytest.fixture
def folder(tmp_path, small):
    """A folder with 40 digits of 64 by 64 pixels in val/, as PNG files."""
    digits = open_images("digits", "val", small, None)
    for i, (array, label) in enumerate(digits.samples[:40]):
        path = tmp_path / "val" / f"class{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(array, np.ones((8, 8), np.uint8))).save(path)
    return tmp_path


@pytest.fixture(scope="session")
def reference_state():
    """A compressed model's state dict under the names of the reference implementation."""

    def state_of(model):
        names = {".parametrizations.weight.original": ".weight", ".parametrizations.weight.0.positions": ".index"}
        state = {}
        for key, value in model.state_dict().items():
            for ours, theirs in names.items():
                key = key.replace(ours, theirs)
            state[key] = nn.Parameter(value.detach(), requires_grad=False)
        return state

    return state_of


@pytest.fixture
def disk_full_after():
    """disk_full_after(size): a context in which no file of this process grows beyond this number of bytes."""

    @contextmanager
    def full(size):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return full


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The temporary folder of the test, as the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path

"""The origin of the tensors that files state: version, digest and license."""

import copy
import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from processes import here
from torch import nn

import tenreo
from tenreo.files.header import read_header
from tenreo.files.records import ModelInfo


def digest(state):
    """The digest of docs/format.md, for tensors in float32 and int64."""
    names = {torch.float32: "F32", torch.int64: "I64"}
    lines = [
        f"{name} {names[x.dtype]} {'x'.join(map(str, x.shape))} {sha256(x.numpy().tobytes()).hexdigest()}\n"
        for name, x in state.items()
    ]
    return sha256("".join(sorted(lines)).encode()).hexdigest()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Linear(128, 64)).eval()


@pytest.mark.parametrize("rate", [tenreo.Uniform(4.0), tenreo.TargetSize(14_000)])
def test_files_of_models_state_their_origin(tmp_path, rate):
    model = network()
    wanted = digest(copy.deepcopy(model.state_dict()))
    recipe = tenreo.Recipe(4 if isinstance(rate, tenreo.Uniform) else None, rate)
    report = tenreo.compress_(model, tenreo.resolve(recipe, model, ModelInfo(license="apache-2.0")))
    first, again, copied = (tmp_path / f"{name}.safetensors" for name in "abc")
    tenreo.save(model, first, ModelInfo(license="apache-2.0"))
    header = read_header(first)
    assert json.loads(header.metadata["tenreo.source"]) == {
        "tenreo": tenreo.__version__, "sha256": wanted, "license": "apache-2.0",
    }  # fmt: skip
    assert header.info.license == "apache-2.0" and "license" not in json.loads(header.metadata["tenreo.model"])
    assert report.after.bytes == first.stat().st_size
    tenreo.save(tenreo.load(first, network()), again, header.info)
    tenreo.save(copy.deepcopy(model), copied, header.info)
    assert first.read_bytes() == again.read_bytes() == copied.read_bytes()


def test_the_command_states_the_license_of_a_model(dense_file, inside):
    job = ("compress", "-a", "shufflenet_v2_x0_5", "--weights", dense_file, "-g", 8, "-r", 8, "--include", "fc")
    for name in ("a.safetensors", "b.safetensors"):
        here(*job, "--no-match-statistics", "--license", "bsd-3-clause", "-o", name)
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    source = read_header(Path("a.safetensors")).source
    assert (source.license, source.digest) == ("bsd-3-clause", digest(tenreo.load(dense_file).state_dict()))
    assert f"sha256 {source.digest}, license bsd-3-clause" in here("inspect", "a.safetensors").stdout

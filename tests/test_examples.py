"""Tests that run the examples of the docstrings and of the README."""

import copy
import doctest
import importlib
import re

import pytest
import torch
from processes import ROOT
from torch import nn

import tenreo

PACKAGE = ROOT / "tenreo"
MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for p in PACKAGE.rglob("*.py")
    if p.stem != "__main__"
)
EXAMPLES = ("encode", "decode", "compress_", "expand_", "resolve", "calibrate_", "match_statistics_", "save")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    torch.manual_seed(0)
    if name == "tenreo.checkpoints.quantizer":
        pytest.importorskip("transformers")
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_public_functions_have_an_example():
    for name in EXAMPLES:
        assert ">>> " in getattr(tenreo, name).__doc__, name


def python_blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def test_the_example_of_the_readme(tmp_path, monkeypatch):
    """The code runs unchanged, with a small network as the user's model."""
    blocks = python_blocks((ROOT / "README.md").read_text())
    assert len(blocks) == 1 and "compress_" in blocks[0]
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=4), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 800, 3, stride=8),
        nn.BatchNorm2d(800),
    ).eval()  # fmt: skip
    names = {"model": dense}
    exec(compile(blocks[0], "README.md", "exec"), names)
    path = tmp_path / "small.safetensors"
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and 490_000 <= path.stat().st_size <= 500_000
    loaded, x = tenreo.load(path, copy.deepcopy(dense)), torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(x), names["small"](x)) and not torch.equal(loaded(x), dense(x))

"""The examples of the docstrings and of the README run."""

import doctest
import importlib
import re

import pytest
import torch
import torchvision
from processes import ROOT

PACKAGE = ROOT / "tenreo"
MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for p in PACKAGE.rglob("*.py")
    if p.stem != "__main__"
)
EXAMPLES = ("encode", "decode", "compress_", "expand_", "resolve", "calibrate_", "match_statistics_", "save")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    torch.manual_seed(0)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_public_functions_have_an_example():
    import tenreo

    for name in EXAMPLES:
        assert ">>> " in getattr(tenreo, name).__doc__, name


def python_blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def test_the_readmes_python(tmp_path, monkeypatch, capsys):
    """Word for word, but for the weights, which would be downloaded, and for a single layer, which saves a minute."""
    blocks = python_blocks((ROOT / "README.md").read_text())
    assert len(blocks) == 1 and "compress_" in blocks[0]
    code = blocks[0].replace('weights="IMAGENET1K_V1"', "weights=None")
    few = 'rate=tenreo.Progressive(0.5), include=("classifier.1",), refine=1'
    code = code.replace("rate=tenreo.Progressive(0.5)", few)
    assert few in code and "weights=None" in code
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    out = capsys.readouterr().out.split()
    assert int(out[0]) == names["report"].after.parameters and int(out[-1]) == names["report"].after.bytes
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]
    assert type(names["model"]) is torchvision.models.MobileNetV2
    x = torch.randn(1, 3, 64, 64)
    assert names["model"](x).shape == (1, 1000)

"""The public names: documented for readers, in `help`, and in docs/reference.md."""

import inspect
import re
from copy import deepcopy
from dataclasses import is_dataclass
from enum import Enum

import pytest
import torch
from processes import ROOT
from torch import nn

import tenreo

PAGE = (ROOT / "docs" / "reference.md").read_text()


def functions():
    """Yield the names of the public functions and methods, and the functions."""
    for name in tenreo.__all__:
        value = getattr(tenreo, name)
        if not inspect.isclass(value):
            yield name, inspect.unwrap(value)
            continue
        for method, member in vars(value).items():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if not method.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{method}", function


@pytest.mark.parametrize(("name", "function"), list(functions()), ids=lambda x: x if isinstance(x, str) else "")
def test_docstrings_state_what_is_done_returned_and_raised(name, function):
    text = inspect.getdoc(function) or ""
    summary, signature = text.partition("\n\n")[0], inspect.signature(function)
    assert summary.endswith(".") and "\n" not in summary
    owner = getattr(tenreo, name.partition(".")[0])
    is_property = isinstance(inspect.getattr_static(owner, name.rpartition(".")[2], None), property)
    returns = signature.return_annotation not in (None, "None") and not is_property
    assert not returns or "Returns:" in text or summary.startswith("Return ")
    raises = "raise TenreoError" in inspect.getsource(function)
    assert not raises or "Raises:" in text
    defaults = [repr(x.default) for x in signature.parameters.values()]
    assert not [each for each in defaults if " at 0x" in each]  # help() prints words


def test_every_public_name_has_an_entry_in_the_reference():
    assert set(re.findall(r"^::: tenreo\.(\w+)$", PAGE, re.MULTILINE)) == set(tenreo.__all__)


def test_dir_shows_the_public_names_alone():
    assert set(dir(tenreo)) == {*tenreo.__all__, "__version__"}


def test_types_of_public_attributes_are_public():
    public = {getattr(tenreo, name) for name in tenreo.__all__}
    for owner in filter(is_dataclass, public):
        words = set(re.findall(r"\b[A-Z]\w+", " ".join(str(x) for x in vars(owner)["__annotations__"].values())))
        own = {vars(inspect.getmodule(owner)).get(word) for word in words}
        classes = {x for x in own if inspect.isclass(x) and x.__module__.startswith("tenreo.")}
        assert all(each in public for each in classes), (owner, classes - public)
    assert any(inspect.isclass(each) and issubclass(each, Enum) for each in public)


def test_results_print_as_a_few_lines_and_in_notebooks():
    dense = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    model = deepcopy(dense)
    plan = tenreo.resolve(tenreo.Recipe(4, tenreo.Uniform(4.0)), model)
    report = tenreo.compress_(model, plan)
    analysis = tenreo.analyze(model, dense, torch.randn(8, 64))
    for result, start in ((plan, "Plan: "), (report, "Report: "), (analysis, "Analysis: ")):
        assert repr(result) == str(result) and str(result).startswith(start) and len(str(result).splitlines()) <= 3
        assert result._repr_html_().startswith(f"<pre>{start}") and "->" not in result._repr_html_()

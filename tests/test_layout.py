"""Imports only go down, and heavy libraries stay in their place."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "tenreo"
ROWS = [
    ["cli", "__main__"], ["tables"], ["finetuning"], ["runlog"], ["plotting"], ["runstate"], ["evaluation"], ["statistics"], ["data"], ["models"], ["checkpoint"],
    ["optimisation", "objective", "averaging"], ["compression"], ["plan"], ["layers", "target"], ["rules"], ["header"], ["recipe"], ["rates"],
    ["settings"], ["report", "schedule", "distributed"], ["core"], ["sizes"], ["errors"],
]  # fmt: skip
HOME = {
    "typer": {"cli"}, "rich": {"tables", "cli"}, "safetensors": {"checkpoint", "header"},
    "torchvision": {"models", "data"}, "yaml": {"recipe"}, "numba": {"core"}, "sklearn": {"data"},
    "matplotlib": {"runlog", "plotting"},
}  # fmt: skip
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                [f"tenreo.{a.name}" for a in node.names] if node.module == "tenreo" else [node.module]
            )


def row_of(name):
    return next((i for i, row in enumerate(ROWS) if name in row), None)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path):
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert row_of(here) is not None, f"{here} has no row"
    for name in imports(path):
        top, *rest = name.split(".")
        assert here in HOME.get(top, {here}), f"{path.name} imports {top}"
        if top == "tenreo" and rest and row_of(rest[0]) is not None:
            assert row_of(rest[0]) >= row_of(here), f"{path.name} imports {name}"


def test_the_public_names_are_there():
    import tenreo

    for name in tenreo.__all__:
        assert getattr(tenreo, name).__doc__

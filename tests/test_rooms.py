"""Imports between rooms go one way, heavy libraries are imported in few rooms, and functions are short."""

import ast
import re

import pytest
from processes import ROOT

import tenreo

PACKAGE = ROOT / "tenreo"
# A room may import from itself and from the rooms before it; "" stands for the modules outside of folders.
ROOMS = (
    "", "codec", "files", "modules", "planning", "compression", "checkpoints", "models", "correction", "data",
    "evaluation", "exporting", "training", "hub", "cli",
)  # fmt: skip
FIRST = {"errors", "sizes", "options", "devices", "distributed"}
ROOMS_OF_LIBRARY = {
    "typer": {"cli"}, "click": {"cli"}, "rich": {"cli"}, "yaml": {"planning", "data", "hub", "cli"},
    "matplotlib": {"cli"},
    "jinja2": {"cli"},
    "torchvision": {"models", "data"}, "PIL": {"data"}, "sklearn": {"data"}, "safetensors": set(),
    "numba": {"codec", "planning"}, "onnx": {"exporting"}, "onnxruntime": {"exporting"}, "onnxscript": {"exporting"},
    "timm": {"models"}, "huggingface_hub": {"files", "hub"}, "transformers": {"checkpoints"},
    "pyarrow": {"data"},
}  # fmt: skip
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem not in ("__init__", "__main__"))
DOCUMENT = ROOT / "docs" / "architecture.md"

TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in FILES}


def imports(tree, module):
    """Yield the full names of everything that a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            # A name that is imported from a package may be a module.
            yield from (f"{start}.{alias.name}" for alias in node.names)


def room_of(name):
    """Return the number of the room of a module; None for the package itself and its public names."""
    part = [*name.split("."), ""][1]
    if part in FIRST:
        return 0
    return ROOMS.index(part) if part in ROOMS and part else None


def wrong_imports(tree, module):
    """Yield the names that a module must not import but does."""
    room = ROOMS[room_of(module)]
    for name in imports(tree, module):
        top = name.split(".")[0]
        if top == "tenreo":
            target = room_of(name)
            # Public names may come from any room, so only the last room may import them.
            public = target is None and name != "tenreo.__version__"
            if (public and room != ROOMS[-1]) or (target is not None and target > room_of(module)):
                yield name
        elif room not in ROOMS_OF_LIBRARY.get(top, {room}):
            yield name


def test_every_folder_is_a_room_and_every_room_a_folder():
    folders = {p.relative_to(PACKAGE).parts[0] for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE}
    assert folders == set(ROOMS) - {""}
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert modules == FIRST


def test_imports_go_only_to_earlier_rooms():
    modules = {".".join(("tenreo", *path.with_suffix("").parts)): tree for path, tree in TREES.items()}
    assert [(module, name) for module, tree in modules.items() for name in wrong_imports(tree, module)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tenreo.codec.x", "from tenreo.files.header import Header"),
        ("tenreo.codec.x", "import tenreo.cli"),
        ("tenreo.files.x", "def f():\n    from tenreo import planning"),
        ("tenreo.files.x", "if TYPE_CHECKING:\n    from ..data import images"),
        ("tenreo.training.x", "from tenreo import Recipe"),
        ("tenreo.options", "import tenreo.codec.shape"),
        ("tenreo.training.x", "from rich.table import Table"),
        ("tenreo.compression.x", "import torchvision.models as models"),
    ],
)
def test_wrong_imports_are_detected(module, source):
    assert len(list(wrong_imports(ast.parse(source), module))) == 1
    assert list(wrong_imports(ast.parse("import torch\nfrom tenreo.errors import TenreoError"), module)) == []


def test_the_codec_does_not_use_modules():
    for path, tree in TREES.items():
        if path.parts[0] == "codec":
            nodes = list(ast.walk(tree))
            assert not [name for name in imports(tree, "tenreo.codec.x") if "torch.nn" in name], path
            assert not [node for node in nodes if isinstance(node, ast.Name) and node.id == "nn"], path
            assert not [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "nn"], path


def test_torchvision_is_imported_where_it_is_used():
    """It takes as long to import as torch, and most commands do not need it."""
    slow = ("torchvision", "tenreo.data.transforms")
    for path in FILES:
        if path != PACKAGE / "data" / "transforms.py":
            top = ast.Module([node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.If)], [])
            for node in top.body:
                names = imports(node, "") if isinstance(node, (ast.Import, ast.ImportFrom)) else ()
                assert not [name for name in names if name.startswith(slow)], path


def test_the_document_states_the_order_of_the_rooms():
    lines = [line.replace("`", "") for line in DOCUMENT.read_text().splitlines() if re.match("`?codec`? →", line)]
    assert [line.split(" → ") for line in lines] == [list(ROOMS[1:])]


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_functions_are_short_and_take_few_parameters():
    for path, tree in TREES.items():
        for node in functions(tree):
            args = node.args
            names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if a]
            count = len([name for name in names if name not in ("self", "cls")])
            where = f"{node.name} of {path}"
            assert node.end_lineno - node.lineno + 1 < 60, f"{where} is long"
            if isinstance(node.body[0], ast.Expr) and getattr(node.body[0].value, "value", None) is Ellipsis:
                continue  # a signature for type checkers alone
            assert count <= 8 or path.parts[:2] == ("cli", "commands"), f"{where} takes {count}"


def test_public_functions_and_classes_have_docstrings():
    kinds = (ast.FunctionDef, ast.ClassDef)
    for path, tree in TREES.items():
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"
                for method in node.body if isinstance(node, ast.ClassDef) else ():
                    if isinstance(method, kinds) and not method.name.startswith("_"):
                        assert ast.get_docstring(method), f"{path}: {node.name}.{method.name}"


def test_public_names_are_the_same_for_type_checkers():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    typed = {}
    for node in block.body:
        for alias in node.names:
            assert alias.asname == alias.name  # so that type checkers regard the name as public
            typed[alias.name] = node.module.removeprefix("tenreo.")
    assert typed == tenreo._MODULES
    assert set(tenreo.__all__) == {"TenreoError", *typed} and set(tenreo.__all__) <= set(dir(tenreo))


@pytest.mark.parametrize("name", tenreo.__all__)
def test_public_names_exist_and_have_docstrings(name):
    value = getattr(tenreo, name)
    assert value.__doc__ and value.__name__ == name
    assert value.__module__ == f"tenreo.{tenreo._MODULES.get(name, 'errors')}"


def test_other_names_raise_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tenreo' has no attribute 'compress'"):
        _ = tenreo.compress

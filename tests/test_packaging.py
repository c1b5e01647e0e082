"""Files outside of the package: lowest versions, continuous integration, the menu of the documentation, examples."""

import re
import runpy
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from processes import ROOT

EXAMPLES = ("own_model", "serving", "training_loop")
# Examples that take seconds, and the package of each that is not part of `dev`.
SLOW_EXAMPLES = {
    "accelerate_training": "accelerate", "compiled": None, "lightning_training": "lightning", "torchao_int8": "torchao",
}  # fmt: skip


def test_the_lowest_versions_equal_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = [
        project["dependencies"],
        *(extras[name] for name in ("demo", "plot", "report", "tensorboard", "timm", "datasets", "hub", "onnx")),
    ]
    expected = [requirement.replace(">=", "==") for group in groups for requirement in group]
    lines = (ROOT / "tests" / "lowest-versions.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == expected


def test_the_workflow_runs_the_same_script_on_every_version():
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    supported = {f"Programming Language :: Python :: {version}" for version in job["strategy"]["matrix"]["python"]}
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert supported == {line for line in classifiers if line.startswith("Programming Language :: Python :: 3.")}
    assert all("bash .ci/run" in step["run"] for step in job["steps"] if "run" in step)


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    pages = (page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md"))
    assert [str(page) for page in pages if f": {page}\n" not in menu] == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example, inside, capsys):
    runpy.run_path(str(ROOT / "examples" / f"{example}.py"), run_name="__main__")
    output = capsys.readouterr()
    assert output.out and not output.err


@pytest.mark.slow
@pytest.mark.parametrize("example", SLOW_EXAMPLES)
def test_examples_with_other_packages_run(example, inside):
    if SLOW_EXAMPLES[example]:
        pytest.importorskip(SLOW_EXAMPLES[example])
    elif not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    program = [sys.executable, ROOT / "examples" / f"{example}.py"]
    output = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    if example == "torchao_int8":
        decoded, int8 = map(float, re.findall(r"([\d.]+) %", output))
        assert 0.1 < decoded < int8 < 2
    else:
        first, last = map(float, re.search(r"loss ([\d.]+) -> ([\d.]+)", output).groups())
        assert 0 < last < 0.8 * first


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(inside):
    nbformat, client = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    notebook = nbformat.read(ROOT / "examples" / "digits.ipynb", 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    stored = ["".join(each.get("text", "") for each in cell.outputs) for cell in code]
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(inside)}}).execute()
    texts = ["".join(each.get("text", "") for each in cell.outputs) for cell in code]
    assert [re.sub(r"[\d.,]+", "0", text) for text in texts] == [re.sub(r"[\d.,]+", "0", text) for text in stored]
    assert all(float(number) > 90 for number in re.findall(r"([\d.]+)%", "".join(texts)))


def test_every_example_is_tested():
    files = {path.name for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert files == {*(f"{name}.py" for name in (*EXAMPLES, *SLOW_EXAMPLES)), "digits.ipynb"}

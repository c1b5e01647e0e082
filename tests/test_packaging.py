"""Files outside of the package: lowest versions, continuous integration, the menu of the documentation, examples."""

import runpy
import tomllib

import pytest
import yaml
from processes import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


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


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example, inside, capsys):
    runpy.run_path(str(example), run_name="__main__")
    output = capsys.readouterr()
    assert output.out and not output.err


def test_every_example_is_tested():
    assert [path.stem for path in EXAMPLES] == ["own_model", "serving", "training_loop"]

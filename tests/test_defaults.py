"""YAML in place of options."""

from pathlib import Path

import pytest
import typer

from tenreo.cli.app import app
from tenreo.cli.defaults import use_yaml
from tenreo.cli.finetune import finetune
from tenreo.errors import TenreoError

CONFIGS = Path(__file__).parent.parent / "configs" / "finetuning"


def defaults(path):
    context = typer.Context(typer.main.get_command(app).commands["finetune"])
    use_yaml(context, path, finetune)
    return context.default_map


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: many", "epochs: given 'many', needs a whole number"),
        ("epochs: 1.5", "epochs: given 1.5, needs a whole number"),
        ("epochs: true", "epochs: given True, needs a whole number"),
        ("epochs: [1, 2]", r"epochs: given \[1, 2\], needs a whole number"),
        ("workers: two", "workers: given 'two', needs a whole number"),
        ("amp: 3", "amp: given 3, needs true or false"),
        ("lr: fast", "lr: given 'fast', needs a number"),
        ("lr: [1]", r"lr: given \[1\], needs a number"),
        ("schedule: 4", "schedule: given 4, needs a word"),
        ("out: {a: 1}", "out: given .*, needs a path"),
        ("learning_rate: 1", "unknown key 'learning_rate'; known keys are data, epochs"),
        ("file: x", "unknown key 'file'"),
        ("config: x", "unknown key 'config'"),
        ("3: x", "unknown key 3"),
        ("- epochs", "given list, needs keys and values"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(TenreoError, match=rf"c\.yaml: {message}"):
        defaults(path)


def test_good_values_are_taken(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 3\nlr: 1e-4\nclip: 1\nema: 0.9\namp: true\nout: x.safetensors\nworkers:\n")
    assert defaults(path) == {"epochs": 3, "lr": "1e-4", "clip": 1, "ema": 0.9, "amp": True,
                              "out": "x.safetensors", "workers": None}  # fmt: skip


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_papers_settings_are_options(path):
    assert defaults(path)["epochs"] == 1

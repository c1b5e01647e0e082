"""YAML files of options."""

import os
import re
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from processes import ROOT, refused

from tenreo import Progressive, Recipe, TargetParameters, TargetSize, Uniform, resolve
from tenreo.cli.commands.compress import Output, compress
from tenreo.cli.commands.finetune import TrainingData, TrainingOutput, finetune
from tenreo.cli.shared_options import Computing, File
from tenreo.cli.yaml_files import read_yaml
from tenreo.errors import TenreoError
from tenreo.models.builders import build_model
from tenreo.options import options_of
from tenreo.planning.rates import RateOptions, TargetAgreement, TargetBits, TargetKl
from tenreo.training.settings import Settings, default_lr

FINETUNE = [File, TrainingData, Settings, Computing, TrainingOutput]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TRAINING = sorted((ROOT / "configs" / "finetuning").glob("*.yaml"))
KEYS = ("coefficients", "dense_parameters", "batchnorm_statistics")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: many", "epochs: given 'many', needs a whole number"),
        ("epochs: 1.5", "epochs: given 1.5, needs a whole number"),
        ("epochs: true", "epochs: given True, needs a whole number"),
        ("epochs: [1, 2]", r"epochs: given \[1, 2\], needs a whole number"),
        ("epochs: -1", "epochs: given -1, needs a whole number of at least 0"),
        ("epochs:", "epochs: given nothing, needs a value"),
        ("workers: two", "workers: given 'two', needs a whole number"),
        ("amp: 3", "amp: given 3, needs true or false"),
        ("lr: fast", "lr: given 'fast', needs a number"),
        ("lr: [1]", r"lr: given \[1\], needs a number"),
        ("schedule: 4", "schedule: given 4, needs one of constant, step, cosine"),
        ("schedule: linear", "schedule: given 'linear', needs one of constant, step, cosine"),
        ("out: {a: 1}", "out: given .*, needs a path"),
        ("learning_rate: 1", "unknown key 'learning_rate'; known keys are data, train_split"),
        ("rate: 2.0", "unknown key 'rate'"),
        ("file: x", "unknown key 'file'"),
        ("config: x", "unknown key 'config'"),
        ("3: x", "unknown key 3"),
        ("- epochs", "given list, needs keys and values"),
        ("epochs: [", "cannot be read as YAML"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(TenreoError, match=rf"c\.yaml: {message}"):
        read_yaml(path, FINETUNE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grups: 4", r"unknown key 'grups'; did you mean groups\?$"),
        ("arch: 5", "arch: given 5, needs a word"),
        ("include: fc", "include: given 'fc', needs a list of words"),
        ("include:", "include: given nothing"),
        ("include: [1]", r"include: given \[1\], needs a list of words"),
        ("uniform: 2\nprogressive: 1", "rate: needs exactly one of rate, uniform and progressive"),
        ("rate: 2\nprogressive: 1.0", "rate: needs exactly one of rate, uniform and progressive"),
        ("importance: {fc: 0}", "importance of fc: given 0, needs a number above 0"),
        ("precision: int7", "precision: given 'int7', needs one of float32"),
        ("uniform: many", "rate: given 'many', needs a number"),
    ],
)
def test_wrong_keys_and_values_are_exit_code_2(inside, text, message):
    (inside / "c.yaml").write_text(text)
    error = refused("compress", "--config", "c.yaml", "-g", 4)
    assert re.search(rf"error: c\.yaml: {message}", error), error


def test_valid_values_are_converted(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 3\nlr: 1e-4\nclip: 1\nema: 0.9\namp: true\nout: x.safetensors\nworkers:\n")
    assert read_yaml(path, FINETUNE) == {"epochs": 3, "lr": 1e-4, "clip": 1, "ema": 0.9, "amp": True,
                                         "out": Path("x.safetensors"), "workers": None}  # fmt: skip


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: !!bool x", "line 1: the tag .*bool is not supported"),
        ("arch: x\ngroups: !!int ''", "line 2: the tag"),
        ("groups: !!timestamp x", "the tag"),
        ("groups: !!python/object/apply:os.system [ls]", "the tag"),
        ("groups: 2001-99-99", "groups: given '2001-99-99', needs a whole number"),
        ("groups: 2001-01-01", "groups: given '2001-01-01', needs a whole number"),
        ("groups: " + "9" * 5000, "Exceeds the limit"),
        ("groups: 0x" + "f" * 6000, "groups: given a number of 7,225 digits"),
        ("groups: " + "1" + ":59" * 3000, "groups: given a number of"),
        ("target_size: 0x" + "f" * 6000, "target_size: given 'a number of 7,225 digits', needs an amount"),
        ("rate: 1e400", "rate: given inf, needs a number of at most 2,147,483,648"),
        ("[" * 3000, "line 1: is nested more than 10 deep"),
        ("groups: " + "{a: " * 3000, "is nested more than 10 deep"),
        (BOMB, "anchors and aliases"),
        ("a: &a [*a]", "anchors and aliases"),
        ("groups: 4\nrefine: 1\ngroups: 8", "line 3: the key 'groups' is given twice"),
        ("importance: {a: 1, a: 2}", "the key 'a' is given twice"),
        ("? [a]\n: 3", "a key must be text"),
        ("? {a: b}\n: 3", "a key must be text"),
        ("match-statistic: 3", "unknown key 'match-statistic'; did you mean match_statistics"),
        ("null: 3", "unknown key None"),
        (r'"\x1b[2K\nerror": 3', r"unknown key '\\x1b\[2K\\nerror'"),
        (r'out: "a\0b"', "out: given .* that can be the name of a file"),
        ("include: ['']", "include: given"),
        ("groups: =", "could not determine"),
        ("# " + "x" * 2**20, "has more than 1,048,576 bytes"),
        ("groups: 4\n---\ngroups: 8", "but found another document"),
    ],
)
def test_no_yaml_ends_in_a_traceback_or_fills_the_memory(inside, text, message):
    (inside / "c.yaml").write_text(text)
    error = refused("compress", "--config", "c.yaml", "-a", "resnet18", *([] if "groups" in text else ["-g", 4]))
    assert re.search(message, error) and error.startswith("error: ") and len(error) < 2200
    assert error[:-1].isprintable()


def test_pipes_folders_and_missing_files_are_refused(inside):
    os.mkfifo(inside / "pipe")
    (inside / "folder").mkdir()
    for name in ("pipe", "folder", "/dev/zero", "nothing", "x" * 300):
        assert "cannot be read as YAML" in refused("compress", "--config", name, "-g", 4, "-r", 2)


def test_a_date_is_read_as_text(tmp_path):
    (tmp_path / "c.yaml").write_text("out: 2001-01-01\n")
    assert read_yaml(tmp_path / "c.yaml", FINETUNE) == {"out": Path("2001-01-01")}


def other_value(kind, default, option):
    """Return a value that differs from the default."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    default = None if default is MISSING else default
    if kind is bool:
        return not default
    if kind is int:
        return int(default or option.least or 0) + 1
    if kind is float:
        return 0.5 if default != 0.5 else 0.25
    if get_origin(kind) is tuple:
        return ["a*", "b"]
    if get_origin(kind) is dict:
        return {"a*": 2.0}
    if hasattr(kind, "__members__"):
        return next(str(member) for member in kind if member != default)
    return "word"


def every_key(command):
    """Yield dataclass, key and another value for every key of a command's YAML file."""
    for part in list(get_type_hints(command).values())[:-1]:
        for cls in (RateOptions, Recipe) if part is Recipe else (part,):
            types = get_type_hints(cls)
            for field in fields(cls):
                if field.name not in ("file", "source") and (cls, field.name) not in (
                    (Recipe, "rate"),
                    (Recipe, "layers"),
                ):
                    option = options_of(cls)[field.name]
                    yield cls, field.name, other_value(types[field.name], field.default, option)


@pytest.mark.parametrize(("cls", "key", "value"), list(every_key(compress)), ids=str)
def test_every_option_of_compress_is_a_key(parsed, inside, cls, key, value):
    special = {"rate": 2.0, "progressive": True, "target_size": "2MB", "target_params": "2M", "target_kl": 0.1,
               "target_agreement": 99.0, "dense_dtype": "float16", "bits": 4.0}  # fmt: skip
    value = special.get(key, value)
    values = {key: value} if key in ("rate", "bits") or key.startswith("target") else {"rate": 2.0, key: value}
    groups = {} if key in ("target_kl", "target_agreement") else {"groups": 8}  # these targets choose them
    text = yaml.safe_dump({**groups, **values}).replace("for_:", "for:")
    (inside / "c.yaml").write_text(text)
    parts = parsed("compress", "--config", "c.yaml")
    if cls is RateOptions:
        wanted = {"rate": Uniform(2.0), "progressive": Progressive(2.0), "target_size": TargetSize(2_000_000),
                  "target_kl": TargetKl(0.1), "target_agreement": TargetAgreement(99.0),
                  "target_params": TargetParameters(2_000_000), "bits": TargetBits(4.0)}  # fmt: skip
        assert parts[1].rate == wanted[key]
    else:
        part = next(part for part in parts if type(part) is cls)
        wanted = {"out": Path, "inputs": Path, "report": Path, "include": tuple, "exclude": tuple}.get(
            key, type(value)
        )(value)
        assert getattr(part, key) == wanted
        plain = parsed("compress", "-g", 8, "-r", 2)
        assert key == "groups" or getattr(part, key) != getattr(plain[parts.index(part)], key)


@pytest.mark.parametrize(("cls", "key", "value"), list(every_key(finetune)), ids=str)
def test_every_option_of_finetune_is_a_key(parsed, inside, cls, key, value):
    (inside / "c.yaml").write_text(yaml.safe_dump({"epochs": 5, "data": "d", key: value}))
    parts = parsed("finetune", "f", "--config", "c.yaml")
    received = getattr(next(part for part in parts if type(part) is cls), key)
    assert received == (Path(value) if key in ("out", "teacher", "labels", "class_map", "tensorboard") else value)


def test_keys_have_the_meaning_of_their_options(parsed, inside):
    text = "groups: 4\nuniform: 2.0\nmatch_statistics: false\ndense_dtype: float16\nprecision: int8"
    (inside / "c.yaml").write_text(text)
    dense, recipe, statistics, *_ = parsed("compress", "--config", "c.yaml", "-a", "resnet18")
    assert recipe == Recipe(4, Uniform(2.0), precision="int8", dense_dtype="float16")
    assert not statistics.match_statistics and dense.arch == "resnet18"
    (inside / "c.yaml").write_text("groups: 4\nprogressive: 0.5\n")
    assert parsed("compress", "--config", "c.yaml")[1] == Recipe(4, Progressive(0.5))


@pytest.mark.parametrize(
    ("text", "typed", "rate"),
    [
        ("progressive: 0.5", ["-r", 1.0], Progressive(1.0)),
        ("uniform: 3.0", ["-r", 2.0], Uniform(2.0)),
        ("uniform: 3.0", ["-r", 0.5, "--progressive"], Progressive(0.5)),
        ("progressive: 0.5", ["-r", 2.0, "--no-progressive"], Uniform(2.0)),
        ("progressive: 0.5", ["--target-size", "2MB"], TargetSize(2_000_000)),
        ("progressive: 0.5", ["--target-params", "2M"], TargetParameters(2_000_000)),
        ("target_size: 3MB", ["-r", 2.0], Uniform(2.0)),
        ("target_size: 3000000", ["--target-params", "2M"], TargetParameters(2_000_000)),
        ("target_size: 3000000", [], TargetSize(3_000_000)),
        ("target_params: 2000000.0", [], TargetParameters(2_000_000)),
    ],
)
def test_a_rate_on_the_command_line_replaces_that_of_the_file(parsed, inside, text, typed, rate):
    (inside / "c.yaml").write_text(f"groups: 4\n{text}\n")
    assert parsed("compress", "--config", "c.yaml", *typed)[1].rate == rate


def test_the_command_line_takes_precedence(parsed, inside):
    text = "groups: 4\nuniform: 2.0\nallocate: true\ninclude: [a, b]\nrefine: 3\nimportance: {a: 2}"
    (inside / "c.yaml").write_text(text)
    plain = parsed("compress", "--config", "c.yaml")[1]
    assert plain == Recipe(4, Uniform(2.0), ("a", "b"), refine=3, allocate=True, importance={"a": 2.0})
    for typed in (["--config", "c.yaml", "--no-allocate"], ["--no-allocate", "--config", "c.yaml"]):
        assert not parsed("compress", *typed)[1].allocate
    typed = ["--config", "c.yaml", "-g", 8, "--include", "c", "--refine", 0, "--importance", "c=3"]
    assert parsed("compress", *typed)[1] == Recipe(
        8, Uniform(2.0), ("c",), refine=0, allocate=True, importance={"c": 3.0}
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_gives_the_counts_of_the_paper(parsed, path, paper_rows):
    dense, recipe, *_ = parsed("compress", "--config", path)
    key = (dense.arch, recipe.groups, recipe.rate.number)
    row = next(r for r in paper_rows if (r["arch"], r["groups"], r["rate"]) == key)
    plan = resolve(recipe, build_model(f"torchvision:{dense.arch}", device="meta"))
    assert plan.after.positions == row["index"]
    names = {"dense_parameters": "other_parameters"}
    assert {k: getattr(plan.after, k) for k in KEYS} == {k: row[names.get(k, k)] for k in KEYS}
    assert f"{plan.after.parameters / 1e6:.1f}" == row["parameters_millions"]
    assert f"{plan.after.paper_trainable / 1e6:.1f}" == row["trainable_millions"]


def test_every_row_of_the_paper_has_a_configuration(paper_rows):
    assert len(CONFIGS) == sum(r["groups"] is not None for r in paper_rows) == 10


@pytest.mark.parametrize("path", TRAINING, ids=lambda p: p.stem)
def test_the_configurations_of_finetuning_have_the_settings_of_the_paper(parsed, path):
    arch = "mobilenet_v2" if path.stem == "mobilenet_v2" else "resnet50"
    parts = parsed("finetune", "f", "--data", "d", "--config", path)
    settings = next(part for part in parts if isinstance(part, Settings))
    assert settings == Settings(
        epochs=1, batch_size=64, lr=default_lr(arch), momentum=0.9, weight_decay=1e-4, schedule="step", augment="none"
    )


def test_all_configurations_are_tested():
    assert sorted((ROOT / "configs").rglob("*.yaml")) == sorted([*CONFIGS, *TRAINING])
    assert {p.stem for p in TRAINING} == {"resnet", "mobilenet_v2"}


def test_the_key_of_an_option_is_its_name(inside):
    Path("for.yaml").write_text("for: onnx\n")
    assert read_yaml(Path("for.yaml"), [Output]) == {"for_": "onnx"}
    Path("for.yaml").write_text("for: onyx\n")
    with pytest.raises(TenreoError, match="for: given 'onyx', needs one of onnx"):
        read_yaml(Path("for.yaml"), [Output])


def test_the_home_folder_is_expanded_in_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert Output(out=Path("~/x.safetensors")).out == Path("/somewhere/x.safetensors")

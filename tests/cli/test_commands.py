"""Properties of all commands: signatures, help, exit codes and JSON."""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import typer
from processes import COMMANDS, ROOT, bad, good, here, refused

import tenreo as package
from tenreo.cli.app import app
from tenreo.models.names import architecture_names
from tenreo.options import options_of
from tenreo.planning.rates import RateOptions
from tenreo.planning.recipe import Recipe

DOCUMENT = ROOT / "docs" / "cli.md"
WITH_YAML = ("compress", "finetune")
POSITIONAL = ("file", "files", "source", "repository")
SEARCHED = ("target_kl", "target_agreement")  # options that `sweep` does not have


def command_of(name):
    """Return the function of a command."""
    return getattr(importlib.import_module(f"tenreo.cli.commands.{name}"), name)


def params_of(name):
    """Return the parameters of a command by name, without --help and --config."""
    params = typer.main.get_command(app).commands[name].params
    return {p.name: p for p in params if p.name not in ("help", "config")}


def fields_of(name):
    """Return class and field of every option of a command by name, without `Recipe.rate` and `Recipe.layers`."""
    by_name = {}
    for hint in list(get_type_hints(command_of(name)).values())[:-1]:
        cls = get_args(hint)[0] if get_args(hint) else hint
        for part in (RateOptions, Recipe) if cls is Recipe else (cls,):
            by_name |= {f.name: (part, f) for f in fields(part) if part is not Recipe or "option" in f.metadata}
    return {key: value for key, value in by_name.items() if name != "sweep" or key not in SEARCHED}


def test_version_and_help_in_a_process():
    assert good("--version").stdout.strip() == f"tenreo {package.__version__}"
    output = good("--help").stdout
    assert all(re.search(rf"^  {command} ", output, re.M) for command in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_parameters_are_the_fields_of_the_dataclasses(name):
    params, known = params_of(name), fields_of(name)
    assert set(params) == set(known)
    yaml = [p.name for p in typer.main.get_command(app).commands[name].params if p.name == "config"]
    assert yaml == ["config"] * (name in WITH_YAML)
    for key, (cls, field) in known.items():
        param = params[key]
        option = options_of(cls)[key]  # no field without help
        assert param.help.startswith(option.help.removesuffix(".")), key
        assert not option.range or option.least == -(2**63) or option.range in param.help, key
        if key in ("file", "files") or (field.default is MISSING and field.default_factory is MISSING):
            assert param.required == (cls is not Recipe), key  # groups may be chosen for a size
        else:
            default = () if field.default is MISSING else field.default
            assert not param.required and (param.default or None) == (default or None), key


@pytest.mark.parametrize("name", COMMANDS)
def test_names_of_options_are_those_of_fields(name):
    for key, param in params_of(name).items():
        if key not in POSITIONAL:
            assert f"--{key.rstrip('_').replace('_', '-')}" in param.opts
            assert bool(param.secondary_opts) == (get_type_hints(fields_of(name)[key][0])[key] is bool), key


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_receive_the_defaults(parsed, name):
    typed = {
        "finetune": ["f", "--data", "d"],
        "evaluate": ["f"],
        "inspect": ["f"],
        "export": ["f", "--to", "x.onnx"],
        "compress": ["-g", 4, "-r", 2],
        "sweep": ["-g", 4, "-r", 2],
        "decompress": ["f", "-o", "x.safetensors"],
        "verify": ["f"],
        "card": ["f"],
        "push": ["f", "user/m"],
        "pull": ["user/m", "-o", "x.safetensors"],
    }
    typed = typed.get(name, [])
    given = {"file": Path("f"), "files": ("f",), "data": "d", "to": Path("x.onnx"), "out": Path("x.safetensors"),
             "repository": "user/m"}  # fmt: skip
    hints = list(get_type_hints(command_of(name)).values())[:-1]
    for hint, part in zip(hints, parsed(name, *typed), strict=True):
        if hint is Recipe or get_origin(hint) is list:
            wanted = Recipe(4, package.Uniform(2.0))
            assert part == (wanted if hint is Recipe else [wanted])
        elif hint == Recipe | None:
            assert part is None
        else:
            needed = {f.name for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING}
            assert part == hint(**{key: given[key] for key in needed})


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_readable_at_80_columns(name):
    output = here(name, "--help", columns=80).stdout
    assert max(map(len, output.splitlines())) <= 80 and "…" not in output
    words = " ".join(output.split())
    for key, (cls, field) in fields_of(name).items():
        assert key in POSITIONAL or f"--{key.rstrip('_').replace('_', '-')} " in words
        assert " ".join(options_of(cls)[key].help.removesuffix(".").split()) in words, key
        if isinstance(field.default, (int, float, str, Path)) and not isinstance(field.default, bool):
            assert f"[default: {field.default}]" in words, key
    assert f"Example: tenreo {name}" in words
    assert "\nRate or size:\n" in output or name not in ("compress", "sweep")


def test_the_list_of_commands_and_the_usage_lines_are_whole():
    words = " ".join(here("--help", columns=80).stdout.split())
    for name in COMMANDS:
        assert " ".join(command_of(name).__doc__.partition("\n\n")[0].split()).removesuffix(".") in words, name
    assert here("evaluate", "--help").stdout.startswith("Usage: tenreo evaluate [OPTIONS] FILE...\n")
    assert here("compress", "--help").stdout.startswith("Usage: tenreo compress [OPTIONS] [FILE|FOLDER]\n")
    assert (
        "list[str]" not in here("evaluate", "--help").stdout and "On by default." in here("compress", "--help").stdout
    )
    sweep = here("sweep", "--help").stdout
    assert "--target-kl" not in sweep and "--target-agreement" not in sweep and "--target-size" in sweep


def test_help_and_inspect_do_not_import_torch(compressed_file):
    code = (
        "import sys, tenreo.cli.app as a\n"
        "try: a.app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    for arguments in (["--help"], ["compress", "--help"], ["finetune", "--help"], ["inspect", str(compressed_file)]):
        command = [sys.executable, "-c", code, *arguments]
        assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0, arguments


@pytest.mark.parametrize(("own", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
                                              ({"GOMP_SPINCOUNT": "9"}, None)])  # fmt: skip
def test_idle_threads_of_torch_sleep_unless_the_user_decides(compressed_file, monkeypatch, own, expected):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")  # so that the end of the test restores it
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    here("inspect", compressed_file)
    assert os.environ.get("OMP_WAIT_POLICY") == expected


def test_names_and_devices_are_completed():
    for name, beginning, wanted in (("arch", "resnet5", ["resnet50"]), ("device", "cp", ["cpu"])):
        param = params_of("compress")[name]
        assert [item.value for item in param.shell_complete(None, beginning)] == wanted
    assert "resnext50_32x4d" in architecture_names()
    output = here("compress", "--help").stdout
    assert "float32|float16|bfloat16|int8|int6" in output and "--dense-dtype <float32|float16|bfloat16|coded>" in output


def test_wrong_usage_in_a_process_is_exit_code_2():
    assert "No such option" in bad("compress", "--nonsense", code=2)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["evaluate", "x.safetensors"], "data: not given, needs a folder of images or digits"),
        (["inspect"], "Missing argument 'FILE|FOLDER'"),
        (["inspect", "x.safetensors"], "x.safetensors: cannot be opened: no such file"),
        (["inspect", "."], ".: has no file of weights; give a folder with"),
        (["evaluate", "x.safetensors", "--data", "digits"], "cannot be opened"),
        (["finetune", "x.safetensors", "--data", "digits"], "cannot be opened"),
        (["compress", "-g", "four"], "Invalid value for"),
        (["compress", "-g", 4, "-r", 2, "--precision", "int7"], "Invalid value for '--precision'"),
        (
            ["compress", "-g", 4, "-r", 2],
            "arch: not given, needs an architecture such as resnet50; use --model for other models (-a/--arch)",
        ),
        (["compress", "-a", "resnet51", "-g", 4, "-r", 2], "no classification architecture 'resnet51'"),
        (["sweep", "-a", "resnet18", "-g", 4], "rate: not given; use -r 2, -r 0.5 --progressive"),
        (["sweep", "-a", "resnet18", "-r", 4], "groups: given None, needs a whole number"),
        (["compres"], "No such command"),
    ],
)
def test_wrong_usage_is_exit_code_2(inside, typed, message):
    assert message in refused(*typed)
    assert not list(inside.iterdir())


def test_errors_after_the_checks_are_exit_code_1(inside, compressed_file, folder):
    damaged = inside / "damaged.safetensors"
    damaged.write_bytes(compressed_file.read_bytes()[:-100])
    for typed in (["inspect", damaged], ["evaluate", damaged, "--data", "digits"]):
        assert "damaged.safetensors: cannot be read as safetensors" in refused(*typed, code=1)
    (folder / "val" / "class3" / "zz.JPEG").write_bytes(b"not an image")
    error = refused("evaluate", compressed_file, "--data", folder, "--workers", 0, code=1)
    assert "zz.JPEG: cannot be read as an image" in error and error.count("error: ") == 1


def test_debug_shows_the_traceback(monkeypatch):
    done = failed_with_traceback("--debug", "inspect", "nothing.safetensors")
    assert "Traceback" in done.stderr and "WrongUsageError" in done.stderr


def failed_with_traceback(*typed):
    done = subprocess.run([sys.executable, "-m", "tenreo", *typed], capture_output=True, text=True)
    assert done.returncode == 1
    return done


def test_the_documented_tables_are_those_of_the_options():
    """`python docs/cli_tables.py` rewrites them."""
    tables = runpy.run_path(str(ROOT / "docs" / "cli_tables.py"))
    text = DOCUMENT.read_text()
    assert tables["rewritten"](text) == text
    assert re.findall("<!-- options of (\\w+) -->", text) == list(COMMANDS)
    for name in COMMANDS:
        names = set(re.findall("`--(?!no-)([a-z0-9-]+)`", tables["option_table"](name)))
        assert names == {key.rstrip("_").replace("_", "-") for key in params_of(name)} - set(POSITIONAL)


def documented_keys():
    """Return the keys in the first column of the table under each heading of docs/cli.md."""
    keys, heading = {}, None
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("#"):
            title = re.fullmatch(r"### `tenreo (.*)`", line)
            heading = title[1] if title else None
        elif heading and (row := re.match(r"\| *`(\w+)`", line)):
            keys.setdefault(heading, set()).add(row[1])
    return keys


@pytest.fixture(scope="session")
def objects(compressed_file, dense_file, tmp_path_factory):
    """The JSON object that each command prints, by its heading in docs/cli.md."""
    folder = tmp_path_factory.mktemp("objects")
    dense = ("-a", "shufflenet_v2_x0_5", "--weights", dense_file, "-g", 8, "-r", 8, "--include", "fc")
    typed = {
        "compress --json": ("compress", *dense, "-o", folder / "m.safetensors", "--no-match-statistics"),
        "compress --dry-run --json": ("compress", *dense, "--dry-run"),
        "inspect --json": ("inspect", compressed_file),
        "evaluate --json": ("evaluate", compressed_file, "--data", "digits", "--limit", 8),
        "finetune --json": ("finetune", compressed_file, "--data", "digits", "--epochs", 0, "--calibrate", 1,
                            "-b", 8, "-o", folder / "f.safetensors"),
        "sweep --json": ("sweep", *dense, "--refine", 1),
        "decompress --json": ("decompress", compressed_file, "-o", folder / "p.safetensors"),
        "verify --json": ("verify", compressed_file),
        "analyze --json": ("analyze", *dense, "--refine", 1, "--data", "digits", "--limit", 4),
        "export --json": ("export", compressed_file, "--to", folder / "m.pth"),
        "card --json": ("card", compressed_file, "-o", folder / "README.md"),
    }  # fmt: skip
    return {heading: json.loads(here(*words, "--json").stdout) for heading, words in typed.items()}


def test_every_json_object_contains_its_schema_and_command(objects):
    for heading, printed in objects.items():
        assert printed["schema"] == 1 and printed["command"] == heading.split()[0]


def test_layers_are_always_a_list(objects):
    for heading in ("compress --json", "compress --dry-run --json", "inspect --json"):
        layers = objects[heading]["layers"]
        assert isinstance(layers, list) and all(isinstance(layer["name"], str) for layer in layers)


@pytest.mark.parametrize(
    "heading",
    ["compress --json", "compress --dry-run --json", "inspect --json", "evaluate --json", "finetune --json",
     "sweep --json", "export --json", "analyze --json", "decompress --json", "verify --json", "card --json"],
)  # fmt: skip
def test_the_documented_keys_are_printed(objects, heading):
    common = {"schema", "command"}
    assert documented_keys()[heading] | common == set(objects[heading])

"""Models of every source on the command line: `--model`, `tenreo export`, and settings of single layers in YAML."""

import json
import sys

import numpy
import onnxruntime
import pytest
import torch
from processes import good, here, refused
from safetensors.torch import load_file

import tenreo
from tenreo.files.header import read_header
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.models.builders import build_model

MODULE = """
from pathlib import Path
import torch
from torch import nn
def build():
    Path("called").touch()
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 4), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(256, 10),
    )
def gray():
    return nn.Sequential(nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(64, 10))
def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
def text():
    return nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 64))
def fails():
    raise RuntimeError("on purpose")
class Hungry(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + x.new_empty(2**45)[0]
def hungry():
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), Hungry(64, 64, 1))
def number():
    return 3
"""
HALF = "0.5,0.5,0.5"
SMALL = ("--input", "3x32x32", "--mean", HALF, "--std", HALF)
FAST = ("-g", 4, "-r", 2, "--refine", 0)


@pytest.fixture
def clinet(inside, monkeypatch):
    """A module of model functions in the working folder; `build` creates the file `called`."""
    (inside / "clinet.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield inside
    sys.modules.pop("clinet", None)


@pytest.fixture(scope="module")
def made_in_module():
    """Contents of the files that the tests of this module have made."""
    return {}


@pytest.fixture
def own(clinet, made_in_module):
    """A compressed file of the model that `clinet:build` returns."""
    path = clinet / "own.safetensors"
    if path.name not in made_in_module:
        here("compress", "--model", "clinet:build", *FAST, *SMALL, "-o", path)
        (clinet / "called").unlink()
        made_in_module[path.name] = path.read_bytes()
    path.write_bytes(made_in_module[path.name])
    return path


@pytest.mark.slow
def test_a_function_is_compressed_in_a_process_evaluated_and_exported(clinet):
    output = good("compress", "-m", "clinet:build", *FAST, *SMALL).stdout
    name = "compressed-clinet-build-uniform-4-2.0.safetensors"
    assert f"wrote {name}" in output and "images of noise" in output and "% are compressed" in output
    info = read_header(clinet / name).info
    assert (info.builder, info.classes, info.preprocess.crop) == ("clinet:build", 10, 32)
    assert info.preprocess.mean == (0.5, 0.5, 0.5)
    result = json.loads(
        here("evaluate", name, "--model", "clinet:build", "--data", "digits", "--limit", 30, "--json").stdout
    )
    assert result["images"] == 30
    done = json.loads(here("export", name, "-m", "clinet:build", "--to", "m.onnx", "--json").stdout)
    assert done["dynamic"] is True and done["difference"] < 1e-5 and done["bytes"] == (clinet / "m.onnx").stat().st_size


def test_a_function_is_called_only_if_the_command_line_names_it(own, clinet):
    for typed in (("evaluate", own, "--data", "digits"), ("finetune", own, "--data", "digits"),
                  ("export", own, "--to", "x.pth")):  # fmt: skip
        error = refused(*typed)
        assert "names the function clinet:build" in error and "(-m/--model)" in error
        assert "names clinet:build" in refused(*typed, "--model", "clinet:gray")
    assert "clinet:build" in here("inspect", own).stdout
    assert not (clinet / "called").exists()


@pytest.mark.slow
def test_exported_models_have_the_outputs_of_the_compressed_model(own, clinet):
    model = tenreo.load(own, trust_builder=True)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = model(x).detach()
    export = ("export", own, "--model", "clinet:build", "--to")
    output = here(*export, "m.onnx").stdout
    assert "batches: of any size" in output and "largest difference" in output
    session = onnxruntime.InferenceSession("m.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    numpy.testing.assert_allclose(outputs, expected.numpy(), atol=1e-5)
    here(*export, "m.pt2", "--input", "3x40x40")
    here(*export, "m.pth"), here(*export, "half.safetensors", "--dtype", "float16")
    plain = build_model("clinet:build", {}, trusted=True)
    plain.load_state_dict(torch.load("m.pth"))
    assert torch.equal(plain(x), expected)
    assert load_file("half.safetensors")["3.weight"].dtype == torch.float16
    assert read_header(clinet / "half.safetensors").info.builder == "clinet:build"
    before = (clinet / "m.pth").read_bytes()
    assert "exists already; use --force to replace it, or choose another --to" in refused(*export, "m.pth")
    assert (clinet / "m.pth").read_bytes() == before
    for typed in ("evaluate", "half.safetensors"), ("evaluate", "m.pth"):
        output = here(*typed, "--model", "clinet:build", "--data", "digits", "--limit", 10, "--json").stdout
        assert json.loads(output)["images"] == 10


def test_agreement_and_distillation_use_the_dense_weights_that_the_file_names(clinet, digits_folder):
    torch.save(build_model("clinet:build", {}, trusted=True).state_dict(), "dense.pth")
    model = ("--model", "clinet:build")
    here("compress", *model, "--weights", "dense.pth", *FAST, *SMALL, "-o", "c.safetensors")
    data = ("--data", digits_folder, "--workers", 0)
    output = here("evaluate", "c.safetensors", *model, *data, "--limit", 20, "--against", "dense", "--json").stdout
    assert json.loads(output)["against"]["kl"] < 0.1
    here("finetune", "c.safetensors", *model, *data, "--epochs", 1, "-b", 64, "--distill", "-o", "t.safetensors")
    assert read_header(clinet / "t.safetensors").info.builder == "clinet:build"
    output = here("evaluate", "t.safetensors", *model, *data, "--limit", 20, "--json").stdout
    assert json.loads(output)["images"] == 20


@pytest.mark.parametrize("absolute", [False, True])
def test_dense_weights_are_found_from_any_folder(clinet, monkeypatch, absolute):
    """Only the base name was written, and sought next to the compressed file."""
    torch.save(build_model("clinet:build", {}, trusted=True).state_dict(), "dense.pth")
    for folder in ("weights", "out/deeper", "elsewhere"):
        (clinet / folder).mkdir(parents=True)
    (clinet / "dense.pth").rename(clinet / "weights" / "dense.pth")
    (clinet / "link").symlink_to("out/deeper")
    given = clinet / "weights" / "dense.pth" if absolute else "weights/dense.pth"
    model = ("--model", "clinet:build")
    here("compress", *model, "--weights", given, *FAST, *SMALL, "-o", "link/c.safetensors")
    named = read_header(clinet / "out" / "deeper" / "c.safetensors").info.weights
    assert named == (str(given) if absolute else "../../weights/dense.pth")
    here("finetune", "link/c.safetensors", *model, "--data", "digits", "--epochs", 0, "--calibrate", 1, "-b", 64,
         "-o", "tuned.safetensors")  # fmt: skip
    here("export", "tuned.safetensors", *model, "--to", "elsewhere/dense.safetensors")
    monkeypatch.chdir(clinet / "elsewhere")
    monkeypatch.syspath_prepend(clinet)
    for file in (clinet / "out" / "deeper" / "c.safetensors", "../link/c.safetensors", "../tuned.safetensors",
                 "dense.safetensors"):  # fmt: skip
        job = ("evaluate", file, *model, "--data", "digits", "--limit", 4, "--against", "dense", "--json")
        assert json.loads(here(*job).stdout)["against"]["images"] == 4
    (clinet / "weights" / "dense.pth").rename(clinet / "dense.pth")  # moved together with the compressed file
    here("evaluate", "../tuned.safetensors", *model, "--data", "digits", "--limit", 4, "--against", "dense")
    (clinet / "dense.pth").unlink()
    before = (clinet / "called").stat().st_mtime_ns
    error = refused(
        "evaluate", "dense.safetensors", "../tuned.safetensors", *model, "--data", "digits", "--against", "dense"
    )
    assert "its dense weights" in error and "do not exist" in error and "give their file" in error
    assert (clinet / "called").stat().st_mtime_ns == before  # no model was built before this check


def test_a_file_from_python_has_the_classes_of_its_model(clinet):
    model = build_model("clinet:build", {}, trusted=True)
    flat = build_model("clinet:flat", {}, trusted=True)
    (clinet / "clinet.py").write_text(
        MODULE + "def flat():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))"
    )
    tenreo.save(model, "plain.safetensors")
    tenreo.save(flat, "flat.safetensors")
    tenreo.save(flat, "named.safetensors", ModelInfo(classes=10))
    tenreo.save(flat, "right.safetensors", ModelInfo(preprocess=Preprocess(32, 32)))
    data = ("--data", "digits", "--limit", 10, "--json")
    for file, name in (("plain", "build"), ("right", "flat")):
        output = here("evaluate", f"{file}.safetensors", "--model", f"clinet:{name}", *data).stdout
        assert json.loads(output)["images"] == 10
    for file in ("flat", "named"):
        for job in (
            ("evaluate", f"{file}.safetensors", *data),
            ("finetune", f"{file}.safetensors", *data[:2], "-o", "t.safetensors"),
        ):
            error = refused(*job, "--model", "clinet:flat")
            assert "the model does not take images of 3x224x224" in error and "--input if it takes others" in error


def test_timm_models_are_compressed_by_name(inside):
    dry = ("compress", "--model", "timm:convnext_atto", "-g", 4, "-r", 4, "--dry-run")
    plan = json.loads(here(*dry, "--json").stdout)
    assert 0.9 < plan["coverage"] < 1 and plan["before"]["dense_parameters"] == sum(
        p.numel() for p in build_model("timm:convnext_atto", {}, "meta").parameters()
    )
    output = here(*dry, columns=80).stdout
    assert max(map(len, output.splitlines())) <= 80
    assert sum(layer["why_dense"] != "" for layer in plan["layers"]) > 10 > output.count("not in the general rule")
    here("compress", "-m", "timm:mobilenetv3_small_050", "--weights", "none", "-g", 4, "-r", 8, "--refine", 0,
         "--input", "1x32x32", "--include", "blocks.*", "-o", "t.safetensors")  # fmt: skip
    info = read_header(inside / "t.safetensors").info
    assert (info.kwargs, info.preprocess.channels, info.preprocess.interpolation) == ({"in_chans": 1}, 1, "bicubic")
    assert "has 10 classes, the model has 1000" in refused("evaluate", "t.safetensors", "--data", "digits")


@pytest.mark.slow
def test_a_segmentation_model_is_compressed(inside):
    job = ("compress", *FAST, "--weights", "none", "--model", "torchvision:lraspp_mobilenet_v3_large", "--json")
    assert 0.5 < json.loads(here(*job, "--dry-run").stdout)["coverage"] < 1
    done = json.loads(here(*job, "--input", "3x16x16", "--include", "classifier.*").stdout)
    assert done["file"] == "compressed-lraspp_mobilenet_v3_large-uniform-4-2.0.safetensors"
    assert done["corrections"][0]["source"] == "noise" and done["after"]["positions"] > 0


def test_a_note_states_why_statistics_are_not_corrected(clinet):
    done = here("compress", "--model", "clinet:text", *FAST, "--include", "*", "-o", "t.safetensors")
    assert done.stderr.splitlines()[1].startswith("statistics are not corrected: input: the model does not take images")
    error = refused("export", "t.safetensors", "--model", "clinet:text", "--to", "t.onnx", code=1)
    assert "the model does not take images" in error


def test_no_file_is_written_if_memory_does_not_suffice_for_the_correction(clinet):
    error = refused("compress", "--model", "clinet:hungry", *FAST, *SMALL, "-o", "h.safetensors", code=1)
    assert error.startswith("error: out of memory: 140,737,488,355,328 bytes could not be allocated; try smaller")
    assert error.count("\n") == 1 and not (clinet / "h.safetensors").exists()


def test_sweep_accepts_a_model_function(clinet):
    rows = json.loads(here("sweep", "--model", "clinet:build", "-g", 4, 8, "-r", 2, "--dry-run", "--json").stdout)
    assert rows["model"] == "clinet:build" and len(rows["rows"]) == 3


COMPRESS = ("compress", *FAST, "--model")


@pytest.mark.parametrize(
    ("typed", "code", "message"),
    [
        ((*COMPRESS, "clinet"), 2, "needs timm:NAME, torchvision:NAME or package.module:function (-m/--model)"),
        ((*COMPRESS, "clinet.py"), 2, "package.module:function, such as clinet.py:build (-m/--model)"),
        ((*COMPRESS, "clinet:build", "-a", "resnet18"), 2, "use only one of --arch and --model"),
        ((*COMPRESS, "clinet:nothing"), 2, "has no attribute 'nothing'"),
        ((*COMPRESS, "nowhere:build"), 2, "there is no module 'nowhere'"),
        ((*COMPRESS, "timm:nothing"), 2, "timm has no model 'nothing'"),
        ((*COMPRESS, "torchvision:nothing"), 2, "torchvision has no model 'nothing'"),
        ((*COMPRESS, "clinet:fails"), 1, "cannot be built: on purpose"),
        ((*COMPRESS, "clinet:number"), 1, "returned an object of type int, needs a torch.nn.Module"),
        ((*COMPRESS, "clinet:build", "--input", "3x32"), 2, "input: given '3x32', needs channels, height and width"),
        ((*COMPRESS, "clinet:build", "--input", "3x32x48"), 2, "needs a square"),
        ((*COMPRESS, "clinet:build", "--input", "3x9999x9999"), 2, "at most 4,096 and 1,024 by 1,024"),
        ((*COMPRESS, "clinet:build", "--mean", "1,2"), 2, "mean: given without std, needs both, or one number per"),
        ((*COMPRESS, "clinet:build", "--std", "0,0,0"), 2, "std: "),
        ((*COMPRESS, "clinet:build", "--std", "a"), 2, "std: given 'a', needs a number per channel"),
        ((*COMPRESS, "clinet:build", "--weights", "nowhere.pth"), 2, "neither a file, nor none (--weights)"),
        (("compress", *FAST, "-a", "resnet18", "--input", "1x32x32"), 2, "take 3 channels"),
        (("export", "own.safetensors", "--to", "m.tflite"), 2, "to: given 'm.tflite', needs a name that ends in"),
        (("export", "own.safetensors", "--to", "no/m.onnx"), 2, "there is no folder no"),
        (("export", "nowhere", "--to", "m.onnx"), 2, "no such file"),
        (("export", "own.safetensors"), 2, "Missing option '--to'"),
        (("export", "own.safetensors", "-m", "clinet:build", "--to", "m.onnx", "--input", "5x9x9"), 1, "does not take"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_create_no_files(own, clinet, typed, code, message):
    before = sorted(clinet.rglob("*.*"))
    error = refused(*typed, code=code)
    assert message in error and error.count("\n") == 1
    assert [path for path in sorted(clinet.rglob("*.*")) if path.suffix != ".pyc"] == [
        path for path in before if path.suffix != ".pyc"
    ]


def test_weights_of_another_model_are_refused_with_a_hint(inside):
    torch.save(build_model("timm:convnext_atto", {}).state_dict(), "w.pth")
    error = refused(*COMPRESS, "timm:resnet10t", "--weights", "w.pth", code=1)
    assert "w.pth does not fit the model" in error and "names of timm's models" in error


def test_yaml_files_set_recipes_of_single_layers(clinet):
    (clinet / "r.yaml").write_text(
        "model: clinet:build\ngroups: 4\nuniform: 2.0\ninclude: ['*']\nlayers:\n  '0': dense\n  '3': {groups: 8}\n"
    )
    plan = json.loads(here("compress", "--config", "r.yaml", "--dry-run", "--json").stdout)
    layers = {layer["name"]: layer for layer in plan["layers"]}
    assert layers["0"]["why_dense"] == "dense in the recipe" and layers["3"]["groups"] == 8
    assert layers["6"]["groups"] == 4 and plan["recipe"]["layers"] == {"0": "dense", "3": {"groups": 8}}
    for text, message in (
        ("layers: dense", "layers: given 'dense', needs layer-name patterns"),
        ("layers: {a: thick}", "layers: a: given thick, needs dense"),
        ("layers: {a: {groups: 0}}", "layers: a: groups: given 0"),
        ("layers: {nothing: dense}", "layers: pattern 'nothing' matches no weight"),
    ):
        (clinet / "w.yaml").write_text(f"model: clinet:build\ngroups: 4\nuniform: 2.0\n{text}\n")
        assert message in refused("compress", "--config", "w.yaml", "--dry-run")


def test_a_file_of_the_working_folder_names_a_module(clinet):
    done = json.loads(here("compress", "--model", "clinet.py:build", *FAST, *SMALL, "--dry-run", "--json").stdout)
    assert done["coverage"] > 0.5
    assert "target_size: MB stands alone; write a size as one word, such as 3MB" in refused(
        "compress", "--model", "clinet:build", "--target-size", "3", "MB"
    )
    assert "--precison; did you mean --precision?;" in refused("compress", *FAST, "--precison", "int8")
    error = refused("compress", "clinet.py:build", *FAST)
    assert "source: clinet.py:build is no file; for the model of a function, use --model" in error


def test_a_target_is_part_of_the_name_of_the_output(clinet):
    for options, ending in (
        (("--bits", 4), "4bits"),
        (("--target-size", "30kB"), "30kB"),
        (("--target-size", "5x"), "5x"),
    ):
        here("compress", "-m", "clinet:build", *options, *SMALL, "--no-match-statistics", "--no-measure-importance")
        assert (clinet / f"clinet-build-{ending}.safetensors").exists()


TABLES = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, rows=200):
        super().__init__()
        self.table, self.gru = nn.Parameter(torch.zeros(rows, 64)), nn.GRU(64, 64)
def small():
    return Net(10)
"""


def test_a_note_says_which_include_reaches_the_weights_outside_of_the_rule(inside, monkeypatch):
    (inside / "tables.py").write_text(TABLES)
    monkeypatch.syspath_prepend(inside)
    job = ("compress", "--weights", "none", "--bits", 4, "--dry-run", "--model")
    share = 100 * 200 * 64 / (200 * 64 + 2 * 192 * 64 + 2 * 192)
    note = here(*job, "tables:Net").stderr
    assert f"1 weight (table) with {share:.0f} % of the parameters is not in the general rule: --include '*' " in note
    assert "not in the" not in here(*job, "tables:Net", "--include", "*").stderr + here(*job, "tables:small").stderr

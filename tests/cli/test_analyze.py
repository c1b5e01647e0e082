"""Tests of `tenreo analyze`."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from processes import here, refused
from safetensors.torch import save_file

import tenreo
from tenreo.cli.terminal.page import Part, write_page
from tenreo.cli.terminal.pictures import plot_analysis
from tenreo.cli.yaml_files import read_yaml
from tenreo.evaluation.agreement import Agreement
from tenreo.evaluation.analysis import Analysis, LayerAnalysis
from tenreo.files.header import read_header
from tenreo.models.model_files import open_model
from tenreo.planning.rates import RateOptions
from tenreo.planning.recipe import Recipe
from tenreo.planning.recipe_yaml import recipe_yaml


@pytest.fixture(scope="module")
def few_layers(dense_file, tmp_path_factory):
    """A file with three compressed layers, since all of them are analyzed one by one."""
    model, header = open_model(dense_file)
    recipe = tenreo.Recipe(8, tenreo.Uniform(8.0), ("stage2.0.branch1.*", "stage3.0.branch1.2", "fc"), refine=0)
    tenreo.compress_(model, recipe)
    path = tmp_path_factory.mktemp("few") / "small.safetensors"
    tenreo.save(model, path, replace(header.info, weights="dense.safetensors"))
    return path


@pytest.fixture
def both(few_layers, dense_file, inside):
    """A compressed file and its dense weights, in the working folder."""
    shutil.copy(dense_file, "dense.safetensors")
    shutil.copy(few_layers, "small.safetensors")
    return Path("small.safetensors")


@pytest.mark.slow
def test_a_file_is_analyzed_on_images(both):
    job = ("analyze", both, "--data", "digits", "--limit", 20)
    result = json.loads(here(*job, "--json").stdout)
    whole = result["whole"]
    compared = json.loads(
        here("evaluate", both, "--data", "digits", "--limit", 20, "--against", "dense", "--json").stdout
    )
    against = compared["against"]
    assert whole["kl"] == pytest.approx(against["kl"], rel=1e-3) and whole["agreement"] == against["agreement"]
    assert (whole["top1"], whole["images"]) == (against["top1"], 20) and result["name"] == str(both)
    assert result["bytes_after"] == both.stat().st_size and result["compared_on"] == "20 images of digits"
    stored = read_header(both).stored_bytes()
    assert {x["name"]: x["bytes_after"] for x in result["layers"]} == {
        name: stored[f"{name}.weight"] for name in read_header(both).layers
    }
    assert any(x["alone"]["kl"] > 0 for x in result["layers"])


def test_the_table_is_sorted_by_harm_and_fits_into_80_columns(both):
    output = here("analyze", both, columns=80).stdout
    table, rest = output.split("the whole model, on 512 images of noise: KL ")
    assert max(map(len, table.splitlines())) <= 80 and "agreement" in rest
    rows = [line.split() for line in table.splitlines() if re.match(r" *(conv|stage|fc)", line)]
    harms = [float(row[-4]) for row in rows]
    assert len(rows) == len(read_header(both).layers) and harms == sorted(harms, reverse=True)


@pytest.mark.slow
def test_the_dense_weights_can_be_named(both, inside):
    model, header = open_model(both)
    tenreo.save(model, both, replace(header.info, weights="lost.safetensors"))
    assert "against: small.safetensors: its dense weights" in (error := refused("analyze", both))
    assert "give their file (--against)" in error
    assert here("analyze", both, "--against", "dense.safetensors", "--data", "digits", "--limit", 2).stdout


def test_a_model_is_compressed_in_memory(dense_file, inside):
    model = ("analyze", "-a", "shufflenet_v2_x0_5", "--weights", dense_file, "--data", "digits", "--limit", 4)
    result = json.loads(here(*model, "-g", 8, "-r", 8, "--include", "fc", "--refine", 1, "--json").stdout)
    assert [x["name"] for x in result["layers"]] == ["fc"] and result["name"] == "shufflenet_v2_x0_5"
    (layer,) = result["layers"]
    assert layer["alone"]["kl"] > 0 and layer["restored"]["kl"] >= 0
    assert list(inside.iterdir()) == []


@pytest.mark.slow
def test_pictures_and_better_recipes_are_written(both):
    job = ("analyze", both, "--data", "digits", "--limit", 8, "--plot", "p.png", "--better", "better.yaml")
    done = here(*job)
    assert "wrote p.png, better.yaml" in done.stderr and "compress --config better.yaml -o better.safe" in done.stdout
    said = re.search(r"better.yaml is better: KL (\S+) nats at (.*?), instead of (\S+) at", done.stdout)
    assert float(said[1]) < float(said[3]) and Path("better.yaml").read_text().startswith(f"# KL {said[1]} nats")
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    here("compress", "--config", "better.yaml", "-o", "better.safetensors", "--dry-run")
    parsed = read_yaml(Path("better.yaml"), [RateOptions, Recipe, *_classes()])
    assert parsed["target_size"] == str(both.stat().st_size) and Path(parsed["weights"]).name == "dense.safetensors"
    assert len(parsed["importance"]) > 1 and parsed["arch"] == "shufflenet_v2_x0_5"
    assert "p.png: exists already; use --force to replace it, or choose another --plot" in refused(*job)


def _classes():
    from tenreo.cli.commands.compress import Statistics
    from tenreo.cli.shared_options import DenseModel

    return DenseModel, Statistics


def test_recipes_are_read_as_they_were_written(tmp_path):
    hostile = {"a: b\n- c": 2.0, "*[!x]": 0.5, "<b>'\"#": 1.5}
    recipe = Recipe(None, tenreo.TargetSize(1234), ("fc*",), importance=hostile, layers={"x.*": "dense"}, refine=3)
    path = tmp_path / "r.yaml"
    path.write_text(recipe_yaml(recipe, {}))
    values = read_yaml(path, [RateOptions, Recipe])
    assert values.pop("target_size") == "1234" and "dense_dtype" not in values
    importance = dict(each.rpartition("=")[::2] for each in values.pop("importance"))
    assert {name: float(factor) for name, factor in importance.items()} == hostile
    assert values == {"include": ["fc*"], "layers": {"x.*": "dense"}, "refine": 3}


def test_wrong_usage_is_refused(both, dense_file):
    assert "arch: not given, needs an architecture" in refused("analyze")
    assert "small.safetensors, which describes its model" in refused("analyze", both, "-a", "resnet18")
    assert "bits: small.safetensors is compressed already" in refused("analyze", both, "--bits", 4)
    assert "against: needs a compressed file" in refused("analyze", "-a", "resnet18", "--against", dense_file)
    assert "nowhere: no such folder" in refused("analyze", both, "--data", "nowhere")
    assert "data: not given, but split" in refused("analyze", both, "--split", "x")
    assert "use p.png" in refused("analyze", both, "--plot", "p.txt")
    assert "the name does not suit the YAML format; use b.yaml or b.yml" in refused(
        "analyze", both, "--better", "b.txt"
    )
    assert "target_kl: compress with this target first" in refused("analyze", "-a", "resnet18", "--target-kl", 0.1)
    assert "no compressed layer" in refused("analyze", dense_file, "--against", dense_file, code=1)


def test_a_model_that_takes_no_images_is_refused(inside):
    Path("text.py").write_text("from torch import nn\ndef net():\n    return nn.Sequential(nn.Embedding(99, 64))\n")
    error = refused("analyze", "--model", "text:net", "--weights", "none", "--bits", 4)
    assert "text:net: the model does not take images" in error and "tenreo.analyze(compressed, dense" in error


def test_a_report_is_refused_before_compression_if_the_outputs_cannot_be_analyzed(inside):
    Path("sound.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.layer = nn.Linear(80, 80)\n"
        "    def forward(self, x):\n        return {'wave': self.layer(x)}\n"
    )
    np.savez("x.npz", x=np.zeros((4, 80), np.float32))
    job = ("compress", "--model", "sound:Net", "--inputs", "x.npz", "--bits", 4, "-o", "s.safetensors")
    error = refused(*job, "--report", "s.html")
    assert "report: the outputs are a dict, needs one number per input and class" in error
    assert not Path("s.safetensors").exists()


def test_a_broken_image_is_not_blamed_on_the_report(inside):
    for name, content in (("0.png", b"broken"), ("1.png", b"too")):
        Path("train/class0").mkdir(parents=True, exist_ok=True)
        Path("train/class0", name).write_bytes(content)
    error = refused("compress", "-m", "networks:strided_and_grouped", "--weights", "none", "--bits", 4, "--input",
                    "3x32x32", "--calibrate", ".", "--report", "r.html", code=1)  # fmt: skip
    assert ".png: cannot be read as an image" in error and "report" not in error


def test_a_page_contains_the_results_and_nothing_from_elsewhere(both):
    model, header = open_model(both)
    hostile = Path("<img src=x>&.safetensors")
    tenreo.save(model, hostile, header.info)
    job = ("analyze", hostile, "--data", "digits", "--limit", 8, "--html", "page.html")
    result = json.loads(here(*job, "--json").stdout)
    page = Path("page.html").read_text("utf-8")
    assert "&lt;img src=x&gt;&amp;.safetensors" in page and "<img" not in page and "<script" not in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']|url\(|@import", page.replace("img src=x", ""))
    ElementTree.fromstring(re.search(r"<svg.*?</svg>", page, re.DOTALL)[0])
    cells = re.findall(r"<tr><td>(.*?)</td>", page)
    harms = {x["name"]: x["alone"]["kl"] for x in result["layers"]}
    assert cells == sorted(harms, key=lambda name: -harms[name]) and "importance:" in page
    assert "page.html: exists already" in refused(*job)
    assert "use page.html" in refused("analyze", hostile, "--html", "page.txt")


OWN = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1),
                         nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))
"""
MODEL = ("--model", "own:net", "--input", "3x32x32")


@pytest.fixture
def own(inside, monkeypatch):
    """The folder of a small model of the user's own."""
    (inside / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(inside)
    yield inside
    sys.modules.pop("own", None)


@pytest.mark.slow
def test_compress_and_sweep_write_pages(own):
    here("compress", *MODEL, "--bits", 3, "--calibrate", "digits", "--report", "c.html", "-o", "c.safetensors")
    page = Path("c.html").read_text("utf-8")
    assert "64 images of digits" in page and re.findall(r"<tr><td>(.*?)</td>", page) in (["3", "6"], ["6", "3"])
    assert f"{Path('c.safetensors').stat().st_size / 1e3:.1f} kB compressed" in page
    job = ("sweep", *MODEL, "-g", 4, "-r", 2, 4, "--data", "digits", "--limit", 9)
    here(*job, "--report", "s.html", "--plot", "s.png")
    page = Path("s.html").read_text("utf-8")
    assert page.count("<h2>Layers by harm") == 2 and "4 groups, uniform 4.0" in page and "<th>agreement %</th>" in page
    assert "9 images of digits" in page and Path("s.png").read_bytes().startswith(b"\x89PNG")


def test_pages_are_refused_before_anything_slow(own):
    assert "c.html: exists already" in (Path("c.html").touch() or refused("compress", *MODEL, "--bits", 3, *REPORT))
    assert "dry_run: measures nothing" in refused("compress", *MODEL, "--bits", 3, "--report", "d.html", "--dry-run")
    assert "use page.html" in refused("sweep", *MODEL, "-g", 4, "-r", 2, "--report", "page.txt")
    save_file({"x.weight": torch.randn(64, 64)}, "x.safetensors")
    assert "report: given together with x.safetensors" in refused("compress", "x.safetensors", "--bits", 3, *REPORT)


REPORT = ("--report", "c.html")


def page_of(folder, names, harm=1e-3):
    """Write the page of layers with these names, and their picture, and return the page."""
    agreement = Agreement(agreement=99.0, kl=harm, images=8, top1=None, reference_top1=None)
    layers = tuple(
        LayerAnalysis(
            name=name, shape=(64, 64), bytes_before=16384, bytes_after=900 + i, squared_norm=1.0, squared_error=0.1,
            alone=agreement, restored=agreement,
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    analysis = Analysis(
        layers=layers, whole=agreement, kl_interval=(0.0, 1.0), compared_on="x", bytes_before=10**6,
        bytes_after=10**5, recipe=None,
    )  # fmt: skip
    write_page(folder / "p.html", "<b>", [Part("", analysis, None)])
    plot_analysis(analysis, "$x_", folder / "p.png")
    return (folder / "p.html").read_text("utf-8")


@pytest.mark.parametrize(
    "names", [["fc"], ["<script>", "$\\frac{", "層", "a\nb"], ["x." * 99 + str(i) for i in range(300)]]
)
@pytest.mark.parametrize("harm", [0.0, 1e-3])
def test_pages_and_pictures_of_any_layers(tmp_path, names, harm):
    page = page_of(tmp_path, names, harm)
    ElementTree.fromstring(page.partition("<body>")[2].join(["<body>", ""]).partition("</html>")[0])
    assert "<script" not in page and page.count("<tr><td>") == len(names)


def test_a_page_without_jinja2_is_refused(both, monkeypatch):
    from tenreo.cli import checks

    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert "install it with pip install 'tenreo[report]'" in refused("analyze", both, "--html", "page.html")

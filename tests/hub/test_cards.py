"""Model cards: their values for the hub, their figures, and what they say if nothing was measured."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from processes import here, refused
from safetensors.torch import load_file

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.header import metadata, read_header
from tenreo.files.records import ModelInfo, Preprocess
from tenreo.files.safetensors import write_tensors
from tenreo.hub.cards import CardValues, card_text


def values_of(text):
    return yaml.safe_load(text.split("---\n")[1])


@pytest.fixture(scope="module")
def measured(compressed_file, tmp_path_factory):
    """(JSON file, object): what `tenreo evaluate --json` prints for the compressed file."""
    path = tmp_path_factory.mktemp("measured") / "results.json"
    text = here("evaluate", compressed_file, "--data", "digits", "--against", "dense", "--limit", 40, "--json").stdout
    path.write_text(text)
    return path, json.loads(text)


def test_the_figures_are_those_of_evaluate(compressed_file, measured):
    path, found = measured
    text = card_text(compressed_file, CardValues(results=path))
    against = found["against"]
    assert f"| agreement with the dense model | {against['agreement']:.2f} % |" in text
    assert f"| KL divergence from the dense model | {against['kl']:.4f} nats |" in text
    assert f"| top-1 accuracy | {found['top1']:.2f} % (" in text
    assert "Measured on 40 images with" in text
    assert f"tenreo evaluate {compressed_file} --data digits --against dense --limit 40 --json" in text
    assert values_of(text)["metrics"] == ["accuracy", "agreement", "kl_divergence"]
    header = read_header(compressed_file)
    before, after = header.dense_counts(), header.counts()
    assert f"| bytes | {before.bytes:,} | {compressed_file.stat().st_size:,} (" in text
    assert f"| bits per compressed weight | 32 | {after.bits_per_weight:.2f} |" in text


def test_nothing_is_invented_without_results(compressed_file):
    text = card_text(compressed_file)
    assert "Not measured yet" in text and "nats" not in text and "metrics" not in values_of(text)
    assert re.search(r"tenreo evaluate \S+ --against \S+ --data IMAGES --json > results.json", text)


def test_results_of_another_file_are_refused(compressed_file, small_file, measured, tmp_path):
    path, found = measured
    with pytest.raises(TenreoError, match=r"was measured on .* which was another file than"):
        card_text(small_file, CardValues(results=path))
    several = {**found, "sha256": "0" * 64, "top1": 1.0, "others": [found]}
    (tmp_path / "several.json").write_text(json.dumps(several))
    assert f"{found['top1']:.2f} % (" in card_text(compressed_file, CardValues(results=tmp_path / "several.json"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"command": "inspect"}, "not the output of tenreo evaluate --json"),
        ({"sha256": None}, "not the output of tenreo evaluate --json"),
        ({"top1": "high"}, "top1 'high', needs a number"),
        ({"top1": 101}, "top1 101, needs a number of 0 to 100"),
        ({"against": []}, "is not an object"),
        ({"top1": None, "against": None}, "neither an accuracy, nor an agreement, nor a metric"),
        (None, "Expecting value"),
    ],
)
def test_damaged_results_are_one_line(compressed_file, measured, tmp_path, changes, why):
    path = tmp_path / "results.json"
    path.write_text("" if changes is None else json.dumps({**measured[1], **changes}))
    error = refused("card", compressed_file, "--results", path, "-o", tmp_path / "README.md", code=1)
    assert why in error and len(error.splitlines()) == 1
    assert not (tmp_path / "README.md").exists()


def test_the_values_for_the_hub(small_file, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    text = card_text(small_file, CardValues(base_model="user/large", datasets=("imagenet-1k",)))
    data = hub.ModelCard(text).data
    assert (data.base_model, data.license, data.library_name) == ("user/large", "mit", "tenreo")
    assert data.get("base_model_relation") == "quantized" and data.datasets == ["imagenet-1k"]
    assert "tenreo" in data.tags


@pytest.mark.parametrize(
    ("info", "base", "datasets"),
    [
        (ModelInfo(builder="timm:resnet18", weights="a1_in1k", classes=1000), "timm/resnet18.a1_in1k", ["imagenet-1k"]),
        (ModelInfo(builder="timm:resnet18", weights="hf-hub:user/net@v1", classes=10), "user/net", None),
        (ModelInfo(builder="timm:resnet18", weights="none", classes=10), None, None),
        (ModelInfo(builder="timm:resnet18", weights="nets/own.safetensors", classes=10), None, None),
        (ModelInfo("resnet18", 1000, "IMAGENET1K_V1"), None, ["imagenet-1k"]),
    ],
)
def test_the_base_model_follows_from_the_weights(small_file, tmp_path, info, base, datasets):
    header = read_header(small_file)
    path = tmp_path / "named.safetensors"
    write_tensors(path, load_file(small_file), metadata(info, header.recipe, header.layers, header.coded))
    values = values_of(card_text(path))
    assert (values.get("base_model"), values.get("datasets")) == (base, datasets)
    assert values.get("base_model_relation") == ("quantized" if base else None)
    assert values["pipeline_tag"] == "image-classification"


def test_an_earlier_card_is_continued(compressed, tmp_path):
    tenreo.save_pretrained(compressed, tmp_path, info=ModelInfo(preprocess=Preprocess(8, 8)))
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: own\nlanguage: en\ntags: [speech, tenreo]\ndatasets: [x]\nevil: 1\n---\n"
    )
    here("card", tmp_path, "--force")
    values = values_of((tmp_path / "README.md").read_text())
    assert (values["license"], values["license_name"], values["language"]) == ("other", "own", "en")
    assert values["datasets"] == ["x"] and "speech" in values["tags"] and "evil" not in values
    here("card", tmp_path, "--force", "--license", "mit", "--dataset", "a", "--dataset", "b")
    values = values_of((tmp_path / "README.md").read_text())
    assert (values["license"], values["datasets"]) == ("mit", ["a", "b"]) and "license_name" not in values


def test_the_command_writes_next_to_the_file_and_never_over_a_card(small_file):
    done = here("card", small_file)
    assert "without measured figures" in done.stdout and "push" in done.stdout
    assert "README.md: exists already; use --force" in refused("card", small_file)
    assert "base_model: given" in refused("card", small_file, "--force", "--base-model", "../x")


def test_what_has_no_card(tmp_path, dense_file):
    assert "is not compressed; a card describes" in refused("card", dense_file, "-o", tmp_path / "x.md", code=1)


def test_names_cannot_break_out_of_the_card(tmp_path, compressed):
    path = tmp_path / "small.safetensors"
    tenreo.save(compressed, path, ModelInfo(weights="```\n<script>|", license="mit\n---\n# Other"))
    text = card_text(path)
    assert "<script>" not in text and text.count("\n---\n") == 1 and text.count("```") % 2 == 0


def test_the_recipe_of_the_card_is_read_by_compress(small_file, tmp_path):
    text = card_text(small_file)
    (tmp_path / "recipe.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    tenreo.save(torch.nn.Linear(64, 96), tmp_path / "dense.safetensors", ModelInfo())
    assert here("compress", tmp_path / "dense.safetensors", "--config", tmp_path / "recipe.yaml", "--dry-run").stdout


def test_a_folder_without_the_code_of_its_model_is_compared_by_its_tensors(inside):
    tenreo.write("tensors.safetensors", {"weight": torch.randn(64, 64)}, tenreo.Recipe(None, tenreo.TargetBits(6)))
    text = card_text(Path("tensors.safetensors"))
    assert "tenreo verify FOLDER --against DENSE_FOLDER" in text and "tenreo evaluate" not in text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems only have names in Unicode")
def test_names_that_are_not_unicode_are_escaped(compressed_file, inside):
    name = os.fsdecode(b"small\xff.safetensors")
    shutil.copy(compressed_file, name)
    here("card", name, "-o", "README.md")
    assert "small\\udcff.safetensors" in Path("README.md").read_text("utf-8")

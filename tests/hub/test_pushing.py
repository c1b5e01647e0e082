"""Models go to a hub and come back: upload, download, loading, and the hub's answers that are errors."""

import json

import pytest
import torch
import yaml
from processes import here, refused
from torch import nn

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.repositories import Repository

# huggingface_hub 2.4 uploads files by an argument that httpx is going to rename.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))


def test_a_model_is_pushed_and_loaded_again(hub, compressed):
    address = tenreo.push(compressed, "user/small", base_model="user/large")
    assert address.startswith(f"{hub.address}/user/small/commit/")
    files = hub.repositories["user/small"]
    assert sorted(set(files) - {".gitattributes"}) == ["README.md", "config.json", "model.safetensors"]
    card = files["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "user/large"
    assert 'tenreo.read("FOLDER")' in card and "tenreo pull user/small -o FOLDER" in card
    again = tenreo.from_pretrained("user/small", plain())
    with torch.no_grad():
        assert torch.equal(again(X), compressed(X))


def test_a_file_is_pushed_and_pulled_by_commands(hub, small_file, inside):
    done = json.loads(here("push", small_file, "user/small", "--license", "apache-2.0", "--json").stdout)
    assert done["repository"] == "user/small" and hub.address in done["address"]
    assert "pushed" in here("push", small_file, "user/small").stdout
    hub.repositories["user/small"] |= {"run.py": b"raise SystemExit", "old.bin": b"pickle"}
    hub.extra += ["../outside.json", "sub/../../outside.json", "/outside.json", ".hidden.json"]
    hub.calls.clear()
    assert "wrote fetched" in here("pull", "user/small", "-o", "fetched").stdout
    names = {path.name for path in (inside / "fetched").iterdir()} - {".cache"}
    assert names == {"README.md", "config.json", "model.safetensors"}
    assert not [path for _, path in hub.calls if "outside" in path or "run.py" in path or "hidden" in path]
    assert (inside / "fetched/model.safetensors").read_bytes() == small_file.read_bytes()
    assert "contains files already" in refused("pull", "user/small", "-o", "fetched")


def test_a_folder_keeps_its_own_card_unless_values_are_given(hub, compressed, inside):
    tenreo.save_pretrained(compressed, "folder")
    (inside / "folder/README.md").write_text("---\nlicense: mit\ntags: [mine]\n---\nMy words.\n")
    here("push", "folder", "user/small")
    assert b"My words" in hub.repositories["user/small"]["README.md"]
    tenreo.push("folder", "user/small", base_model="user/large")
    values = yaml.safe_load(hub.repositories["user/small"]["README.md"].decode().split("---\n")[1])
    assert (values["license"], values["base_model"]) == ("mit", "user/large") and "mine" in values["tags"]
    assert "My words" in (inside / "folder/README.md").read_text()


def test_answers_of_the_hub_are_one_line(hub, small_file, inside, monkeypatch):
    missing = refused("pull", "user/nothing", "-o", "out", code=1)
    assert "user/nothing cannot be downloaded: there is no such repository, or it is private" in missing
    assert len(missing.splitlines()) == 1 and not (inside / "out").exists()
    hub.repositories["user/empty"] = {}
    assert "has no such revision" in refused("pull", "user/empty@old", "-o", "out", code=1)
    with pytest.raises(TenreoError, match="user/empty has none of the files of a model"):
        tenreo.from_pretrained("user/empty")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    for fails in (lambda: tenreo.from_pretrained("user/small"), lambda: tenreo.push(small_file, "user/small")):
        with pytest.raises(TenreoError, match=r"user/small cannot be (down|up)loaded"):
            fails()


def test_a_dense_model_is_not_pushed(hub, inside):
    with pytest.raises(TenreoError, match="the model is not compressed"):
        tenreo.push(plain(), "user/small")
    tenreo.save(plain(), "dense.safetensors")
    assert "is not compressed" in refused("push", "dense.safetensors", "user/small", code=1)
    assert not hub.calls


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "../x", "user/..", "user/a b", "https://host/user/model", "user/model@", "user/model@../x"]
)
def test_names_that_are_no_repositories(name):
    with pytest.raises(TenreoError, match=r"repository: given .* needs a name of the hub, such as user/model"):
        Repository.parse(name)


def test_paths_that_do_not_exist_are_not_sought_on_the_hub(hub, inside):
    for name in ("./nothing", "/nothing", "~/nothing", inside / "nothing"):
        with pytest.raises(TenreoError, match="there is no folder"):
            tenreo.from_pretrained(name)
    assert not hub.calls

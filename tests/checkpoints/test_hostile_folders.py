"""Folders that are damaged or hostile: one line each, and nothing outside of a folder is read or written."""

import json
import os
from pathlib import Path

import pytest
import torch
from processes import here, refused
from safetensors.torch import save_file

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.checkpoints import INDEX
from tenreo.files.tensor_reader import read_numpy


def weight():
    return torch.randn(64, 64)


@pytest.fixture
def folder(inside):
    """A folder of two shards with an index, next to a file that it must not reach."""
    folder = inside / "net"
    folder.mkdir()
    save_file({"x.weight": weight()}, folder / "a.safetensors")
    save_file({"y.weight": weight(), "z": torch.ones(3)}, folder / "b.safetensors")
    save_file({"x.weight": weight()}, inside / "secret.safetensors")
    (inside / "secret.txt").write_text("secret")
    index(folder, {"x.weight": "a.safetensors", "y.weight": "b.safetensors", "z": "b.safetensors"})
    return folder


def index(folder, names, size=0):
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": names}))


@pytest.mark.parametrize("file", ["../secret.safetensors", "/secret.safetensors", "..", ".", "", "a/../b.safetensors"])
def test_an_index_cannot_name_files_outside_of_its_folder(folder, file):
    index(folder, {"x.weight": file})
    for words in (("compress", "net", "--bits", 8, "-o", "out"), ("decompress", "net", "-o", "out"), ("verify", "net")):
        error = refused(*words)
        assert "is not in its folder" in error and len(error.splitlines()) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "config.json", "tokenizer/words.txt", INDEX])
def test_links_to_files_outside_of_a_folder_are_refused(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(folder.parent / ("secret.safetensors" if name.endswith(".safetensors") else "secret.txt"))
    for words in (
        ("compress", "net", "--bits", 8, "-o", "out"),
        ("inspect", "net"),
        ("decompress", "net", "-o", "out"),
    ):
        error = refused(*words)
        assert len(error.splitlines()) == 1 and ("outside of its folder" in error or name == INDEX)
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "config.json", INDEX])
def test_a_folder_with_links_out_of_it_is_neither_described_nor_loaded(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../secret.safetensors" if name == "a.safetensors" else "../secret.txt")
    for words in (("card", "net"), ("push", "net", "user/net")):
        assert len(refused(*words).splitlines()) == 1
    with pytest.raises(TenreoError, match=r"outside of its folder|cannot be read as an index"):
        tenreo.from_pretrained("net")
    assert not (folder / "README.md").exists()


def test_the_models_of_shards_and_of_transformers_are_not_guessed(folder):
    with pytest.raises(TenreoError, match="net: has 2 files of weights; read them with"):
        tenreo.from_pretrained("net")
    (folder / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoModel": "own.Model"}}')
    (folder / "own.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    with pytest.raises(TenreoError, match=r"net: is a model of transformers; .* load it with transformers"):
        tenreo.from_pretrained("net")
    here("compress", "net", "-g", 4, "-r", 2, "--refine", 0, "-o", "out")
    here("card", "out")
    assert "from transformers import AutoModel" in (Path("out") / "README.md").read_text()
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ((2**62).to_bytes(8, "little"), "cannot be read as safetensors"),
        ((70).to_bytes(8, "little") + b'{"x.weight":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,8]}}', ""),
        (b"", "it is empty"),
    ],
    ids=["header", "shape", "empty"],
)
def test_shards_that_say_they_are_huge_are_refused_at_once(folder, content, why):
    (folder / "a.safetensors").write_bytes(content)
    for words in (("compress", "net", "--bits", 8, "-o", "out"), ("card", "net"), ("inspect", "net")):
        error = refused(*words, code=1)
        assert "a.safetensors" in error and why in error and len(error.splitlines()) == 1
    assert not Path("out").exists()


def test_links_inside_of_a_folder_and_those_of_a_cache_are_followed(folder):
    dense = dict(tenreo.read(folder))
    cache = Path("models--net")
    snapshot = cache / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name in os.listdir(folder):
        (folder / name).rename(cache / "blobs" / f"blob-{name}")
        (snapshot / name).symlink_to(f"../../blobs/blob-{name}")
    (snapshot / "again.txt").symlink_to(INDEX)
    assert all(torch.equal(tenreo.read(snapshot)[name], dense[name]) for name in dense)
    Path("link").symlink_to(snapshot)
    here("compress", "link", "--bits", 8, "-o", "out")
    assert sorted(os.listdir("out")) == ["a.safetensors", "again.txt", "b.safetensors", INDEX]


def test_tensors_of_the_index_that_are_missing_are_named(folder):
    index(folder, {"x.weight": "a.safetensors", "w.weight": "b.safetensors"})
    message = "names 'w.weight' in b.safetensors, which does not contain it; download the folder again"
    for words in (("compress", "net", "--bits", 8, "-o", "out"), ("compress", "net", "--bits", 8, "--dry-run")):
        assert message in refused(*words, code=1)
    for read in (tenreo.read, read_numpy):
        with pytest.raises(TenreoError, match=r"names 'w.weight' in b\.safetensors"):
            read(folder)
    assert "does not name the file of w.weight, and of 2 other tensors" in here("verify", "net", code=1).stdout
    index(folder, {"x.weight": "b.safetensors"})
    assert "names 'x.weight' in b.safetensors" in refused("compress", "net", "--bits", 8, "-o", "out", code=1)
    assert not Path("out").exists()


def test_tensors_that_the_index_does_not_list_are_kept_and_its_size_is_not_trusted(folder):
    index(folder, {"x.weight": "a.safetensors", "y.weight": "b.safetensors"}, -5)
    here("compress", "net", "--bits", 8, "-o", "out")
    written = json.loads((Path("out") / INDEX).read_text())
    assert written["weight_map"].keys() == {"x.weight", "y.weight", "z"}
    assert written["metadata"]["total_size"] == sum(p.stat().st_size for p in Path("out").glob("*.safetensors"))
    assert "does not name the file of z" in here("verify", "net", code=1).stdout


def test_a_tensor_in_two_shards_is_named(folder):
    save_file({"x.weight": weight(), "y.weight": weight(), "z": torch.ones(3)}, folder / "b.safetensors")
    error = refused("compress", "net", "--bits", 8, "-o", "out", code=1)
    assert "b.safetensors: contains x.weight, as does a.safetensors; remove one of the files" in error


def test_other_files_are_copied_whatever_they_contain(folder):
    (folder / "config.json").write_bytes(b"{" * 1_000_000 + b"\xff\x00")
    os.mkfifo(folder / "pipe.json")
    here("compress", "net", "--bits", 8, "-o", "out")
    assert (Path("out") / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert not (Path("out") / "pipe.json").exists()


def test_many_shards(folder):
    names = {}
    for i in range(50):
        save_file({f"l{i}.bias": torch.full((4,), float(i))}, folder / f"c{i}.safetensors")
        names[f"l{i}.bias"] = f"c{i}.safetensors"
    index(folder, {"x.weight": "a.safetensors", **names})
    here("compress", "net", "-g", 4, "-r", 2, "--refine", 0, "-o", "out")
    assert len(list(Path("out").glob("*.safetensors"))) == 51
    assert torch.equal(tenreo.read("out")["l49.bias"], torch.full((4,), 49.0))

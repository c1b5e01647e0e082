"""Data sets in every layout give the same images and labels."""

import io
import json
import os
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat
from timm.data import ImageNetInfo
from torchvision.datasets.folder import IMG_EXTENSIONS

from tenreo.data.batches import Batches, Loading
from tenreo.data.folders import EXTENSIONS
from tenreo.data.images import BrokenImage, open_images, open_optionally_labeled, open_unlabeled
from tenreo.data.label_files import LabelFiles, read_class_map
from tenreo.errors import TenreoError
from tenreo.files.records import Preprocess

SMALL = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def images_by_key(images):
    """Map (file name, label) to pixels."""
    return {(Path(str(source)).name, label): images[i][0] for i, (source, label) in enumerate(images.samples)}


def assert_same(images, expected):
    own, other = images_by_key(images), expected if isinstance(expected, dict) else images_by_key(expected)
    assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)


def files_of(folder):
    return sorted((folder / "val").rglob("*.png"), key=lambda path: path.name)


@pytest.fixture
def plain(folder):
    """Return the images of class folders, before a test changes the layout."""
    return open_images(str(folder), "val", SMALL, 10)


@pytest.fixture
def flat(folder, tmp_path_factory):
    """Create a folder that contains the images of all classes directly."""
    target = tmp_path_factory.mktemp("flat")
    for path in files_of(folder):
        shutil.copy(path, target)
    return target


def write_shard(path, files, kind):
    """Write a tar file with the WebDataset layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:

        def add(name, data):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))

        for file in files:
            label = int(file.parent.name.removeprefix("class"))
            text = {"cls": str(label), "name": file.parent.name, "json": json.dumps({"label": label, "w": 64})}[kind]
            add(f"a/{file.name}", file.read_bytes())
            add(f"a/{file.stem}.{'json' if kind == 'json' else 'cls'}", text.encode())


def test_extensions_are_those_of_torchvision():
    assert EXTENSIONS == IMG_EXTENSIONS


def test_a_split_may_have_another_folder_name(folder, plain):
    plain = images_by_key(plain)
    (folder / "val").rename(folder / "validation")
    assert_same(open_images(str(folder), "val", SMALL, 10), plain)
    (folder / "validation").rename(folder / "holdout")
    assert_same(open_images(str(folder), "holdout", SMALL, 10), plain)
    assert_same(open_images(str(folder / "holdout"), ".", SMALL, 10), plain)
    with pytest.raises(TenreoError, match="val: no such folder"):
        open_images(str(folder), "val", SMALL, 10)


@pytest.mark.parametrize("line", ["{file.name} {label}", "{file.stem},{name}", "{file.name}\t{name}"])
def test_flat_folder_with_a_list_of_labels(folder, plain, flat, tmp_path, line):
    rows = [
        line.format(file=f, name=f.parent.name, label=f.parent.name.removeprefix("class")) for f in files_of(folder)
    ]
    (tmp_path / "labels.txt").write_text("\n".join([*rows, "absent.png 3"]) + "\n")
    images = open_images(str(flat), ".", SMALL, 10, label_files=LabelFiles(tmp_path / "labels.txt"))
    assert_same(images, plain)
    (tmp_path / "labels.txt").write_text("\n".join(rows[1:]))
    with pytest.raises(TenreoError, match=r"labels.txt: contains no class for 0\.png; add a line for every image"):
        open_images(str(flat), ".", SMALL, 10, label_files=LabelFiles(tmp_path / "labels.txt"))


def test_list_of_numbers_follows_the_sorted_file_names(folder, plain, flat, tmp_path):
    labels = LabelFiles(tmp_path / "truth.txt")
    numbers = [int(f.parent.name.removeprefix("class")) for f in files_of(folder)]
    labels.labels.write_text("\n".join(map(str, numbers)))
    assert_same(open_images(str(flat), ".", SMALL, 10, label_files=labels), plain)
    labels.labels.write_text("\n".join(str(n + 1) for n in numbers))
    with pytest.raises(TenreoError, match=r"has the label 10, counted from 0, .*devkit counts from 1"):
        open_images(str(flat), ".", SMALL, 10, label_files=labels)
    assert "labels start at 1" in open_images(str(flat), ".", SMALL, 11, label_files=labels).doubt
    labels.labels.write_text("1\n2\n")
    with pytest.raises(TenreoError, match="has 2 labels for 40 images"):
        open_images(str(flat), ".", SMALL, 10, label_files=labels)


def test_kaggles_list_of_imagenet_labels(flat, tmp_path):
    for path in list(flat.iterdir())[2:]:
        path.unlink()
    first, second = sorted(path.stem for path in flat.iterdir())
    rows = ["ImageId,PredictionString", f"{first},n02 85 1 499 272", f"{second},n01 1 2 3 4 n01 5 6 7 8"]
    (tmp_path / "l.csv").write_text("\n".join(rows))
    images = open_images(str(flat), ".", SMALL, 2, label_files=LabelFiles(tmp_path / "l.csv"))
    assert [label for _, label in images.samples] == [1, 0] and images.class_names == ("n01", "n02")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("numbers", [False, True])
def test_hugging_face_image_folder(folder, plain, kind, numbers):
    names = {f: f.parent.name.removeprefix("class") if numbers else f.parent.name for f in files_of(folder)}
    rows = [(str(f.relative_to(folder / "val")), name) for f, name in names.items()]
    if kind == "csv":
        text = "file_name,label\n" + "\n".join(",".join(row) for row in rows)
    else:
        values = ({"file_name": f, "label": int(name) if numbers else name, "caption": "x"} for f, name in rows)
        text = "\n".join(map(json.dumps, values))
    (folder / "val" / f"metadata.{kind}").write_text(text)
    assert_same(open_images(str(folder), "val", SMALL, 10), plain)
    (folder / "val" / f"metadata.{kind}").write_text("file_name,label\n../x.png,1" if kind == "csv" else '{"a": 1}')
    with pytest.raises(TenreoError, match=r"which is outside its folder|needs file_name and label"):
        open_images(str(folder), "val", SMALL, 10)


@pytest.fixture
def three(tmp_path):
    """Create the images a/1.png, a/2.png and b/1.png in a folder."""
    for name in ("a/1", "a/2", "b/1"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / "data" / f"{name}.png")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.csv", "file_name,label\na/1.png,0\nb/1.png,1\n", r"does not list a/2\.png"),
        ("metadata.jsonl", '{"file_name": "a/1.png", "label": 0}', r"does not list a/2\.png|does not list b/1\.png"),
        ("metadata.csv", "file_name,label\na/1.png,0\na/2.png,0\nb/1.png,1\na/1.png,0", "in the lines 2 and 5"),
        ("metadata.csv", 'file_name,label,x\na/1.png,0,"t\nl"\na/2.png,0\n./a/2.png,1\nb/1.png,1', "lines 4 and 5"),
        ("metadata.jsonl", '{"file_name": "a/1.png"}\n\n{"file_name": "a/1.png", "label": 1}', "in the lines 1 and 3"),
        ("metadata.jsonl", '{"file_name": "a/1.png", "label": 1, "label": 0}', "line 1: the key 'label' occurs twice"),
        ("metadata.csv", "file_name,label,label\na/1.png,0,1", "names a column twice"),
        ("metadata.csv", "file_name,label\na/1.png,cat, tabby", "line 2 has 3 cells for 2 columns"),
        ("metadata.csv", 'file_name,label\na/1.png,"cat\na/2.png,1\nb/1.png,2', "unexpected end of data"),
        ("labels", "a/1 0\na/2 0\nb/1 1\na/1 1", r"class of a/1\.png in the lines 1, 4"),
        ("labels", "a/1 0\na/2 0\nb/1 1\na/1.png 0", r"class of a/1\.png in the lines 4, 1"),
        ("labels", "a/1 0\na/2 0\nb/1 1\n2 1", r"class of a/2\.png in the lines 2, 4"),
        ("labels", "1 0\n2 0", r"line 1 names a/1\.png and b/1\.png; give their folders"),
        ("labels", "a/1 0\na/2 0\nc/1 1", r"contains no class for b/1\.png"),
    ],
)  # fmt: skip
def test_incomplete_and_contradictory_lists_are_refused(three, name, text, message):
    """The last line, or the first in a shard, decided silently."""
    (three.parent / "labels").write_text("") if name == "labels" else None
    path = three.parent / name if name == "labels" else three / name
    path.write_text(text)
    label_files = LabelFiles(path) if name == "labels" else LabelFiles()
    with pytest.raises(TenreoError, match=message):
        open_images(str(three), ".", SMALL, 2, label_files=label_files)


def test_lists_may_name_folders_and_unusual_characters(three):
    path = three.parent / "labels"
    for text in ("val/a/1 x\ndata/a/2.png x\nb/1.png\ty", "a/1,x\na/2,x\n/any/data/b/1.png,y\nc/1,z"):
        path.write_text(text)
        images = open_images(str(three), ".", SMALL, 2, label_files=LabelFiles(path))
        assert [label for _, label in images.samples] == [0, 0, 1]
    rows = [("a/1.png", "x\u2028"), ("a/2.png", "x\u2028"), ("b/1.png", "y, z")]
    (three / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": file, "label": label}, ensure_ascii=False) for file, label in rows)
    )
    assert open_images(str(three), ".", SMALL, 2).class_names == ("x", "y, z")
    (three / "metadata.csv").write_text("file_name,label\n")
    with pytest.raises(TenreoError, match=r"contains metadata\.csv and metadata\.jsonl; remove one"):
        open_images(str(three), ".", SMALL, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"a": 1,\n"b": 2,\n"a": 3}', "the key 'a' occurs twice, in the lines 2, 4"),
        ('{"a": 1, "a": 1}', "the key 'a' occurs twice"),
        ('{"0": ["a", "x"], "0": ["b", "y"]}', "the key '0' occurs twice"),
        ('{"0": ["a", "x"], "1": ["a", "y"]}', "gives the class of 'a' in the entry '0' and in the entry '1'"),
        ("a 1\nb 2\n\na 1", "gives the class of 'a' in line 1 and in line 4"),
    ],
)
def test_repeated_keys_of_class_maps_are_refused(tmp_path, text, message):
    (tmp_path / "map").write_text(text)
    with pytest.raises(TenreoError, match=message):
        read_class_map(tmp_path / "map")


def pack(path, members):
    """Write a tar file with members (name, content), None for a link to the first member."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.LNKTYPE, members[0][0]
            entry.size = len(content or b"")
            archive.addfile(entry, io.BytesIO(content or b""))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["x.png", "x.cls", "x.png"], r"contains x\.png twice"),
        (["x.png", "x.cls", "./x.png"], r"contains x\.png twice"),
        (["x.png", "x.cls", "x.cls"], r"contains x\.cls twice"), (["x.png", "x.jpg", "x.cls"], "has the same key as"),
        (["x.a.png", "x.b.png", "x.cls"], "has the same key as"),
        (["x.png", "x.cls", "link.png"], r"link\.png is a link"),
        (["x.png", "x.json"], "the key 'label' occurs twice"),
    ],
)  # fmt: skip
def test_shards_that_contain_a_name_twice_are_refused(three, members, message):
    """The first image and the last label were used silently, and images that are links left out."""
    contents = {"png": (three / "a" / "1.png").read_bytes(), "cls": b"1", "json": b'{"label": 1, "label": 0}'}
    path = three.parent / "x.tar"
    pack(path, [(n, None if n == "link.png" else contents.get(n.split(".")[-1], b"")) for n in members])
    with pytest.raises(TenreoError, match=message):
        open_images(str(path), ".", SMALL, 2)


def test_masks_and_links_to_shards_are_not_images(three, tmp_path):
    image = (three / "a" / "1.png").read_bytes()
    pack(
        tmp_path / "x.tar",
        [("x.seg.png", b""), ("x.png", image), ("x.cls", b"1"), ("y.left.png", image), ("y.cls", b"0")],
    )
    (tmp_path / "a.tar").symlink_to("x.tar")
    samples = open_images(str(tmp_path), ".", SMALL, 2).samples
    assert [(source.name, label) for source, label in samples] == [("x.png", 1), ("y.left.png", 0)]


@pytest.mark.parametrize("kind", ["cls", "name", "json"])
@pytest.mark.parametrize("layout", ["val/0.tar", "digits-val-000{}.tar", "{}.tar"])
def test_shards(folder, plain, tmp_path_factory, kind, layout):
    target, files = tmp_path_factory.mktemp("shards"), files_of(folder)
    for i, part in enumerate((files,) if "{}" not in layout else (files[:25], files[25:])):
        write_shard(target / layout.format(i), part, kind)
    images = open_images(str(target), "." if layout == "{}.tar" else "val", SMALL, 10)
    assert_same(images, plain)
    for workers in (0, 1):  # shuffled, and with 1 sent to a worker process
        batches = Batches(images, Loading(7, workers), torch.device("cpu"), seed=3)
        assert sum(len(y) for _, y in batches) == 40 and not batches.broken
    shard = target / layout.format(0)
    count = len(open_images(str(shard), "val", SMALL, None))
    assert count == (40 if "{}" not in layout else 25)
    first = images.fingerprint()
    whole = shard.read_bytes()
    at = images.samples[0][0].offset + 60
    shard.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    assert images.fingerprint() != first
    shard.write_bytes(whole[: images.samples[-1][0].offset + 3] if "{}" not in layout else whole[:2000])
    assert isinstance(images.read(len(images) - 1 if "{}" not in layout else 24), BrokenImage)
    with pytest.raises(TenreoError, match="cannot be read as a tar file"):
        open_images(str(target), "." if layout == "{}.tar" else "val", SMALL, 10)


def test_damaged_and_compressed_tar_files_are_rejected(tmp_path):
    (tmp_path / "x.tar").write_bytes(os.urandom(5000))
    with pytest.raises(TenreoError, match=r"x\.tar: cannot be read as a tar file .*uncompressed"):
        open_images(str(tmp_path / "x.tar"), "val", SMALL, 10)
    with tarfile.open(tmp_path / "x.tar", "w:gz"):
        pass
    with pytest.raises(TenreoError, match="cannot be read as a tar file"):
        open_images(str(tmp_path / "x.tar"), "val", SMALL, 10)


INDEX = {str(i): [f"class{9 - i}", f"word {i}"] for i in range(10)}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(INDEX), json.dumps({name: int(i) for i, (name, _) in INDEX.items()}),
        "\n".join(f"{name} {i}" for i, (name, _) in INDEX.items()),
        "\n".join(f"{name},{i}" for i, (name, _) in INDEX.items()),
    ],
    ids=["imagenet_class_index", "object", "blanks", "commas"],
)  # fmt: skip
def test_class_map_to_output_numbers(folder, plain, tmp_path, text):
    """A subset of the classes is mapped to a model with 1,000 outputs, as Imagenette needs it."""
    path = tmp_path / "map"
    path.write_text(text)
    shutil.rmtree(folder / "val" / "class3")
    images = open_images(str(folder), "val", SMALL, 1000, label_files=LabelFiles(class_map=path))
    names = {(Path(str(s)).parent.name, label) for s, label in images.samples}
    assert names == {(f"class{i}", 9 - i) for i in range(10) if i != 3} and images.classes == 1000 and not images.doubt
    (folder / "val" / "other").mkdir()
    shutil.copy(files_of(folder)[0], folder / "val" / "other")
    with pytest.raises(TenreoError, match=r"class_map: lacks the classes other of .*; add them"):
        open_images(str(folder), "val", SMALL, 1000, label_files=LabelFiles(class_map=path))


def test_class_map_to_the_models_class_names(folder, tmp_path):
    path = tmp_path / "map"
    path.write_text("\n".join(f"class{i}\tname {i}" for i in range(10)))
    known = tuple(f"name {9 - i}" for i in range(10))
    images = open_images(str(folder), "val", SMALL, 10, class_names=known, label_files=LabelFiles(class_map=path))
    assert {(Path(str(s)).parent.name, label) for s, label in images.samples} == {
        (f"class{i}", 9 - i) for i in range(10)
    }
    with pytest.raises(
        TenreoError, match="class_map: maps to names, for example 'name 0', but the model's file contains no class"
    ):
        open_images(str(folder), "val", SMALL, 10, label_files=LabelFiles(class_map=path))
    path.write_text("class1 2\nclass1 3")
    with pytest.raises(TenreoError, match="gives the class of 'class1' in line 1 and in line 2"):
        open_images(str(folder), "val", SMALL, 10, label_files=LabelFiles(class_map=path))


def rename_classes(folder, names):
    """Rename the class folders of val/: class i gets the name names[i]."""
    for i, name in enumerate(names):
        (folder / "val" / f"class{i}").rename(folder / "val" / name)


def test_wordnet_ids_are_labels_of_imagenet(folder):
    """Imagenette's class folders get the labels of an ImageNet model whose file contains no class names."""
    known = ImageNetInfo("imagenet-1k").label_names()
    places = [701, 0, 217, 482, 491, 497, 566, 569, 571, 999]
    rename_classes(folder, [known[place] for place in places])
    images = open_images(str(folder), "val", SMALL, 1000)
    assert {(Path(str(s)).parent.name, label) for s, label in images.samples} == {(known[p], p) for p in places}
    assert list(images.class_names) == known and "WordNet ids are assumed to be outputs" in images.doubt
    for classes in (12, 21843):  # models of other data sets
        with pytest.raises(TenreoError, match=f"has 10 classes, the model has {classes}"):
            open_images(str(folder), "val", SMALL, classes)
    own = tuple(reversed(known))
    images = open_images(str(folder), "val", SMALL, 1000, class_names=own)
    assert {label for _, label in images.samples} == {999 - p for p in places} and not images.doubt
    (folder / "val" / known[0]).rename(folder / "val" / "n00000001")
    with pytest.raises(TenreoError, match="has 10 classes, the model has 1000"):
        open_images(str(folder), "val", SMALL, 1000)


# DEVKIT[number - 1]: output of a class number of the devkit, which counts from 1.
DEVKIT = np.random.default_rng(0).permutation(1000)


@pytest.fixture
def devkit(tmp_path_factory):
    """Write a meta.mat with ImageNet's classes in another order, and two groups of classes."""
    names = ImageNetInfo("imagenet-1k").label_names()  # takes 0.1 seconds
    ids = [names[i] for i in DEVKIT] + ["n00001740", "n00001930"]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(i + 1, name, f"word {i}, other", "", 0 if i < 1000 else 2) for i, name in enumerate(ids)]
    path = tmp_path_factory.mktemp("devkit") / "meta.mat"
    savemat(path, {"synsets": np.array(rows, kinds)[:, None]})
    return path


def test_class_numbers_of_the_devkit(flat, devkit, tmp_path):
    numbers = np.random.default_rng(1).integers(1, 1001, 40).tolist()
    (tmp_path / "truth.txt").write_text("\n".join(map(str, numbers)))
    label_files = LabelFiles(tmp_path / "truth.txt", devkit)
    images = open_images(str(flat), ".", SMALL, 1000, label_files=label_files)
    assert [label for _, label in images.samples] == [DEVKIT[number - 1] for number in numbers]
    devkit.write_bytes(devkit.read_bytes()[:300])
    with pytest.raises(
        TenreoError, match=r"class_map: .* is not the meta.mat of ImageNet's devkit .* give a text file"
    ):
        open_images(str(flat), ".", SMALL, 1000, label_files=label_files)


def test_damaged_devkits_give_an_error(devkit, tmp_path):
    """SciPy's reader ended the process with a segmentation fault on some files with one changed byte."""
    plain = tmp_path / "meta.mat"
    synsets = {"synsets": loadmat(devkit)["synsets"]}
    savemat(plain, synsets, do_compression=False)
    assert read_class_map(plain) == read_class_map(devkit) and len(read_class_map(plain)) == 1002
    packed = tmp_path / "packed.mat"
    savemat(packed, synsets, do_compression=True)
    assert read_class_map(packed) == read_class_map(devkit)
    savemat(plain, {"synsets": synsets["synsets"][:5]}, do_compression=False)
    random, data = np.random.default_rng(0), plain.read_bytes()
    for _ in range(300):
        changed = bytearray(data[: random.choice([1000, len(data)])])
        changed[random.integers(124, 1000)] = random.integers(256)
        plain.write_bytes(changed)
        with suppress(TenreoError):
            read_class_map(plain)


def test_missing_named_split_is_not_replaced_by_other_images(folder):
    assert open_optionally_labeled(str(folder), SMALL, 10).labeled
    (folder / "val").rename(folder / "holdout")
    assert open_optionally_labeled(str(folder), SMALL, 10, split="holdout").labeled
    assert not open_optionally_labeled(str(folder), SMALL, 10).labeled
    with pytest.raises(TenreoError, match="test: no such folder"):
        open_optionally_labeled(str(folder), SMALL, 10, split="test")


def test_unlabeled_images_in_any_layout(folder, flat, tmp_path_factory):
    for data, split in ((flat, "train"), (folder, "val"), (folder, "train")):
        images = open_unlabeled(str(data), split, SMALL)
        assert len(images) == 40 and not images.labeled and images[0][1] == -1
    target = tmp_path_factory.mktemp("flatval")
    shutil.copytree(flat, target / "val")
    assert not open_optionally_labeled(str(target), SMALL, 10).labeled
    assert open_optionally_labeled(str(folder), SMALL, 10).labeled
    with pytest.raises(TenreoError, match="contains no class folder"):
        open_images(str(target), "val", SMALL, 10)

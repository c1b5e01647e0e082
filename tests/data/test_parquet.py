"""Data sets of Hugging Face in Parquet files give the same images, labels and results as class folders."""

import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import here, refused

from tenreo.data.batches import Batches, Loading
from tenreo.data.class_names import feature_names, names_of_card
from tenreo.data.images import BrokenImage, open_images, open_optionally_labeled, open_unlabeled
from tenreo.data.labels import text_order_differs
from tenreo.errors import TenreoError
from tenreo.files.records import Preprocess

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SMALL = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NAMES = [f"class{i}" for i in range(10)]


def write(path, images, labels=None, names=None, **options):
    """Write images and labels as `datasets` does: bytes and paths in one column, and features as JSON in the schema."""
    columns = {"image": pa.array([{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)])}
    features = {"image": {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels)
        features["label"] = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def png(value, size=8):
    data = BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(data, "png")
    return data.getvalue()


def samples_of(folder, split, order=NAMES):
    files = [(file, order.index(path.name)) for path in sorted((folder / split).iterdir()) for file in path.iterdir()]
    files.sort(key=lambda each: each[0].name)  # not in the order of the classes
    return [file.read_bytes() for file, _ in files], [label for _, label in files]


def pixels(images):
    return sorted((images[i][1], images[i][0].sum().item()) for i in range(len(images)))


def write_parts(folder, target):
    """Write the images of class folders to Parquet files, in several parts and row groups."""
    for split, name in (("train", "train"), ("val", "validation")):
        if (folder / split).exists():
            images, labels = samples_of(folder, split)
            half = len(images) // 2
            for part, cut in enumerate((slice(half), slice(half, None))):
                path = target / "data" / f"{name}-0000{part}-of-00002.parquet"
                write(path, images[cut], labels[cut], NAMES, row_group_size=7)
    return target


@pytest.fixture
def parts(folder, tmp_path_factory):
    return write_parts(folder, tmp_path_factory.mktemp("parquet"))


def test_images_and_labels_equal_those_of_class_folders(folder, parts):
    expected, images = (open_images(str(data), "val", SMALL, 10) for data in (folder, parts))
    assert images.class_names == expected.class_names == tuple(NAMES) and not images.doubt
    assert pixels(images) == pixels(expected) and len(images) == len(expected)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    in_order, shuffled = [images[i][0] for i in range(len(images))], [images[i][0] for i in order]
    assert all(torch.equal(in_order[i], image) for i, image in zip(order, shuffled, strict=True))
    assert len({str(source) for source, _ in images.samples}) == len(images)
    unlabeled = open_unlabeled(str(parts), "val", SMALL)
    assert [image.sum() for image, _ in unlabeled] == [image.sum() for image in in_order]
    assert images.fingerprint() == open_images(str(parts), "val", SMALL, 10).fingerprint() != expected.fingerprint()


def test_evaluate_prints_the_same_numbers(folder, parts, compressed_file, inside):
    results = [
        json.loads(here("evaluate", compressed_file, "--data", data, "--json", "--device", "cpu").stdout)
        for data in (folder, parts)
    ]
    for key in ("top1", "top5", "loss", "images"):
        assert results[0][key] == pytest.approx(results[1][key], rel=1e-6), key
    assert results[0]["images"] > 10


def test_worker_processes_shuffle_the_same_images(folder, parts):
    found = []
    for data in (folder, parts):
        batches = Batches(open_images(str(data), "val", SMALL, 10), Loading(16, workers=2), torch.device("cpu"), seed=3)
        found.append(
            [(label.item(), image.sum().item()) for x, y in batches for image, label in zip(x, y, strict=True)]
        )
    assert sorted(found[0]) == sorted(found[1]) and found[1] != sorted(found[1]) and len(found[0]) == 40


def test_the_order_of_the_names_is_that_of_the_file(tmp_path):
    names = ["tench, Tinca tinca", "bee", "ant"]
    write(tmp_path / "val.parquet", [png(9), png(8), png(7)], [2, 0, 1], names)
    assert [label for _, label in open_images(str(tmp_path), "val", SMALL, 3).samples] == [2, 0, 1]
    other = open_images(str(tmp_path), "val", SMALL, 3, class_names=("ant", "bee", names[0]))
    assert [label for _, label in other.samples] == [0, 2, 1]  # of the model's names
    with pytest.raises(TenreoError, match="3 classes"):
        open_images(str(tmp_path), "val", SMALL, 5)


@pytest.mark.parametrize(
    ("labels", "expected"), [([1, 0], [1, 0]), (["b", "a"], [1, 0]), (["b", "b"], [0, 0]), (["7", "3"], [7, 3])]
)
def test_classes_without_names_are_numbers_or_texts(tmp_path, labels, expected):
    write(tmp_path / "val" / "0000.parquet", [png(1), png(2)], labels)
    assert [label for _, label in open_images(str(tmp_path), "val", SMALL, None).samples] == expected


def test_names_of_the_card_are_used(tmp_path):
    card = """---
dataset_info:
- config_name: default
  features:
  - name: image
    dtype: image
  - name: labels
    dtype:
      class_label:
        names:
          '0': b
          '1': a
---
# Letters
"""
    (tmp_path / "README.md").write_text(card)
    assert names_of_card(tmp_path / "data") == {"labels": ("b", "a")}
    table = pa.table({"img": pa.array([png(1), png(2)]), "labels": pa.array([1, 0]), "mask": pa.array([b"x", b"y"])})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "test-00000-of-00001.parquet")
    images = open_images(str(tmp_path), "test", SMALL, 2)
    assert images.class_names == ("b", "a") and [label for _, label in images.samples] == [1, 0]


@pytest.mark.parametrize(
    "text", ["---\n- a", "---\ndataset_info: 3", "---\n: [", "x", "---\ndataset_info: &a [*a]", "\xff"]
)
def test_a_card_without_names_has_none(tmp_path, text):
    (tmp_path / "README.md").write_text(text, encoding="latin-1")
    assert names_of_card(tmp_path) == {}
    assert (
        feature_names(text.encode("latin-1")) == feature_names(b'{"info": {"features": {"a": {"names": [1]}}}}') == {}
    )


@pytest.mark.parametrize("labels", [None, [-1, -1]])
def test_images_without_classes_are_unlabeled(tmp_path, labels):
    write(tmp_path / "val.parquet", [png(1), png(2)], labels, labels and ["a", "b"])
    assert not open_optionally_labeled(str(tmp_path), SMALL, 2).labeled
    with pytest.raises(TenreoError, match=r"val.parquet/0: has no class"):
        open_images(str(tmp_path), "val", SMALL, 2)


def test_a_file_is_a_data_set(tmp_path):
    path = write(tmp_path / "x.parquet", [png(3)] * 3, [0, 1, 0], ["a", "b"])
    assert [label for _, label in open_images(str(path), "val", SMALL, 2).samples] == [0, 1, 0]


def test_a_file_that_is_written_again_is_read_again(tmp_path):
    for value in (10, 200):
        path = write(tmp_path / "val.parquet", [png(value)], [0])
        os.utime(path, ns=(value, value))
        assert open_images(str(tmp_path), "val", SMALL, 1)[0][0].mean().item() == pytest.approx(value / 127.5 - 1)


def test_broken_rows_are_broken_images(tmp_path):
    write(tmp_path / "val.parquet", [png(1), None, b"no image", png(2)], [0, 1, 0, 1])
    images = open_images(str(tmp_path), "val", SMALL, 2)
    results = [images.read(i) for i in range(4)]
    assert [isinstance(each, BrokenImage) for each in results] == [False, True, True, False]
    assert results[1] == BrokenImage(f"{tmp_path}/val.parquet/1", "its row has no bytes of an image")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(os.urandom(500)), "cannot be read as a Parquet file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-300]), "cannot be read as a Parquet file"),
        (lambda path: path.write_bytes(b""), "cannot be read as a Parquet file"),
        (lambda path: pq.write_table(pa.table({"text": ["a"]}), path), r"has the columns \['text'\], needs"),
        (lambda path: write(path, [png(1)], [2], ["a", "b"]), "has the class 2, but names of 2 classes"),
        (lambda path: pq.write_table(pq.read_table(path).slice(0, 0), path), "contains no image"),
        (lambda path: path.rename(path.with_name("val-1-of-2.parquet")), "val-0-of-2.parquet: is missing"),
        (lambda path: path.rename(path.with_name("val-00000-of-99999.parquet")), "val-00001-of-99999.parquet: is"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused_with_one_line(tmp_path, compressed_file, change, message):
    path = write(tmp_path / "val.parquet", [png(1), png(2)], [0, 1], ["a", "b"])
    change(path)
    with pytest.raises(TenreoError, match=message) as caught:
        open_images(str(tmp_path), "val", SMALL, 2)
    assert "\n" not in str(caught.value)


def test_a_damaged_row_group_is_a_broken_image(tmp_path, compressed_file, inside):
    path = write(tmp_path / "d" / "val.parquet", [os.urandom(9000), os.urandom(9000)], [0, 1], NAMES, row_group_size=1)
    data = bytearray(path.read_bytes())
    data[0:4000] = b"\xff" * 4000
    path.write_bytes(data)
    text = refused("evaluate", compressed_file, "--data", path.parent, "--device", "cpu", code=1)
    assert "val.parquet/0: cannot be read as an image" in text


def test_numbers_in_numeric_order_cause_no_doubt():
    names = [str(i) for i in range(12)]
    assert text_order_differs(sorted(names)) and not text_order_differs(names)


def test_pyarrow_is_needed_only_for_parquet(tmp_path, monkeypatch):
    write(tmp_path / "val.parquet", [png(1)], [0])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(
        TenreoError, match=r"val.parquet: needs pyarrow; install it with pip install 'tenreo\[datasets\]'"
    ):
        open_images(str(Path(tmp_path)), "val", SMALL, 1)

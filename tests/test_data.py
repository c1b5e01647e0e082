"""Images to batches: digits, folders, broken images, processes, augmentation."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from conftest import SMALL
from PIL import Image
from test_training import network

from tenreo.data import Batches, naming_lost_workers, open_images, unlabelled
from tenreo.distributed import Group
from tenreo.errors import TenreoError
from tenreo.evaluation import evaluate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return open_images("digits", "train", SMALL, 10).limited(192), open_images("digits", "val", SMALL, 10)


def test_digits_are_split_once_and_for_all(digits):
    val = digits[1]
    train = open_images("digits", "train", SMALL, 10)
    assert (len(train), len(val)) == (1437, 360)
    image, label = val[0]
    assert image.shape == (3, 32, 32) and 0 <= label < 10
    assert -1 <= image.min() < image.max() <= 1


@pytest.fixture
def folder(tmp_path):
    digits = open_images("digits", "val", SMALL, None)
    for i, (array, label) in enumerate(digits.samples[:40]):
        path = tmp_path / "val" / f"class{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(array, np.ones((8, 8), np.uint8))).save(path)
    return tmp_path


def test_augmentation_depends_on_seed_and_image_alone():
    images = open_images("digits", "train", SMALL, 10, "standard").limited(12)
    whole = [x for x, _ in Batches(images, 4, CPU, seed=1)]
    state = torch.get_rng_state()
    later = [x for x, _ in Batches(images, 4, CPU, workers=1, seed=1, first=1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], later, strict=True))
    other = torch.cat([x for x, _ in Batches(images, 4, CPU, seed=2)])
    assert not any(torch.equal(a, b) for a in other for b in torch.cat(whole))


def test_photographs_are_cropped_and_flipped(folder):
    images = open_images(str(folder), "val", SMALL, 10, "standard")
    first, second = images[0][0], images[0][0]
    assert first.shape == (3, 32, 32) and first.dtype == torch.float32
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_skipped_and_counted(folder, workers):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", SMALL, 10)
    assert len(images) == 41
    batches = Batches(images, 16, CPU, workers, skip_broken=True)
    assert evaluate(network(), batches).images == 40
    assert batches.broken == {str(bad)}
    training = Batches(images, 16, CPU, workers, seed=0, skip_broken=True)
    assert [len(y) for _, y in training] == training.totals == [16, 16, 9]  # another image takes the place
    assert training.broken == {str(bad)}


def test_processes_share_every_batch_and_no_image_twice(digits):
    few = digits[0].limited(55)
    alone = [y for _, y in Batches(few, 16, CPU, seed=3)]
    parts = [list(Batches(few, 8, CPU, seed=3, group=Group(r, 2))) for r in range(2)]
    for whole, (_, a), (_, b) in zip(alone, *parts, strict=True):
        assert torch.equal(whole, torch.cat([a, b]))
    seen = [x for r in range(2) for batch, _ in Batches(few, 8, CPU, group=Group(r, 2)) for x in batch]
    assert sorted(x.numpy().tobytes() for x in seen) == sorted(few[i][0].numpy().tobytes() for i in range(55))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(folder, workers):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", SMALL, 10)
    with pytest.raises(TenreoError, match=r"class3.zz\.JPEG: can not be read as an image"):
        evaluate(network(), Batches(images, 16, CPU, workers))


def test_folders_that_are_not_right(folder):
    with pytest.raises(TenreoError, match="train: no such folder; data are laid out as"):
        open_images(str(folder), "train", SMALL, 10)
    with pytest.raises(TenreoError, match="val: has 10 classes, the model has 1000"):
        open_images(str(folder), "val", SMALL, 1000)
    (folder / "val" / "empty").mkdir()
    with pytest.raises(TenreoError, match="empty: holds no image"):
        open_images(str(folder), "val", SMALL, 11)


def test_statistics_take_other_images_for_broken_ones(folder):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", SMALL, 10)
    assert [len(x) for x in unlabelled(images, 2, 30, skip_broken=True)] == [30, 11]
    with pytest.raises(TenreoError, match=r"zz\.JPEG: can not be read as an image"):
        list(unlabelled(images, 2, 30))


def test_damage_anywhere_in_an_image_is_no_traceback(folder):
    path = next((folder / "val" / "class3").iterdir())
    whole, dice = path.read_bytes(), np.random.default_rng(0)
    images = open_images(str(folder), "val", SMALL, 10)
    at = [source for source, _ in images.samples].index(path)
    for k in range(60):
        cut = int(dice.integers(len(whole)))
        path.write_bytes(
            whole[:cut] if k % 2 else whole[:cut] + bytes([whole[cut] ^ 0x5A]) + whole[cut + 1 :]
        )
        images[at]  # an image, or what stands for a broken one


def test_a_worker_that_is_killed_is_told(digits):
    with (
        pytest.raises(TenreoError, match=r"has ended .*DataLoader worker.*fewer --workers"),
        naming_lost_workers(),
    ):
        for _ in Batches(digits[0], 4, CPU, workers=1):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


@pytest.mark.cuda
def test_cuda_takes_batches_with_broken_images_from_pinned_memory(folder):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", SMALL, 10)
    batches = Batches(images, 16, torch.device("cuda"), 1, skip_broken=True)
    assert sum(len(y) for x, y in batches if x.is_cuda) == 40 and batches.broken == {str(bad)}

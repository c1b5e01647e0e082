"""Images to batches: order, shares, broken images, lost workers."""

import multiprocessing
import os
import signal

import pytest
import torch
from networks import digits_classifier

from tenreo.errors import TenreoError
from tenreo.vision.batches import Batches, Loading, Share, lost_workers_named, unlabeled
from tenreo.vision.evaluation import evaluate
from tenreo.vision.images import open_images

CPU = torch.device("cpu")


def test_augmentation_depends_on_seed_and_image_alone(small):
    images = open_images("digits", "train", small, 10, "standard").limited(12)
    whole = [x for x, _ in Batches(images, Loading(4), CPU, seed=1)]
    state = torch.get_rng_state()
    later = [x for x, _ in Batches(images, Loading(4, 1), CPU, seed=1, first=1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], later, strict=True))
    other = torch.cat([x for x, _ in Batches(images, Loading(4), CPU, seed=2)])
    assert not any(torch.equal(a, b) for a in other for b in torch.cat(whole))


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_skipped_and_counted(folder, workers, small):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", small, 10)
    assert len(images) == 41
    batches = Batches(images, Loading(16, workers, True), CPU)
    assert evaluate(digits_classifier(), batches).images == 40
    assert batches.broken == {str(bad)}
    training = Batches(images, Loading(16, workers, True), CPU, seed=0)
    assert [len(y) for _, y in training] == training.totals == [16, 16, 9]  # another image takes the place
    assert training.broken == {str(bad)}


def test_processes_share_every_batch_and_no_image_twice(digits):
    few = digits[0].limited(55)
    alone = [y for _, y in Batches(few, Loading(16), CPU, seed=3)]
    parts = [list(Batches(few, Loading(8), CPU, seed=3, share=Share(r, 2))) for r in range(2)]
    for whole, (_, a), (_, b) in zip(alone, *parts, strict=True):
        assert torch.equal(whole, torch.cat([a, b]))
    seen = [x for r in range(2) for batch, _ in Batches(few, Loading(8), CPU, share=Share(r, 2)) for x in batch]
    assert sorted(x.numpy().tobytes() for x in seen) == sorted(few[i][0].numpy().tobytes() for i in range(55))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(folder, workers, small):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", small, 10)
    with pytest.raises(TenreoError, match=r"class3.zz\.JPEG: can not be read as an image"):
        evaluate(digits_classifier(), Batches(images, Loading(16, workers), CPU))


def test_statistics_take_other_images_for_broken_ones(folder, small):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", small, 10)
    assert [len(x) for x in unlabeled(images, 2, Loading(30, skip_broken=True))] == [30, 11]
    with pytest.raises(TenreoError, match=r"zz\.JPEG: can not be read as an image"):
        list(unlabeled(images, 2, Loading(30)))


def test_a_worker_that_is_killed_is_told(digits):
    with (
        pytest.raises(TenreoError, match=r"has ended .*DataLoader worker.*fewer workers"),
        lost_workers_named(),
    ):
        for _ in Batches(digits[0], Loading(4, 1), CPU):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


@pytest.mark.cuda
def test_cuda_takes_batches_with_broken_images_from_pinned_memory(folder, small):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", small, 10)
    batches = Batches(images, Loading(16, 1, True), torch.device("cuda"))
    assert sum(len(y) for x, y in batches if x.is_cuda) == 40 and batches.broken == {str(bad)}

"""Images to batches: order, shares, broken images, lost workers."""

import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from networks import digits_classifier
from PIL import Image
from processes import ROOT

from tenreo.data.batches import Batches, Loading, Share, lost_workers_named, unlabeled
from tenreo.data.images import open_images
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import evaluate

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


SCRIPT = """
import resource, signal, sys, threading, time
from torch import nn
from networks import digits_classifier
from tenreo.data.batches import *
from tenreo.evaluation.accuracy import evaluate
from tenreo.data.images import open_images
from tenreo.files.records import Preprocess
from tenreo.errors import TenreoError
net = digits_classifier()
images = open_images(sys.argv[1], "val", Preprocess(32, 32, (0.5,) * 3, (0.5,) * 3), 10)
batches = Batches(images, Loading(16, 2), torch.device("cpu"))
if sys.argv[2] == "limit":
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000,) * 2)
if sys.argv[2] == "error":
    held = iter(batches)
    next(held)
    raise ValueError("of somebody else")
if sys.argv[2] == "interrupt":
    images.prepare = lambda picture: time.sleep(0.5)
    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    with lost_workers_named():
        evaluate(net, batches)
except TenreoError as error:
    sys.exit(f"told: {error}")
"""


def ended(folder, size=None, what="evaluate"):
    """What a process says that reads images with two others, with shared memory of some size; it ends in time."""
    code = [sys.executable, "-c", SCRIPT, str(folder), what]
    if size:
        code = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh", *code]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60, env={
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1",
    })  # fmt: skip
    assert done.returncode == (-signal.SIGINT if what == "interrupt" else 1), done.stderr
    return done.stderr


can_mount = pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0, reason="needs a mount of its own"
)


@can_mount
@pytest.mark.parametrize(("size", "told"), [("16k", "can not be started"), ("100k", "/val/class0/")])
def test_without_shared_memory_it_ends_and_says_so(folder, size, told):
    said = ended(folder, size)
    assert "told: " in said and told in said and "No space left" in said and "Traceback" not in said


def test_an_error_of_somebody_else_ends_the_processes_that_read(folder):
    assert "ValueError: of somebody else" in ended(folder, what="error")


def test_ctrl_c_while_images_are_waited_for_stays_what_it_is(folder):
    said = ended(folder, what="interrupt")
    assert said.rstrip().endswith("KeyboardInterrupt") and "worker" not in said.splitlines()[-1]


def test_images_that_take_too_much_memory_are_named(folder):
    Image.fromarray(np.zeros((13_000, 13_000), np.uint8)).save(folder / "val" / "class3" / "large.png")
    said = ended(folder, what="limit")
    assert "large.png: can not be read as an image" in said and "Traceback" not in said


def test_a_batch_of_one_image_is_a_batch_where_all_are(digits):
    few = digits[0].limited(5)
    assert Batches(few, Loading(1), CPU, seed=0).totals == [1] * 5
    assert Batches(few, Loading(4), CPU, seed=0).totals == [4]
    later = Batches(few, Loading(2), CPU, seed=0, first=1)
    assert (later.totals, later.left_out, later.steps) == ([2], 2, 2)

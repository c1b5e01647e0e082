"""Batches: order, distribution over processes, broken images and lost workers."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from networks import digits_classifier
from PIL import Image
from processes import ROOT, Forked

from tenreo.data.batches import Batches, Loading, UnlabeledBatches
from tenreo.data.images import open_images
from tenreo.data.workers import explain_worker_loss
from tenreo.errors import TenreoError
from tenreo.evaluation.accuracy import evaluate
from tenreo.files.records import Preprocess

CPU = torch.device("cpu")
SMALL = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_augmentation_depends_only_on_seed_and_image(small):
    images = open_images("digits", "train", small, 10, "standard").limited(12)
    whole = [x for x, _ in Batches(images, Loading(4), CPU, seed=1)]
    state = torch.get_rng_state()
    later = [x for x, _ in Batches(images, Loading(4, 1), CPU, seed=1, skip=1)]
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
    assert (
        [len(y) for _, y in training] == training.global_sizes == [16, 16, 9]
    )  # another image replaces the broken one
    assert training.broken == {str(bad)}


def test_processes_load_disjoint_parts_of_all_images(digits):
    few = digits[0].limited(55)
    alone = [y for _, y in Batches(few, Loading(16), CPU, seed=3)]
    parts = [list(Batches(few, Loading(8), CPU, seed=3, rank=r, world_size=2)) for r in range(2)]
    for whole, (_, a), (_, b) in zip(alone, *parts, strict=True):
        assert torch.equal(whole, torch.cat([a, b]))
    loaded = [x for r in range(2) for batch, _ in Batches(few, Loading(8), CPU, rank=r, world_size=2) for x in batch]
    assert sorted(x.numpy().tobytes() for x in loaded) == sorted(few[i][0].numpy().tobytes() for i in range(55))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_names_the_broken_image(folder, workers, small):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", small, 10)
    with pytest.raises(TenreoError, match=r"class3.zz\.JPEG: cannot be read as an image"):
        evaluate(digits_classifier(), Batches(images, Loading(16, workers), CPU))


def test_unlabeled_batches_replace_broken_images(folder, small):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", small, 10)
    assert [len(x) for x in UnlabeledBatches(images, 2, Loading(30, skip_broken=True))] == [30, 11]
    with pytest.raises(TenreoError, match=r"zz\.JPEG: cannot be read as an image"):
        list(UnlabeledBatches(images, 2, Loading(30)))


def test_an_error_explains_that_a_worker_was_killed(digits):
    with (
        pytest.raises(TenreoError, match=r"has ended .*DataLoader worker.*fewer workers"),
        explain_worker_loss(),
    ):
        for _ in Batches(digits[0], Loading(4, 1), CPU):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


@pytest.fixture
def imperfect(folder, monkeypatch):
    """Images of which zz.JPEG is broken, and all others cause a warning."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    return open_images(str(folder), "val", SMALL, 10), bad


def test_pinned_memory_works_with_broken_images_and_warnings(cuda, imperfect):
    images, bad = imperfect
    batches = Batches(images, Loading(16, 0, True), cuda)
    assert sum(len(y) for x, y in batches if x.is_cuda) == 40 and batches.broken == {str(bad)}
    assert len({path for path, _ in batches.warnings}) == 40


def pinned_by_torch_2_10(data):
    """Convert a batch as the thread of torch 2.10 and older that pins memory does, without a GPU."""
    if isinstance(data, torch.Tensor):
        return data.clone()
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(pinned_by_torch_2_10, data))
    if isinstance(data, (list, tuple)):
        return [pinned_by_torch_2_10(each) for each in data]
    return data.pin_memory() if hasattr(data, "pin_memory") else data


def test_warnings_survive_the_pinning_of_older_versions(imperfect, monkeypatch):
    """Tuples became lists, so a warning about an image ended the epoch: lists cannot be elements of a set."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    images, bad = imperfect
    batches = Batches(images, Loading(16, 0, True), CPU)
    collate = batches.loader.collate_fn
    batches.loader.collate_fn = lambda samples: pinned_by_torch_2_10(collate(samples))
    assert sum(len(y) for _, y in batches) == 40 and batches.broken == {str(bad)}
    assert {path for path, _ in batches.warnings} == {str(source) for source, _ in images.samples} - {str(bad)}


SCRIPT = """
import ctypes, os, signal, subprocess, sys, time
import torch
from networks import digits_classifier
from tenreo.data.batches import *
from tenreo.data.workers import explain_worker_loss
from tenreo.evaluation.accuracy import evaluate
from tenreo.data.images import open_images
from tenreo.files.records import Preprocess
from tenreo.errors import TenreoError
if sys.argv[3] != "None":  # gives this process a mount of its own
    assert ctypes.CDLL(None).unshare(0x20000) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sys.argv[3]}", "tmpfs", "/dev/shm"], check=True)
net = digits_classifier()
images = open_images(sys.argv[1], "val", Preprocess(32, 32, (0.5,) * 3, (0.5,) * 3), 10)
batches = Batches(images, Loading(16, 2), torch.device("cpu"))
if sys.argv[2] == "error":
    held = iter(batches)
    next(held)
    raise ValueError("unrelated")
if sys.argv[2] == "interrupt":
    def interrupt(picture):  # in the last worker, after the main process has started to wait
        time.sleep(0.3)
        if torch.utils.data.get_worker_info().id == 1:
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(0.2)
        os._exit(0)  # otherwise the main process waits five seconds for each worker
    images.prepare = interrupt
try:
    with explain_worker_loss():
        evaluate(net, batches)
except TenreoError as error:
    sys.exit(f"TenreoError: {error}")
"""


def run_script(folder, size=None, what="evaluate"):
    """Run SCRIPT with two workers, optionally with a limited shared memory, until it ends; return its stderr."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    process = Forked(str(script), folder, what, size)
    _, err = process.communicate()
    assert process.returncode == 1, err
    return err


can_mount = pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0, reason="needs permission to mount"
)


@can_mount
@pytest.mark.parametrize(
    ("size", "message"), [pytest.param("16k", "cannot be started", marks=pytest.mark.slow), ("100k", "/val/class0/")]
)
@pytest.mark.slow
def test_too_little_shared_memory_is_explained(folder, size, message):
    stderr = run_script(folder, size)
    assert "TenreoError: " in stderr and "Traceback" not in stderr
    if "bus error" in stderr:  # torch 2.8 does not reserve the memory, so the system ends the worker that writes to it
        assert "insufficient shared memory" in stderr and "use fewer workers" in stderr
    else:
        assert message in stderr and "No space left" in stderr


@pytest.mark.slow
def test_an_unrelated_error_ends_the_workers(folder):
    """In a process of its own: one that multiprocessing has started ends in another way."""
    command = [sys.executable, "-c", SCRIPT, str(folder), "error", "None"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1",
    })  # fmt: skip
    assert done.returncode == 1 and "ValueError: unrelated" in done.stderr


def test_ctrl_c_while_waiting_for_images_is_a_keyboard_interrupt(folder):
    assert run_script(folder, what="interrupt").splitlines()[-1] == "KeyboardInterrupt"


def test_a_last_batch_of_one_image_is_dropped_unless_all_are_so_small(digits):
    few = digits[0].limited(5)
    assert Batches(few, Loading(1), CPU, seed=0).global_sizes == [1] * 5
    assert Batches(few, Loading(4), CPU, seed=0).global_sizes == [4]
    later = Batches(few, Loading(2), CPU, seed=0, skip=1)
    assert (later.global_sizes, later.skipped_images, later.steps) == ([2], 2, 2)

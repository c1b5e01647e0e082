"""Digits and folders of images, prepared and varied."""

import numpy as np
import pytest
import torch

from tenreo.errors import TenreoError
from tenreo.files.records import Preprocess
from tenreo.vision.images import Broken, open_images


def test_digits_are_split_once_and_for_all(digits, small):
    val = digits[1]
    train = open_images("digits", "train", small, 10)
    assert (len(train), len(val)) == (1437, 360)
    image, label = val[0]
    assert image.shape == (3, 32, 32) and 0 <= label < 10
    assert -1 <= image.min() < image.max() <= 1


def test_photographs_are_cropped_and_flipped(folder, small):
    images = open_images(str(folder), "val", small, 10, "standard")
    first, second = images[0][0], images[0][0]
    assert first.shape == (3, 32, 32) and first.dtype == torch.float32
    assert not torch.equal(first, second)


def test_folders_that_are_not_right(folder, small):
    with pytest.raises(TenreoError, match="train: no such folder; data are laid out as"):
        open_images(str(folder), "train", small, 10)
    with pytest.raises(TenreoError, match="val: has 10 classes, the model has 1000"):
        open_images(str(folder), "val", small, 1000)
    (folder / "val" / "empty").mkdir()
    with pytest.raises(TenreoError, match="empty: holds no image"):
        open_images(str(folder), "val", small, 11)


def test_damage_anywhere_in_an_image_is_no_traceback(folder, small):
    path = next((folder / "val" / "class3").iterdir())
    whole, dice = path.read_bytes(), np.random.default_rng(0)
    images = open_images(str(folder), "val", small, 10)
    at = [source for source, _ in images.samples].index(path)
    for k in range(60):
        cut = int(dice.integers(len(whole)))
        path.write_bytes(whole[:cut] if k % 2 else whole[:cut] + bytes([whole[cut] ^ 0x5A]) + whole[cut + 1 :])
        images[at]  # an image, or what stands for a broken one


def test_folders_without_classes_and_fewer_images(folder, small, tmp_path):
    (tmp_path / "none" / "val").mkdir(parents=True)
    with pytest.raises(TenreoError, match="val: holds no class folder"):
        open_images(str(tmp_path / "none"), "val", small, None)
    images = open_images(str(folder), "val", small, 10)
    few = images.limited(5)
    assert len(few) == 5 and few.samples[0] == images.samples[0] and few.samples[-1] == images.samples[-1]
    assert images.limited(None) is images is images.limited(40)


def test_an_image_is_resized_cropped_and_normalized():
    """A uniform image stays uniform, in the units that the model wants."""
    images = open_images("digits", "val", Preprocess(40, 36, (0.25, 0.5, 0.75), (0.5, 0.25, 1.0)), 10)
    images.samples[0] = (np.full((8, 8), 51, np.uint8), 3)
    image, label = images[0]
    assert image.shape == (3, 36, 36) and label == 3
    for channel, (mean, std) in zip(image, ((0.25, 0.5), (0.5, 0.25), (0.75, 1.0)), strict=True):
        torch.testing.assert_close(channel, torch.full((36, 36), (0.2 - mean) / std))


def test_a_broken_image_stands_for_itself(folder, small):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", small, 10)
    found = [images[i] for i in range(len(images))]
    assert [x.path for x in found if isinstance(x, Broken)] == [str(bad)]

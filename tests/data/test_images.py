"""Opening, decoding, preprocessing and augmentation of images."""

import io
import os
import re
import resource
import shutil
import struct
import subprocess
import warnings
import zlib
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from tenreo.data.batches import Batches, Loading
from tenreo.data.images import BrokenImage, Images, open_images, open_unlabeled
from tenreo.data.labels import text_order_differs
from tenreo.data.transforms import ImageTransform
from tenreo.errors import TenreoError
from tenreo.files.records import Preprocess

SMALL = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_digits_have_a_fixed_split(digits, small):
    val = digits[1]
    train = open_images("digits", "train", small, 10)
    assert (len(train), len(val)) == (1437, 360)
    image, label = val[0]
    assert image.shape == (3, 32, 32) and 0 <= label < 10
    assert -1 <= image.min() < image.max() <= 1


def test_augmentation_varies_an_image(folder, small):
    images = open_images(str(folder), "val", small, 10, "standard")
    first, second = images[0][0], images[0][0]
    assert first.shape == (3, 32, 32) and first.dtype == torch.float32
    assert not torch.equal(first, second)


def test_wrong_folders_are_rejected(folder, small):
    with pytest.raises(TenreoError, match="train: no such folder; the expected layout is"):
        open_images(str(folder), "train", small, 10)
    with pytest.raises(TenreoError, match="val: has 10 classes, the model has 1000"):
        open_images(str(folder), "val", small, 1000)
    (folder / "val" / "empty").mkdir()
    with pytest.raises(TenreoError, match="empty: contains no image"):
        open_images(str(folder), "val", small, 11)


def test_damaged_images_raise_no_error(folder, small):
    path = next((folder / "val" / "class3").iterdir())
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    images = open_images(str(folder), "val", small, 10)
    index = [source for source, _ in images.samples].index(path)
    for k in range(60):
        cut = int(rng.integers(len(whole)))
        path.write_bytes(whole[:cut] if k % 2 else whole[:cut] + bytes([whole[cut] ^ 0x5A]) + whole[cut + 1 :])
        images[index]  # an image or a BrokenImage


def test_limited_images_and_folders_without_classes(folder, small, tmp_path):
    (tmp_path / "none" / "val").mkdir(parents=True)
    with pytest.raises(TenreoError, match="val: contains no class folder"):
        open_images(str(tmp_path / "none"), "val", small, None)
    images = open_images(str(folder), "val", small, 10)
    subset = images.limited(5)
    assert len(subset) == 5
    assert (subset.samples[0], subset.samples[-1]) == (images.samples[0], images.samples[-1])
    assert images.limited(None) is images is images.limited(40)


def test_an_image_is_resized_cropped_and_normalized():
    """A uniform image stays uniform and has the normalized value in every channel."""
    images = open_images("digits", "val", Preprocess(40, 36, (0.25, 0.5, 0.75), (0.5, 0.25, 1.0)), 10)
    images.samples[0] = (np.full((8, 8), 51, np.uint8), 3)
    image, label = images[0]
    assert image.shape == (3, 36, 36) and label == 3
    for channel, (mean, std) in zip(image, ((0.25, 0.5), (0.5, 0.25), (0.75, 1.0)), strict=True):
        torch.testing.assert_close(channel, torch.full((36, 36), (0.2 - mean) / std))


def test_a_broken_image_is_returned_as_such(folder, small):
    bad = folder / "val" / "class3" / "zz.JPEG"
    bad.write_bytes(b"not an image")
    images = open_images(str(folder), "val", small, 10)
    results = [images[i] for i in range(len(images))]
    assert [x.path for x in results if isinstance(x, BrokenImage)] == [str(bad)]


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def picture_of(path, preprocess=SMALL):
    """Return the pixels of the only image below a folder, from 0 to 255."""
    image, _ = open_images(str(path), "val", preprocess, None)[0]
    return (image * 0.5 + 0.5) * 255


GRAY = np.arange(0, 256, dtype=np.uint8)[None].repeat(32, 0)[:, ::8].copy()  # (32, 32)


def tiff_of_12_bits(path):
    """Write GRAY * 16 as an uncompressed TIFF with 12 bits per sample, two samples in three bytes."""
    values = (GRAY.astype(np.uint16) << 4).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, ((values[:, 0] & 15) << 4) | (values[:, 1] >> 8), values[:, 1] & 255], 1)
    data = packed.astype(np.uint8).tobytes()
    tags = [(256, 4, 32), (257, 4, 32), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 32),
            (279, 4, len(data))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.parent.mkdir(parents=True)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory)


def test_gray_images_of_16_and_12_bits_equal_those_of_8_bits(tmp_path):
    wide = GRAY.astype(np.uint16)
    save(Image.fromarray(GRAY), tmp_path / "8" / "val" / "a" / "x.png")
    save(Image.fromarray(wide * 257), tmp_path / "png" / "val" / "a" / "x.png")
    save(Image.fromarray(wide * 256), tmp_path / "tiff" / "val" / "a" / "x.tiff")
    tiff_of_12_bits(tmp_path / "12" / "val" / "a" / "x.tif")
    (tmp_path / "pgm" / "val" / "a").mkdir(parents=True)
    (tmp_path / "pgm" / "val" / "a" / "x.pgm").write_bytes(b"P5 32 32 65535\n" + (wide * 257).astype(">u2").tobytes())
    expected = picture_of(tmp_path / "8")
    torch.testing.assert_close(expected[0], torch.from_numpy(GRAY).float(), atol=1e-3, rtol=0)
    for kind in ("png", "tiff", "12", "pgm"):
        torch.testing.assert_close(picture_of(tmp_path / kind), expected, msg=kind)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_equal_pillows_conversion_to_rgb(tmp_path, mode):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (32, 32, 4), np.uint8), "RGBA").convert(mode)
    path = tmp_path / "val" / "a" / ("x.tiff" if mode in ("CMYK", "YCbCr") else "x.png")
    save(image, path)
    with warnings.catch_warnings(action="ignore"), Image.open(path) as file:
        expected = np.asarray(file.convert("RGB")).transpose(2, 0, 1)
    torch.testing.assert_close(picture_of(tmp_path), torch.tensor(expected).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_a_known_white_value_are_rejected(tmp_path, kind):
    save(Image.fromarray(GRAY.astype(kind)), tmp_path / "val" / "a" / "x.tiff")
    result = open_images(str(tmp_path), "val", SMALL, None)[0]
    assert isinstance(result, BrokenImage) and "value of white is unknown" in result.why


@pytest.mark.parametrize("workers", [0, 1])
def test_warnings_are_recorded_with_the_image(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 600
    )  # Pillow warns above this number and fails above twice this number
    for name, side in (("fine", 16), ("large", 32), ("bomb", 64)):
        save(Image.fromarray(GRAY).resize((side, side)), tmp_path / "val" / "a" / f"{name}.png")
    palette = Image.fromarray(GRAY[:16, :16]).convert("P")
    palette.save(tmp_path / "val" / "a" / "palette.png", transparency=bytes(range(256)))
    images = open_images(str(tmp_path), "val", SMALL, None)
    batches = Batches(images, Loading(4, workers, skip_broken=True), torch.device("cpu"))
    assert sum(len(y) for _, y in batches) == 3
    ((path, text),) = batches.warnings
    assert path.endswith("large.png") and "decompression bomb" in text
    assert [os.path.basename(path) for path in batches.broken] == ["bomb.png"]


@pytest.mark.parametrize("size", [(10, 900), (900, 10), (3, 2500)])
@pytest.mark.parametrize("how", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_thin_pictures_are_what_torchvision_makes_of_them(size, how):
    preprocess = Preprocess(40, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), how)
    pixels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    theirs = ImageClassification(
        crop_size=32, resize_size=40, mean=preprocess.mean, std=preprocess.std, interpolation=InterpolationMode(how)
    )
    images = Images([(pixels, 0)], 1, ImageTransform(preprocess, "none", False))
    expected = theirs(Image.fromarray(pixels).convert("RGB"))
    difference = (images[0][0] - expected).abs() * 127.5
    # Pillow may resize the two directions in another order, which changes the rounding. A shifted crop would differ by
    # tens.
    assert difference.mean() < (5 if how == "nearest" else 1.5) and (how != "bilinear" or difference.max() < 2.1)


def test_a_very_long_image_needs_little_memory(tmp_path):
    """Resizing the whole image of 1 x 20,000,000 pixels to a height of 32 would take 61 GB."""
    save(Image.fromarray(np.full((1, 20_000_000), 51, np.uint8)), tmp_path / "val" / "a" / "x.tiff")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.testing.assert_close(picture_of(tmp_path), torch.full((3, 32, 32), 51.0), atol=1e-3, rtol=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


def png(width, height):
    """Return the start of a gray PNG file of this size; the memory is taken before the values are read."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def tiff_with_a_tile(side):
    """Return a TIFF file of 16 x 16 pixels whose only tile has this side."""
    data = zlib.compress(bytes(1000))
    tags = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1), (322, 4, side),
            (323, 4, side), (324, 4, 8), (325, 4, len(data))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(data) % 2)
    return start + data + bytes(len(data) % 2) + struct.pack("<H", len(tags)) + entries + bytes(4)


def progressive_jpeg(side):
    """Return the start of a progressive JPEG file whose header names this side."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", progressive=True)
    frame = struct.pack(">HH", 16, 16)
    return file.getvalue().replace(frame, struct.pack(">HH", side, side), 1)


def webp(side):
    """Return the start of a lossless WebP file of this size."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "WEBP", lossless=True)
    data, at = bytearray(file.getvalue()), file.getvalue().index(b"VP8L") + 9
    data[at : at + 4] = ((side - 1) | ((side - 1) << 14)).to_bytes(4, "little")  # 14 bits for each side
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("tall.png", lambda: png(1, 170_000_000)), ("wide.png", lambda: png(170_000_000, 1)),
        ("square.png", lambda: png(12_000, 12_000)), ("tile.tif", lambda: tiff_with_a_tile(30_000)),
        ("progressive.jpg", lambda: progressive_jpeg(9_500)), ("x.webp", lambda: webp(8_000)),
    ],
)  # fmt: skip
def test_a_small_file_cannot_take_much_memory(tmp_path, name, make):
    """An image of 1 x 170,000,000 pixels took 2.4 GB in every worker process."""
    path = tmp_path / name
    path.write_bytes(make())
    images = Images([(path, 0)], 1, ImageTransform(SMALL, "standard", False))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(action="ignore"):
        result = images.read(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert result.path == str(path)
    assert re.search(r"decoding its .* pixels needs .* GB of memory, more than 1\.1 GB", result.why)


def test_no_external_program_is_started_for_an_image(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", "EPS")
    result = Images([(tmp_path / "x.png", 0)], 1, ImageTransform(SMALL, "none", False)).read(0)
    assert isinstance(result, BrokenImage) and "EPS file" in result.why


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_large_photographs_take_the_memory_that_is_estimated(tmp_path, augment):
    """A baseline JPEG of 6,000 x 6,000 pixels needs 4 bytes per pixel, and as many for a crop."""
    path = tmp_path / "x.jpg"
    Image.new("RGB", (6_000, 6_000), (51, 51, 51)).save(path)
    images = Images([(path, 0)], 1, ImageTransform(SMALL, augment, False))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert images.read(0).image.shape == (3, 32, 32)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8.5 * 36_000  # kB


def test_a_lack_of_memory_names_the_image(tmp_path):
    Image.new("L", (20_000, 20_000)).save(tmp_path / "x.png")
    images = Images([(tmp_path / "x.png", 0)], 1, ImageTransform(SMALL, "none", False))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, limits[1]))
    try:
        result = images.read(0)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert isinstance(result, BrokenImage) and result.path == str(tmp_path / "x.png")


def test_entries_that_are_not_regular_files_are_reported_without_blocking(folder):
    os.mkfifo(folder / "val" / "class3" / "pipe.png")
    os.symlink("nowhere", folder / "val" / "class3" / "lost.png")
    (folder / "val" / "class4" / "folder.png").mkdir()
    images = open_images(str(folder), "val", SMALL, 10)
    reasons = {
        os.path.basename(b.path): b.why for b in map(images.read, range(len(images))) if isinstance(b, BrokenImage)
    }
    assert (
        reasons == {"pipe.png": "it is not a regular file", "lost.png": ANY} and "No such file" in reasons["lost.png"]
    )


def test_links_are_followed_once_and_hidden_files_are_ignored(folder, tmp_path_factory):
    plain = [source.name for source, _ in open_images(str(folder), "val", SMALL, 10).samples]
    away = tmp_path_factory.mktemp("away")
    val, real = folder / "val", away / "class3"
    (val / "class3").rename(real)
    (val / "class3").symlink_to(real)
    (real / "loop").symlink_to(real)
    (real / "self").symlink_to("self")
    for hidden in (val / ".ipynb_checkpoints", val / "class4" / ".ipynb_checkpoints"):
        hidden.mkdir()
        (hidden / "x.png").write_bytes(next(iter(real.glob("*.png"))).read_bytes())
    (val / "class4" / "._0.png").write_bytes(b"resource fork")
    images = open_images(str(folder), "val", SMALL, 10)
    assert [source.name for source, _ in images.samples] == plain and len(images.class_names) == 10


@pytest.fixture
def pair(tmp_path):
    """Create two images in val/a and one in val/b, of the values 10, 20 and 30."""
    for i, name in enumerate(("a/1", "a/2", "b/3"), 1):
        save(Image.fromarray(np.full((8, 8), 10 * i, np.uint8)), tmp_path / "val" / f"{name}.png")
    return tmp_path / "val"


def names_of(val):
    return [
        (source.relative_to(val).as_posix(), label) for source, label in open_images(str(val), ".", SMALL, 2).samples
    ]


PAIR = [("a/1.png", 0), ("a/2.png", 0), ("b/3.png", 1)]


@pytest.mark.parametrize("link", ["a/up", "a/deep/up", "a/up.png", "up", "b/up"])
@pytest.mark.parametrize("target", ["val", ".", "val/..", "val/../.."])
def test_links_to_folders_above_add_no_images(pair, link, target):
    """A link in class a to the folder of all classes added the images of class b to class a."""
    (pair / link).parent.mkdir(exist_ok=True)
    (pair / link).symlink_to(pair.parent / target)
    assert names_of(pair) == PAIR
    assert len(open_unlabeled(str(pair), ".", SMALL)) == 3


def test_links_from_linked_folders_to_folders_above_add_no_images(pair, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    (pair / "a").rename(store / "a")
    (pair / "a").symlink_to(store / "a")
    (store / "a" / "above").symlink_to(store)  # contains class a itself
    (store / "a" / "back").symlink_to(pair)  # contains the link to class a
    Image.fromarray(GRAY).save(store / "other.png")
    assert names_of(pair) == PAIR
    (tmp_path_factory.mktemp("alias") / "data").symlink_to(pair)
    assert [label for _, label in names_of(tmp_path_factory.getbasetemp() / "alias0" / "data")] == [0, 0, 1]


def test_an_image_with_several_links_is_counted_once(pair):
    (pair / "a" / "0.png").symlink_to("1.png")
    (pair / "a" / "0").symlink_to("z")
    (pair / "a" / "z").mkdir()
    (pair / "a" / "z" / "9.png").symlink_to("../2.png")
    (pair / "a" / "y").symlink_to("z")
    assert names_of(pair) == PAIR
    os.link(pair / "a" / "1.png", pair / "a" / "4.png")  # a file of its own, as in torchvision
    assert names_of(pair) == [*PAIR[:2], ("a/4.png", 0), PAIR[2]]


@pytest.mark.parametrize(("link", "target"), [("b/1.png", "../a/1.png"), ("b/x", "../a"), ("c", "a"), ("a/x", "../b")])
def test_links_that_give_an_image_two_classes_are_refused(pair, link, target):
    (pair / link).symlink_to(target)
    with pytest.raises(TenreoError, match=r"/[13]\.png: is the same file as .*/[13]\.png, so it has two classes"):
        open_images(str(pair), ".", SMALL, 2)


@pytest.fixture
def deep(folder):
    """Create an image 1,200 folders below a class folder; shutil.rmtree cannot remove such a folder."""
    here = os.getcwd()
    os.chdir(folder / "val" / "class3")
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    Image.fromarray(GRAY).save("x.png")
    os.chdir(here)
    yield folder
    subprocess.run(["rm", "-r", str(folder / "val" / "class3")], check=True)


def test_folders_may_be_nested_deeper_than_the_recursion_limit(deep):
    assert len(open_images(str(deep), "val", SMALL, 10)) == 41


def labels_by_class(images):
    return {os.path.basename(os.path.dirname(source)): label for source, label in images.samples}


def test_labels_follow_the_class_names_of_the_models_file(folder):
    order = tuple(f"class{i}" for i in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7))
    images = open_images(str(folder), "val", SMALL, 10, class_names=order)
    assert labels_by_class(images) == {name: i for i, name in enumerate(order)} and images.classes == 10
    shutil.rmtree(folder / "val" / "class4")
    assert labels_by_class(open_images(str(folder), "val", SMALL, 10, class_names=order))["class0"] == 3
    (folder / "val" / "class0").rename(folder / "val" / "katze")
    with pytest.raises(
        TenreoError, match=r"val: has the classes katze, .* the model's file; class0, class4 of these are missing"
    ):
        open_images(str(folder), "val", SMALL, 10, class_names=order)


def test_splits_with_different_class_names_are_rejected(folder):
    shutil.copytree(folder / "val", folder / "train")
    assert labels_by_class(open_images(str(folder), "val", SMALL, 10))["class9"] == 9
    (folder / "val" / "class3").rename(folder / "val" / "katze")
    with pytest.raises(TenreoError, match=r"val: has the classes katze, .*train; class3 of these are missing"):
        open_images(str(folder), "val", SMALL, 10)


def test_numbers_sorted_as_text_raise_doubt(tmp_path):
    for i in range(12):
        save(Image.fromarray(GRAY), tmp_path / "val" / str(i) / "x.png")
    images = open_images(str(tmp_path), "val", SMALL, 12)
    assert labels_by_class(images)["2"] == 4 and "order as text (0, 1, 10, 11, 2 and 7 more)" in images.doubt
    numbers = tuple(map(str, range(12)))
    images = open_images(str(tmp_path), "val", SMALL, 12, class_names=numbers)
    assert labels_by_class(images) == {name: int(name) for name in numbers} and not images.doubt
    assert text_order_differs(["class1", "class10", "class2"]) and not text_order_differs(["a", "b10", "b2"])
    assert not text_order_differs(sorted(f"{i:02}" for i in range(12)))


def test_a_fingerprint_depends_on_the_content_and_not_on_the_folder(folder, tmp_path_factory):
    def fingerprint():
        return open_images(str(folder), "val", SMALL, 10).fingerprint()

    first = fingerprint()
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(folder, copy)
    assert open_images(str(copy), "val", SMALL, 10).fingerprint() == first
    val = folder / "val"
    (val / "class1").rename(val / "x")
    (val / "class2").rename(val / "class1")
    (val / "x").rename(val / "class2")
    exchanged = fingerprint()
    path = next((val / "class3").iterdir())
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    other = fingerprint()
    path.rename(path.with_name("other.png"))
    assert len({first, exchanged, other, fingerprint()}) == 4
    assert (
        open_images("digits", "val", SMALL, 10).fingerprint() != open_images("digits", "train", SMALL, 10).fingerprint()
    )

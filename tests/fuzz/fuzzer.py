"""Fuzzer: every hostile input must end with success, a TenreoError or an exit code within seconds.

python tests/fuzz/fuzzer.py [--cases 100000] [--seed 7] [--target headers] [--only 123]

A case depends only on seed, target and number. For a fault, the fuzzer prints the arguments that repeat the case.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from random import Random
from unittest import mock

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from networks import golden, random_model, random_recipe  # noqa: E402
from PIL import Image  # noqa: E402
from scipy.io import savemat  # noqa: E402
from torch import nn  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import tenreo  # noqa: E402
from tenreo.cli.app import app  # noqa: E402
from tenreo.cli.commands.compress import Output  # noqa: E402
from tenreo.cli.shared_options import DenseModel  # noqa: E402
from tenreo.cli.yaml_files import read_yaml  # noqa: E402
from tenreo.codec.position_coding import decode_positions, encode_positions  # noqa: E402
from tenreo.codec.shape import Basis  # noqa: E402
from tenreo.compression.parametrization import curves  # noqa: E402
from tenreo.data.images import BrokenImage, open_images  # noqa: E402
from tenreo.data.label_files import read_class_map  # noqa: E402
from tenreo.errors import MOST_CHARACTERS, TenreoError  # noqa: E402
from tenreo.files.header import read_header  # noqa: E402
from tenreo.files.pickles import read_pickle  # noqa: E402
from tenreo.files.records import Preprocess  # noqa: E402
from tenreo.models.reference import read_reference  # noqa: E402
from tenreo.planning.rates import RateOptions  # noqa: E402
from tenreo.planning.recipe import Recipe, recipe_of  # noqa: E402
from tenreo.training.observer import Epoch  # noqa: E402
from tenreo.training.settings import Settings  # noqa: E402
from tenreo.training.state import Progress, load_state, save_state  # noqa: E402

SECONDS = 60  # time limit of a case, twice that of building a model
GIGABYTES = 6  # limit of the address space, in addition to that of the imports
WORDS = (
    "", "a", "fc", "*", "[", "[/x]", "\x1b[31m", "\n", "\ud800", "\0", "..", ".", "/dev/zero", "/dev/full", "x" * 300,
    "x" * 5000, "none", "nan", "inf", "1e400", "-1", "0", "9" * 30, "0x" + "f" * 40, "resnet18", "mobilenet_v2",
    "digits", "IMAGENET1K_V1", "cuda:99", "2MB", "é画像\u202e", "weight", "true", "null", "{}", "%s%n", "--", "-",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**30),
    0.0, -0.0, 0.5, 1.5, -0.5, 1e-320, 1e-30, 1e30, 1e300, -999.0, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip


class TimedOut(BaseException):
    """A case has exceeded its time limit."""


def hostile_value(random: Random, depth: int = 0):
    """Return a random hostile value of the types that JSON and YAML have."""
    kind = random.randrange(9 if depth < 3 else 5)
    if kind < 2:
        return random.choice(NUMBERS)
    if kind < 4:
        return random.choice(WORDS)
    if kind == 4:
        return random.choice((None, True, False))
    if kind == 5:
        return nested(random.choice((3, 50, 970)))
    count = random.choice((0, 1, 2, 3, 5))
    if kind == 6:
        return {random.choice(WORDS): hostile_value(random, depth + 1) for _ in range(count)}
    return [hostile_value(random, depth + 1) for _ in range(count)]


def nested(depth: int):
    """Return nested lists."""
    outer: list = []
    for _ in range(depth):
        outer = [outer]
    return outer


def mutated(random: Random, tree, hostile: Callable = hostile_value):
    """Return a copy of a tree of dictionaries and lists with a few random changes."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 2, 4))):
        place = tree
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = random.choice(keys)
            if isinstance(place[key], (dict, list)) and place[key] and random.random() < 0.8:
                place = place[key]
                continue
            change(random, place, key, hostile)
            break
    return tree


def change(random: Random, place, key, hostile: Callable) -> None:
    """Replace, remove or rename an entry, or insert one."""
    how = random.randrange(6)
    if how < 3:
        place[key] = hostile(random)
    elif how == 3:
        del place[key]
    elif isinstance(place, dict):
        place[random.choice(WORDS) if how == 4 else f"{key}.index"] = place.pop(key)
    else:
        place.insert(key, hostile(random))


def corrupted(random: Random, data: bytes, start: int = 0, end: int | None = None) -> bytes:
    """Return a copy of bytes with random changes, deletions and repetitions between start and end."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 32))):
        end = min(len(changed), len(data) if end is None else end)
        if end <= start:
            break
        at = random.randrange(start, end)
        size = random.choice((1, 1, 4, 8, 64))
        how = random.randrange(6)
        if how == 0:
            changed[at] ^= 1 << random.randrange(8)
        elif how == 1:
            changed[at : at + size] = random.randbytes(size)
        elif how == 2:
            changed[at : at + size] = random.choice((b"\0", b"\xff")) * size
        elif how == 3:
            del changed[at : at + size]
        elif how == 4:
            changed[at:at] = changed[at : at + size]
        else:
            del changed[at:]
    return bytes(changed)


class Inputs:
    """Valid inputs that the cases modify, created once, and a folder for the files of a case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {p.stem: p.read_bytes() for p in sorted((TESTS / "data").glob("*.safetensors"))}
        self.models = [self.files[name] for name in ("float32", "float16", "int8", "int6")]
        self.yaml = [p.read_text() for p in sorted((TESTS.parent / "configs").rglob("*.yaml"))]
        self.images = images()
        self.settings = {k: str(v) if isinstance(v, str) else v for k, v in asdict(Settings()).items()}
        self.settings |= {"processes": 1, "images": 12}
        save_state(self.path("state"), trained(), self.settings, DONE)
        self.state = self.path("state").read_bytes()
        # Loaded only once: after a damaged file with sparse tensors, torch would refuse the next valid file.
        self.values = torch.load(self.path("state"), weights_only=True)

    def path(self, name: str, data: bytes | None = None) -> Path:
        """Return the path of a file of the case, after writing the data if they are given."""
        path = self.folder / name
        if data is not None:
            path.write_bytes(data)
        return path


# A valid epoch: every field has the value 1.
EPOCH = Epoch(**{f.name: 1 if f.type == "int" else 1.0 for f in fields(Epoch)})
DONE = Progress(3, 1.5, 7, 12, 2.0, 0.5, [EPOCH])


def trained() -> dict:
    """Return a small model and its optimizer after one step."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


def images() -> list[tuple[str, bytes]]:
    """Return small images in several formats and modes as pairs of ending and bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    files = []
    for mode, ending in (("RGB", "png"), ("RGBA", "png"), ("L", "png"), ("P", "png"), ("I;16", "png"), ("1", "png"),
                         ("RGB", "jpg"), ("CMYK", "jpg"), ("RGB", "bmp"), ("RGB", "ppm"), ("RGB", "tiff"),
                         ("F", "tiff"), ("RGB", "webp"), ("P", "gif")):  # fmt: skip
        rgb = Image.fromarray(noise).convert("RGB")
        picture = rgb.convert("L").convert("I;16") if mode == "I;16" else rgb.convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, {"jpg": "jpeg"}.get(ending, ending))
        files.append((ending, buffer.getvalue()))
    return files


def headers(random: Random, inputs: Inputs) -> None:
    """Load files of tenreo with changed headers."""
    data = random.choice(inputs.models)
    length = int.from_bytes(data[:8], "little")
    if random.random() < 0.25:
        data = corrupted(random, data, 0, 8 + length)
    else:
        header = json.loads(data[8 : 8 + length])
        metadata = {k: json.loads(v) if k in JSONS else v for k, v in header["__metadata__"].items()}
        kind = random.random()
        if kind < 0.75:
            metadata = mutated(random, metadata)
        if kind > 0.65:
            header = mutated(random, header)
        if isinstance(header.get("__metadata__"), dict):
            header["__metadata__"] = {
                k: json.dumps(v) if k in JSONS or not isinstance(v, str) else v for k, v in metadata.items()
            }
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + data[8 + length :]
    path = inputs.path("m.safetensors", data)
    header = read_header(path)
    recipe_of(header)
    header.counts().to_dict()
    header.dense_counts().to_dict()
    json.dumps([header.snr, header.snr_unrefined, header.info.to_dict()])
    model = tenreo.load(path, golden())
    with torch.no_grad():
        model(torch.zeros(1, 3, 8, 8))


JSONS = ("tenreo.model", "tenreo.layers", "tenreo.recipe")


def tensor(random: Random):
    """Return a random tensor of a kind that state dicts rarely contain."""
    shape = random.choice(((), (0,), (1,), (3,), (2, 3), (64, 3, 3, 3), (1, 1, 1, 1, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return random.choice((
            lambda: torch.zeros(shape), lambda: torch.full(shape, float("nan")), lambda: torch.zeros(1).expand(10**9),
            lambda: torch.zeros(shape, dtype=torch.complex64), lambda: torch.zeros(shape, dtype=torch.float64),
            lambda: torch.zeros(shape, dtype=torch.int64) - 1, lambda: torch.full(shape, 2**40),
            lambda: torch.zeros(shape, device="meta"), lambda: torch.eye(3).to_sparse(),
            lambda: torch.zeros(shape).to(torch.float8_e4m3fn), lambda: torch.zeros(shape, dtype=torch.bool),
            lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), lambda: torch.rand(shape) * 1e38,
            lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), lambda: nn.Parameter(torch.ones(2)),
        ))()  # fmt: skip


def pickles(random: Random, inputs: Inputs) -> None:
    """Load files in torch's format with unusual names and tensors, or with damaged bytes."""
    names = ("foo.index", ".index", "features.0.index", "features.0.0.weight", "conv1.weight", "fc.weight", "fc.bias",
             "layer1.0.conv1.index", "layer1.0.conv1.weight", "classifier.1.weight", "classifier.1.index",
             "module.fc.weight", "_orig_mod.fc.weight", "n_averaged", *WORDS)  # fmt: skip
    state: dict = {}
    for _ in range(random.choice((0, 1, 2, 5))):
        key = random.choice(names) if random.random() < 0.95 else random.choice((1, ("a",), (("b", 1), 2), None))
        state[key] = tensor(random) if random.random() < 0.8 else hostile_value(random)
    wrapped = random.choice(
        (state, state, {"state_dict": state}, {"model": state, "epoch": 1}, [state], hostile_value(random))
    )
    buffer = io.BytesIO()
    try:
        torch.save(wrapped, buffer, _use_new_zipfile_serialization=random.random() < 0.8)
    except Exception:  # torch cannot write all values
        return
    data = buffer.getvalue()
    path = inputs.path("m.pth", corrupted(random, data) if random.random() < 0.4 else data)
    how = random.randrange(6)
    if how < 3:
        compress_dry_run(path)
    elif how < 5:
        read_reference(path)
    else:
        tenreo.load(path, golden())


def compress_dry_run(path: Path) -> None:
    """Pass a file to `tenreo compress --weights`, which only plans."""
    typed = ["compress", "-a", "resnet18", "-g", "4", "-r", "2", "--dry-run", "--weights", str(path)]
    done = CliRunner().invoke(app, typed)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code:
        sys.exit(done.exit_code)


def states(random: Random, inputs: Inputs) -> None:
    """Load states of training runs with changed values or damaged bytes."""
    data = inputs.state
    if random.random() < 0.3:
        data = corrupted(random, data)
    else:
        values = mutated(random, inputs.values, lambda r: tensor(r) if r.random() < 0.3 else hostile_value(r))
        buffer = io.BytesIO()
        try:
            torch.save(values, buffer)
        except Exception:
            return
        data = buffer.getvalue()
    load_state(inputs.path("run.state", data), trained(), inputs.settings)


def configurations(random: Random, inputs: Inputs) -> None:
    """Read YAML files with changed keys and values, YAML syntax in wrong places, or damaged bytes."""
    marks = ("&a ", "*a", "!!int ", "!!bool ", "!!timestamp ", "!!python/name:os.system ", "- ", "? ", ": ", "| ",
             "> ", "[", "]", "{", "}", "#", "---\n", "...\n", "%YAML 9.9\n", "<<: ", "= ", "\t", "2001-99-99", "'",
             "1:30:59", "0b1", "1_000", "[" * 3000, "9" * 5000, "0x" + "f" * 5000, ".nan",
             ".inf", "~", "! ")  # fmt: skip
    how = random.random()
    if how < 0.4:
        try:
            text = yaml.safe_dump(mutated(random, yaml.safe_load(random.choice(inputs.yaml))), allow_unicode=True)
        except RecursionError:  # raised by PyYAML when it writes deeply nested values
            return
    elif how < 0.7:
        keys = [*KEYS, *random.sample(WORDS, 5)]
        lines = (f"{random.choice(keys)}: {random.choice(marks)}{random.choice(WORDS)}" for _ in range(4))
        text = "\n".join(lines)
    else:
        text = random.choice(inputs.yaml)
        for _ in range(random.choice((1, 2, 5))):
            at = random.randrange(len(text) + 1)
            text = text[:at] + random.choice(marks) + text[at:]
    data = text.encode("utf-8", "surrogatepass")
    path = inputs.path("c.yaml", corrupted(random, data) if random.random() < 0.2 else data)
    read_yaml(path, [DenseModel, RateOptions, Recipe, Output])


KEYS = ("groups", "rate", "uniform", "progressive", "refine", "include", "importance", "out", "seed", "arch",
        "target_size", "precision", "coefficients", "position_bits", "dry_run")  # fmt: skip


def pictures(random: Random, inputs: Inputs) -> None:
    """Load damaged images."""
    ending, data = random.choice(inputs.images)
    folder = inputs.folder / "images" / "val" / "a"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / f"x.{ending}").write_bytes(corrupted(random, data))
    image = open_images(str(inputs.folder / "images"), "val", SMALL, None)[0]
    assert isinstance(image, BrokenImage) or image[0].shape == (3, 8, 8), image


SMALL = Preprocess(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def parquets(random: Random, inputs: Inputs) -> None:
    """Read damaged Parquet files, if pyarrow is installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return
    images = [{"bytes": data, "path": "x"} for _, data in inputs.images[:3]]
    table = pa.table({"image": pa.array(images), "label": pa.array([0, 1, random.choice((0, -1, 9))])})
    names = random.choice((["a", "b"], None, "a", hostile_value(random)))
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    path = inputs.folder / "rows" / "val.parquet"
    path.parent.mkdir(exist_ok=True)
    table = table.replace_schema_metadata({"huggingface": json.dumps(features, default=repr)})
    pq.write_table(table, path, row_group_size=random.choice((1, 2, 3)), compression=random.choice(("snappy", "none")))
    path.write_bytes(corrupted(random, path.read_bytes()))
    found = open_images(str(path.parent), "val", SMALL, None)
    for i in range(len(found)):
        assert isinstance(found[i], BrokenImage) or found[i][0].shape == (3, 8, 8), found[i]


def lines(random: Random, inputs: Inputs) -> None:
    """Run random command lines of commands that check their input and do no expensive work."""
    command = random.choice(("compress", "compress", "sweep", "inspect", "evaluate", "finetune", *WORDS))
    model = inputs.path("m.safetensors", random.choice(inputs.models))
    typed = {"compress": ["--dry-run"], "sweep": ["--dry-run"], "inspect": [str(model)],
             "evaluate": [str(model), "--data", "nowhere"],
             "finetune": [str(model), "--data", "nowhere"]}.get(command, [])  # fmt: skip
    if command in ("compress", "sweep") and random.random() < 0.7:
        typed = ["-a", "resnet18", "--weights", "none", "-g", "4", "-r", "2", *typed]
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        named = OPTIONS.get(command, ["--help"])
        word = random.choice((*WORDS, *map(str, NUMBERS[:16]), str(model), "fc=1", "fc=nan", "*=1e300"))
        typed += random.choice(([random.choice(named)], [random.choice(named), word], [word]))
    safe = [
        w.encode("utf-8", "replace").decode().replace("\0", "") for w in (command, *typed)
    ]  # arguments of a process contain neither NUL bytes nor surrogates
    done = CliRunner().invoke(app, safe)
    errors = done.stderr
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 1, 2) and "Traceback" not in errors, (safe, done.exit_code, errors)
    assert all(line.isprintable() for line in errors.splitlines()) and len(errors) < 10_000, (safe, errors)
    if done.exit_code:
        sys.exit(done.exit_code)


OPTIONS = {
    name: sorted({
        option for param in command.params for option in (*param.opts, *param.secondary_opts)
        if option.startswith("-") and option not in ("--no-dry-run", "--data", "--help")
    })
    for name, command in __import__("typer").main.get_command(app).commands.items()
}  # fmt: skip


def legacy(random: Random, inputs: Inputs) -> None:
    """Load damaged files in torch's format before version 1.6."""
    buffer = io.BytesIO()
    state = {f"{i}.weight": torch.rand(random.choice((1, 3, 50))) for i in range(random.choice((1, 3)))}
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    read_pickle(inputs.path("m.pth", corrupted(random, data, 50)))


def devkits(random: Random, inputs: Inputs) -> None:
    """Read damaged MATLAB files."""
    rows = [(i + 1, f"n{i:08}", "word") for i in range(3)]
    buffer = io.BytesIO()
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    savemat(buffer, {"synsets": np.array(rows, kinds)[:, None]}, do_compression=random.random() < 0.3)
    read_class_map(inputs.path("meta.mat", corrupted(random, buffer.getvalue(), 120)))


def streams(random: Random, inputs: Inputs) -> None:
    """Decode damaged streams of positions whose checksum is right."""
    length, columns = random.choice((3, 16, 60, 500)), random.choice((1, 12, 240))
    positions = torch.tensor([random.randrange(length) for _ in range(columns)], dtype=torch.int32)
    basis = random.choice((Basis.COSINE, Basis.RAMP))
    stream = encode_positions(positions, length, 12, basis=basis).numpy().tobytes()
    damaged = corrupted(random, stream, 0)
    expected = int.from_bytes(damaged[1:5], "little")
    with mock.patch("tenreo.codec.position_coding.zlib.crc32", return_value=expected):
        decoded = decode_positions(torch.tensor(list(damaged), dtype=torch.uint8), columns, length, 12, basis)
    assert decoded.shape == (columns,)


def builders(random: Random, inputs: Inputs) -> None:
    """Load files that name models of timm and torchvision with random arguments."""
    names = ("timm:vit_tiny_patch16_224", "timm:resnet18", "timm:convnext_atto", "timm:swin_tiny_patch4_window7_224",
             "timm:efficientnet_b0", "timm:levit_128", "timm:tiny_vit_5m_224", "torchvision:resnet18",
             "torchvision:mobilenet_v2", "torchvision:fcn_resnet50", "torchvision:ssd300_vgg16", "torchvision:vit_b_16",
             "timm:nothing", "os:system", "torchvision:", random.choice(WORDS))  # fmt: skip
    keys = ("num_classes", "depth", "depths", "layers", "embed_dim", "dims", "img_size", "window_size", "window_sizes",
            "in_chans", "patch_size", "mlp_ratio", "width_per_group", "groups", "image_size", "channel_multiplier",
            "features_only", "global_pool", "norm_layer", "aux_loss", "progress", "name", *WORDS)  # fmt: skip
    values = (*NUMBERS, *WORDS, 16, 100, 1000, 2048, True, None)
    kwargs = {}
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        value = random.choice(values)
        kwargs[random.choice(keys)] = [value] * random.choice((1, 3, 4, 100)) if random.random() < 0.3 else value
    model = {"builder": random.choice(names), "kwargs": kwargs}
    header = {"__metadata__": {"tenreo.version": "2", "tenreo.model": json.dumps(model), "tenreo.layers": "{}"},
              "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}  # fmt: skip
    text = json.dumps(header).encode()
    tenreo.load(inputs.path("m.safetensors", len(text).to_bytes(8, "little") + text + bytes(4)))


def models(random: Random, inputs: Inputs) -> None:
    """Compress, save and load random models with random recipes."""
    dense = random_model(random)
    recipe = random_recipe(random, dense)
    model, path = copy.deepcopy(dense), inputs.path("m.safetensors")
    report = tenreo.compress_(model, recipe)
    tenreo.save(model, path)
    loaded = tenreo.load(path, copy.deepcopy(dense))
    assert report.after.bytes == path.stat().st_size
    assert not isinstance(recipe.rate, tenreo.TargetSize) or report.after.bytes <= recipe.rate.bytes
    for own, other in zip(curves(model), curves(loaded), strict=True):
        assert torch.equal(own.layer.weight, other.layer.weight) and torch.isfinite(other.layer.weight).all()


TARGETS = {
    f.__name__: f
    for f in (
        headers,
        pickles,
        states,
        configurations,
        pictures,
        parquets,
        lines,
        legacy,
        devkits,
        streams,
        builders,
        models,
    )
}


def outcome(case: Callable[[], None]) -> str:
    """Run a case; return "success", "TenreoError" or "exit code", or a description of the fault."""
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case()
        return "success"
    except TenreoError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        message = str(error)
        if message and message.isprintable() and len(message) <= MOST_CHARACTERS + 50:
            return "TenreoError"
        return f"a message that is empty, too long or not printable: {message[:300]!r}"
    except SystemExit:
        return "exit code"
    except (Exception, TimedOut):
        signal.setitimer(signal.ITIMER_REAL, 0)
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_resources() -> None:
    """Limit the address space of the process, and raise TimedOut when the timer of a case expires."""

    def stop(*_) -> None:
        raise TimedOut

    signal.signal(signal.SIGALRM, stop)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + GIGABYTES * 2**30, resource.RLIM_INFINITY))


def main() -> int:
    """Run the cases and print statistics; return 1 if there was a fault, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--without", choices=TARGETS, nargs="*", default=[], help="targets to leave out")
    parser.add_argument("--only", type=int, help="number of the only case to run")
    a = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {a.seed}", flush=True)
    limit_resources()
    names = [a.target] if a.target else [name for name in TARGETS if name not in a.without]
    outcomes: Counter = Counter()
    faults: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        inputs = Inputs(Path(folder))
        for number in range(a.cases) if a.only is None else [a.only]:
            name = names[number % len(names)]
            random = Random(f"{a.seed} {name} {number}")
            result = outcome(lambda name=name, random=random: TARGETS[name](random, inputs))
            if result in ("success", "TenreoError", "exit code"):
                outcomes[name, result] += 1
                continue
            fault = result.strip().splitlines()[-1][:200]
            faults[name, fault] += 1
            if faults[name, fault] == 1:
                print(result, f"\nrepeat with: --seed {a.seed} --target {name} --only {number}", flush=True)
        os.chdir("/")
    for (name, result), count in sorted(outcomes.items()):
        print(f"{name:>16} {result:<12}{count:>7}")
    for (name, fault), count in faults.most_common():
        print(f"{name:>16} FAULT {count:>4}: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

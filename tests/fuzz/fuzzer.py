"""Throw hostile input at tenreo: every case ends well, in a TenreoError or with an exit code, in seconds.

python tests/fuzz/fuzzer.py [--cases 100000] [--seed 7] [--target headers] [--only 123]

A case is a function of seed, target and number, so what the last line says repeats a failing one alone.
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

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from networks import golden  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import tenreo  # noqa: E402
from tenreo.cli.app import app  # noqa: E402
from tenreo.cli.commands.compress import Output  # noqa: E402
from tenreo.cli.shared_options import DenseModel  # noqa: E402
from tenreo.cli.yaml_files import read_yaml  # noqa: E402
from tenreo.data.images import BrokenImage, open_images  # noqa: E402
from tenreo.errors import MOST_CHARACTERS, TenreoError  # noqa: E402
from tenreo.files.header import read_header  # noqa: E402
from tenreo.files.records import Preprocess  # noqa: E402
from tenreo.models.reference import read_reference  # noqa: E402
from tenreo.planning.rates import RateOptions  # noqa: E402
from tenreo.planning.recipe import Recipe, recipe_of  # noqa: E402
from tenreo.training.observer import Epoch  # noqa: E402
from tenreo.training.settings import Settings  # noqa: E402
from tenreo.training.state import Progress, load_state, save_state  # noqa: E402

SECONDS = 20  # of one case
GIGABYTES = 6  # of address space beyond what the imports take
WORDS = (
    "", "a", "fc", "*", "[", "[/x]", "\x1b[31m", "\n", "\ud800", "\0", "..", ".", "/dev/zero", "/dev/full", "x" * 300,
    "x" * 5000, "none", "nan", "inf", "1e400", "-1", "0", "9" * 30, "0x" + "f" * 40, "resnet18", "mobilenet_v2",
    "digits", "IMAGENET1K_V1", "cuda:99", "2MB", "é画像\u202e", "weight", "true", "null", "{}", "%s%n", "--", "-",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**30),
    0.0, -0.0, 0.5, 1.5, -0.5, 1e-320, 1e-30, 1e30, 1e300, -999.0, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip


class TooLong(BaseException):
    """A case took more than its seconds."""


def value(random: Random, depth: int = 0):
    """A hostile value, as JSON and YAML have them."""
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
        return {random.choice(WORDS): value(random, depth + 1) for _ in range(count)}
    return [value(random, depth + 1) for _ in range(count)]


def nested(depth: int):
    """A list in a list in a list."""
    made: list = []
    for _ in range(depth):
        made = [made]
    return made


def mutated(random: Random, thing, hostile: Callable = value):
    """A copy of a tree of dictionaries and lists of which some values, keys or items are others."""
    thing = copy.deepcopy(thing)
    for _ in range(random.choice((1, 1, 2, 4))):
        place = thing
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
    return thing


def change(random: Random, place, key, hostile: Callable) -> None:
    """Replace, remove, rename or double one entry."""
    how = random.randrange(6)
    if how < 3:
        place[key] = hostile(random)
    elif how == 3:
        del place[key]
    elif isinstance(place, dict):
        place[random.choice(WORDS) if how == 4 else f"{key}.index"] = place.pop(key)
    else:
        place.insert(key, hostile(random))


def bent(random: Random, data: bytes, start: int = 0, end: int | None = None) -> bytes:
    """Bytes of which some are others, missing or doubled, between start and end."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 32))):
        end = min(len(made), len(data) if end is None else end)
        if end <= start:
            break
        at = random.randrange(start, end)
        size = random.choice((1, 1, 4, 8, 64))
        how = random.randrange(6)
        if how == 0:
            made[at] ^= 1 << random.randrange(8)
        elif how == 1:
            made[at : at + size] = random.randbytes(size)
        elif how == 2:
            made[at : at + size] = random.choice((b"\0", b"\xff")) * size
        elif how == 3:
            del made[at : at + size]
        elif how == 4:
            made[at:at] = made[at : at + size]
        else:
            del made[at:]
    return bytes(made)


class Inputs:
    """What the cases start from, made once, and a folder for the files of one case."""

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
        # Once: torch remembers the sparse tensors of a damaged file, and refuses the next good one for them.
        self.values = torch.load(self.path("state"), weights_only=True)

    def path(self, name: str, data: bytes | None = None) -> Path:
        """A file of the case."""
        path = self.folder / name
        if data is not None:
            path.write_bytes(data)
        return path


# An epoch has one of everything, whatever that is.
EPOCH = Epoch(**{f.name: 1 if f.type == "int" else 1.0 for f in fields(Epoch)})
DONE = Progress(3, 1.5, 7, 12, 2.0, 0.5, [EPOCH])


def trained() -> dict:
    """A small model and its optimizer after a step."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


def images() -> list[tuple[str, bytes]]:
    """Small pictures in several formats and modes: ending and bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    made = []
    for mode, ending in (("RGB", "png"), ("RGBA", "png"), ("L", "png"), ("P", "png"), ("I;16", "png"), ("1", "png"),
                         ("RGB", "jpg"), ("CMYK", "jpg"), ("RGB", "bmp"), ("RGB", "ppm"), ("RGB", "tiff"),
                         ("F", "tiff"), ("RGB", "webp"), ("P", "gif")):  # fmt: skip
        first = Image.fromarray(noise).convert("RGB")
        picture = first.convert("L").convert("I;16") if mode == "I;16" else first.convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, {"jpg": "jpeg"}.get(ending, ending))
        made.append((ending, buffer.getvalue()))
    return made


def headers(random: Random, inputs: Inputs) -> None:
    """Files of tenreo: what the header says, or its bytes, are others."""
    data = random.choice(inputs.models)
    length = int.from_bytes(data[:8], "little")
    if random.random() < 0.25:
        data = bent(random, data, 0, 8 + length)
    else:
        header = json.loads(data[8 : 8 + length])
        said = {k: json.loads(v) if k in JSONS else v for k, v in header["__metadata__"].items()}
        which = random.random()
        if which < 0.75:
            said = mutated(random, said)
        if which > 0.65:
            header = mutated(random, header)
        if isinstance(header.get("__metadata__"), dict):
            header["__metadata__"] = {
                k: json.dumps(v) if k in JSONS or not isinstance(v, str) else v for k, v in said.items()
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
    """A tensor that a state dict rarely holds."""
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
    """Torch's own files: names and tensors of no model, or damaged bytes."""
    names = ("foo.index", ".index", "features.0.index", "features.0.0.weight", "conv1.weight", "fc.weight", "fc.bias",
             "layer1.0.conv1.index", "layer1.0.conv1.weight", "classifier.1.weight", "classifier.1.index",
             "module.fc.weight", "_orig_mod.fc.weight", "n_averaged", *WORDS)  # fmt: skip
    state: dict = {}
    for _ in range(random.choice((0, 1, 2, 5))):
        key = random.choice(names) if random.random() < 0.95 else random.choice((1, ("a",), (("b", 1), 2), None))
        state[key] = tensor(random) if random.random() < 0.8 else value(random)
    wrapped = random.choice((state, state, {"state_dict": state}, {"model": state, "epoch": 1}, [state], value(random)))
    buffer = io.BytesIO()
    try:
        torch.save(wrapped, buffer, _use_new_zipfile_serialization=random.random() < 0.8)
    except Exception:  # torch does not write everything
        return
    data = buffer.getvalue()
    path = inputs.path("m.pth", bent(random, data) if random.random() < 0.4 else data)
    how = random.randrange(6)
    if how < 3:
        opened(path)
    elif how < 5:
        read_reference(path)
    else:
        tenreo.load(path, golden())


def opened(path: Path) -> None:
    """As `tenreo compress --weights` takes a file."""
    typed = ["compress", "-a", "resnet18", "-g", "4", "-r", "2", "--dry-run", "--weights", str(path)]
    done = CliRunner().invoke(app, typed)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code:
        sys.exit(done.exit_code)


def states(random: Random, inputs: Inputs) -> None:
    """States of runs: values that are others, or damaged bytes."""
    data = inputs.state
    if random.random() < 0.3:
        data = bent(random, data)
    else:
        values = mutated(random, inputs.values, lambda r: tensor(r) if r.random() < 0.3 else value(r))
        buffer = io.BytesIO()
        try:
            torch.save(values, buffer)
        except Exception:
            return
        data = buffer.getvalue()
    load_state(inputs.path("run.state", data), trained(), inputs.settings)


def configurations(random: Random, inputs: Inputs) -> None:
    """YAML: keys and values, marks of YAML itself, damaged bytes."""
    marks = ("&a ", "*a", "!!int ", "!!bool ", "!!timestamp ", "!!python/name:os.system ", "- ", "? ", ": ", "| ",
             "> ", "[", "]", "{", "}", "#", "---\n", "...\n", "%YAML 9.9\n", "<<: ", "= ", "\t", "2001-99-99", "'",
             "1:30:59", "0b1", "1_000", "[" * 3000, "9" * 5000, "0x" + "f" * 5000, ".nan",
             ".inf", "~", "! ")  # fmt: skip
    how = random.random()
    if how < 0.4:
        try:
            text = yaml.safe_dump(mutated(random, yaml.safe_load(random.choice(inputs.yaml))), allow_unicode=True)
        except RecursionError:  # PyYAML's own
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
    path = inputs.path("c.yaml", bent(random, data) if random.random() < 0.2 else data)
    read_yaml(path, [DenseModel, RateOptions, Recipe, Output])


KEYS = ("groups", "rate", "uniform", "progressive", "refine", "include", "importance", "out", "seed", "arch",
        "target_size", "precision", "coefficients", "position_bits", "dry_run")  # fmt: skip


def pictures(random: Random, inputs: Inputs) -> None:
    """Damaged images."""
    ending, data = random.choice(inputs.images)
    folder = inputs.folder / "images" / "val" / "a"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / f"x.{ending}").write_bytes(bent(random, data))
    found = open_images(str(inputs.folder / "images"), "val", SMALL, None)[0]
    assert isinstance(found, BrokenImage) or found[0].shape == (3, 8, 8), found


SMALL = Preprocess(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def lines(random: Random, inputs: Inputs) -> None:
    """Command lines, of commands that look at their input and do no work."""
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
    ]  # as the system has them
    done = CliRunner().invoke(app, safe)
    told = done.stderr
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 1, 2) and "Traceback" not in told, (safe, done.exit_code, told)
    assert all(line.isprintable() for line in told.splitlines()) and len(told) < 10_000, (safe, told)
    if done.exit_code:
        sys.exit(done.exit_code)


OPTIONS = {
    name: sorted({
        option for param in command.params for option in (*param.opts, *param.secondary_opts)
        if option.startswith("-") and option not in ("--no-dry-run", "--data", "--help")
    })
    for name, command in __import__("typer").main.get_command(app).commands.items()
}  # fmt: skip

TARGETS = {f.__name__: f for f in (headers, pickles, states, configurations, pictures, lines)}


def outcome(case: Callable[[], None]) -> str:
    """What came of a case: a word, or the traceback of what should not happen."""
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
        return f"a message that is empty, long or not printable: {message[:300]!r}"
    except SystemExit:
        return "exit code"
    except (Exception, TooLong):
        signal.setitimer(signal.ITIMER_REAL, 0)
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def bounded() -> None:
    """No case may take the machine's memory or run for ever."""

    def stop(*_) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + GIGABYTES * 2**30, resource.RLIM_INFINITY))


def main() -> int:
    """Run the cases; the exit code is 1 when one ended otherwise than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--only", type=int, help="the number of one case")
    a = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {a.seed}", flush=True)
    bounded()
    names = [a.target] if a.target else list(TARGETS)
    found: Counter = Counter()
    faults: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        inputs = Inputs(Path(folder))
        for number in range(a.cases) if a.only is None else [a.only]:
            name = names[number % len(names)]
            random = Random(f"{a.seed} {name} {number}")
            came = outcome(lambda name=name, random=random: TARGETS[name](random, inputs))
            if came in ("success", "TenreoError", "exit code"):
                found[name, came] += 1
                continue
            where = came.strip().splitlines()[-1][:200]
            faults[name, where] += 1
            if faults[name, where] == 1:
                print(came, f"\nagain: --seed {a.seed} {f'--target {a.target} ' * bool(a.target)}--only {number}",
                      f"({name})", flush=True)  # fmt: skip
        os.chdir("/")
    for (name, came), count in sorted(found.items()):
        print(f"{name:>16} {came:<12}{count:>7}")
    for (name, where), count in faults.most_common():
        print(f"{name:>16} FAULT {count:>4}: {where}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

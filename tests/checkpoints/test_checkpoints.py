"""Files without a model: compression, decoding, verification, and reading without torch."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import DATA, ROOT, Forked, here, refused, seeded, start_tenreo, two_processes
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tenreo
from tenreo.checkpoints.plan import resolve_tensors
from tenreo.checkpoints.sources import state_source
from tenreo.errors import TenreoError
from tenreo.files.checkpoints import Output
from tenreo.files.header import read_header
from tenreo.files.tensor_reader import read_numpy


def block(i, width=64):
    """Tensors of a block of a transformer in bfloat16."""
    torch.manual_seed(i)
    shapes = {"q": (width, width), "up": (3 * width, width), "down": (width, 3 * width)}
    weights = {f"layers.{i}.{name}.weight": torch.randn(shape) * 0.02 for name, shape in shapes.items()}
    return {name: value.bfloat16() for name, value in {**weights, f"layers.{i}.norm.weight": torch.ones(width)}.items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two shards with an index, as programs for language models write it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net"
    (path / "tokenizer").mkdir(parents=True)
    second = block(2) | {"head": torch.randn(99, 64), "ids": torch.arange(9)}
    shards = {"model-00001-of-00002.safetensors": block(0) | block(1), "model-00002-of-00002.safetensors": second}
    for name, tensors in shards.items():
        save_file(tensors, path / name, {"format": "pt", "name": name})
    where = {name: file for file, tensors in shards.items() for name in tensors}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (path / "config.json").write_text('{"model_type": "net"}')
    (path / "tokenizer" / "words.txt").write_text("a b c")
    (path / "pytorch_model.bin").write_bytes(b"the same weights")
    return path


def tensors_of(path):
    return {name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def snr(dense, decoded, prefix="layers"):
    pairs = [(dense[n].double(), decoded[n].double()) for n in dense if n.startswith(prefix) and dense[n].dim() > 1]
    errors = sum((left - right).square().sum() for left, right in pairs)
    return 10 * math.log10(sum(left.square().sum() for left, _ in pairs) / errors)


def same_form(left, right):
    assert left.keys() == right.keys()
    assert all(left[name].dtype == right[name].dtype and left[name].shape == right[name].shape for name in left)


def test_a_folder_is_compressed_and_decompressed_without_its_code(folder):
    dense = tensors_of(folder)
    numbers = sum(tensor.numel() for tensor in dense.values() if tensor.is_floating_point())
    report = json.loads(here("compress", folder, "--bits", 5, "-o", "small", "--license", "mit", "--json").stdout)
    assert list(files_of(Path("small"))) == [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer/words.txt",
    ]  # fmt: skip
    size = sum(path.stat().st_size for path in Path("small").glob("*.safetensors"))
    assert 0.98 * numbers * 5 / 8 <= report["bytes"] == size <= numbers * 5 / 8
    source = json.loads(read_header(Path("small/model-00001-of-00002.safetensors")).metadata["tenreo.source"])
    assert (source["tenreo"], source["name"], source["license"]) == (tenreo.__version__, "net", "mit")
    here("decompress", "small", "-o", "plain")
    decoded = tensors_of(Path("plain"))
    same_form(dense, decoded)
    assert snr(dense, decoded, "") == pytest.approx(report["snr"], abs=0.5) and 22 < snr(dense, decoded) < 33
    assert torch.equal(decoded["ids"], dense["ids"])
    index = json.loads(Path("plain/model.safetensors.index.json").read_text())
    assert index["weight_map"] == json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    with safe_open("plain/model-00002-of-00002.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "name": "model-00002-of-00002.safetensors"}


def test_files_of_every_kind_give_the_same_tensors(folder):
    dense = block(0)
    save_file(dense, "m.safetensors")
    torch.save({"state_dict": dense}, "m.pth")
    for source, out in (("m.safetensors", "1.safetensors"), ("m.pth", "2.safetensors")):
        here("compress", source, "--target-size", "3x", "-o", out)
    tenreo.write("3.safetensors", dense, tenreo.Recipe(None, tenreo.TargetFraction(1 / 3)))
    read = [dict(tenreo.read(f"{i}.safetensors")) for i in (1, 2, 3)]
    same_form(dense, read[0])
    assert [round(snr(dense, each), 1) for each in read] == pytest.approx([snr(dense, read[0])] * 3, abs=0.3)
    size = sum(tensor.nbytes for tensor in dense.values())
    assert 0.95 * size / 3 <= os.path.getsize("1.safetensors") <= size / 3
    assert all(torch.equal(tensor, dense[name]) for name, tensor in tenreo.read("m.pth").items())


@pytest.mark.parametrize("options", [("-g", 4, "-r", 2), ("-g", 4, "-r", 2, "--precision", "int8", "--pack", "plain")])
def test_a_rate_keeps_the_dtype_whatever_the_coefficients(folder, options):
    dense = {name: tensor.half() for name, tensor in block(0).items()}
    save_file(dense, "m.safetensors")
    here("compress", "m.safetensors", *options, "--refine", 1, "-o", "s.safetensors", "--exclude", "*.q")
    decoded = tenreo.read("s.safetensors")
    same_form(dense, decoded)
    assert torch.equal(decoded["layers.0.q.weight"], dense["layers.0.q.weight"])
    assert snr(dense, decoded) > 8
    here("decompress", "s.safetensors", "-o", "p.safetensors", "--dtype", "float32")
    assert all(tensor.dtype == torch.float32 for tensor in load_file("p.safetensors").values())


def test_one_tensor_is_read_without_the_others(folder):
    here("compress", folder, "--bits", 5, "-o", "small")
    path = Path("small/model-00002-of-00002.safetensors")
    wanted = tenreo.read("small")["layers.2.q.weight"]
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    begin, end = entries["layers.2.up.weight.positions"]["data_offsets"]
    data[start + begin : start + end] = bytes(end - begin)
    path.write_bytes(data)
    Path("small/model-00001-of-00002.safetensors").chmod(0o600)
    tensors = tenreo.read("small")
    assert torch.equal(tensors["layers.2.q.weight"], wanted)
    with pytest.raises(TenreoError, match=r"the checksum of layers\.2\.up\.weight\.positions is wrong"):
        _ = tensors["layers.2.up.weight"]
    faults = here("verify", "small", code=1).stdout.splitlines()
    assert len(faults) == 2 and "the checksum of layers.2.up.weight.positions is wrong" in faults[0]


def test_verify_compares_with_the_original(folder):
    here("compress", folder, "--bits", 5, "-o", "small")
    assert here("verify", "small").stdout == "small: no faults\n"
    result = json.loads(here("verify", "small", "--against", folder, "--json").stdout)
    dense, decoded = tensors_of(folder), tenreo.read("small")
    by_name = {each["name"]: each["snr"] for each in result["tensors"]}
    assert by_name.keys() == dense.keys() and by_name["ids"] is None and result["faults"] == []
    weight, error = dense["layers.1.up.weight"].double(), (dense["layers.1.up.weight"] - decoded["layers.1.up.weight"])
    wanted = 10 * math.log10(weight.square().sum() / error.double().square().sum())
    assert by_name["layers.1.up.weight"] == pytest.approx(wanted, abs=0.01)
    index = folder.parent / "small" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("layers.0.q.weight", "layers.9.q.weight"))
    assert "does not name the file of layers.0.q.weight" in here("verify", "small", code=1).stdout


@pytest.mark.slow
def test_files_are_divided_by_their_size(folder):
    here("compress", folder, "--bits", 5, "-o", "small", "--shard-size", "20kB")
    sizes = [path.stat().st_size for path in Path("small").glob("model-*.safetensors")]
    assert len(sizes) > 2 and max(sizes) < 26_000
    same_form(tensors_of(folder), tenreo.read("small"))
    here("compress", folder, "--bits", 5, "-o", "one.safetensors")
    same_form(tensors_of(folder), tenreo.read("one.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compress", "net", "--bits", 5, "-o", "net", "--force"), "net: is the folder that is read; choose another"),
        (("compress", "net", "--bits", 5, "-o", "full"), "full: contains files already; use --force to replace them"),
        (("compress", "net", "--bits", 5, "-a", "resnet18"), "arch: given together with net; leave one of them out"),
        (("compress", "net", "--target-kl", 0.1), "target_kl: needs the model's code with these options"),
        (("compress", "net", "--bits", 5, "--include", "nothing"), "include: pattern 'nothing' matches no weight"),
        (("compress", "net", "--bits", 5, "--shard-size", "much"), "shard_size: given 'much', needs an amount such as"),
        (("compress", "empty", "--bits", 5), "empty: has no file of weights; give a folder with model.safetensors"),
        (("compress", "nowhere", "--bits", 5), "nowhere: cannot be opened: no such file"),
        (("compress", "-a", "resnet18", "--bits", 5, "--resume"), "resume: needs a file or folder to compress"),
        (("decompress", "net", "-o", "net"), "net: is the folder that is read; choose another --out"),
        (("verify", "nowhere"), "nowhere: cannot be opened: no such file"),
    ],
)
def test_wrong_usage_is_refused(folder, words, message):
    (folder.parent / "empty").mkdir()
    (folder.parent / "full").mkdir()
    (folder.parent / "full" / "x").write_text("x")
    assert message in refused(*words)


def damage_index(text):
    def damage(folder):
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_index("{"), "cannot be read as an index: "),
        (damage_index('{"weight_map": {"a": "../a.safetensors"}}'), "the file '../a.safetensors' is not in its folder"),
        (damage_index('{"weight_map": {"a": "a.safetensors"}}'), "names a.safetensors, which does not exist in"),
        (damage_index('{"weight_map": {"a": 1}}'), "it has no weight_map of names and files"),
    ],
)
def test_damaged_indices_are_refused(folder, damage, message):
    damage(folder)
    assert message in refused("compress", folder, "--bits", 5, "-o", "small")


def test_values_that_are_not_finite_and_sizes_out_of_reach_are_refused(folder):
    tensors = block(0)
    tensors["layers.0.q.weight"][3, 4] = torch.nan
    save_file(tensors, "m.safetensors")
    error = refused("compress", "m.safetensors", "--bits", 5, "-o", "s.safetensors", code=1)
    assert "layers.0.q: the weight contains NaN or infinity and cannot be compressed" in error
    assert "target_size: given" in refused("compress", folder, "--bits", 0.1, "-o", "s", code=1)
    here("compress", folder, "--bits", 5, "-o", "small")
    assert "is already compressed; give the file of the dense weights" in refused(
        "compress", "small", "--bits", 5, code=1
    )


def test_a_reader_without_torch_gives_the_same_values(folder):
    here("compress", folder, "--bits", 5, "-o", "small")
    code = """
import numpy, sys
from tenreo.files.tensor_reader import read_numpy
numpy.savez("values.npz", **read_numpy("small"))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    with np.load("values.npz") as file:
        values = dict(file)
    assert set(values) == set(tenreo.read("small"))
    for name, tensor in tenreo.read("small").items():
        np.testing.assert_array_equal(values[name], tensor.float() if tensor.is_floating_point() else tensor)


@pytest.mark.parametrize("name", ["version4", "coded", "int6", "version3"])
def test_golden_files_are_read_without_torch(name):
    from networks import golden

    path = DATA / f"{name}.safetensors"
    wanted = tenreo.expand_(tenreo.load(path, golden())).state_dict()
    values = read_numpy(path)
    assert values.keys() == wanted.keys()
    for key in values:
        np.testing.assert_allclose(values[key], wanted[key], atol=1e-6, err_msg=key)


def files_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


JOB = ("compress", "net", "--bits", 5)


def test_two_processes_write_the_same_bytes(folder):
    here(*JOB, "-o", "one")
    for process in two_processes(start_tenreo, *JOB, "-o", "several", "--jobs", 1):
        process.communicate()
        assert process.returncode == 0
    assert files_of(folder.parent / "several") == files_of(folder.parent / "one")


@pytest.mark.slow
def test_processes_of_torchrun_write_the_same_bytes(folder):
    here(*JOB, "-o", "one")
    words = ("--standalone", "--nproc-per-node", 4, "-m", "tenreo", *JOB, "-o", "several", "--jobs", 1)
    process = Forked("torch.distributed.run", *words, env={"OMP_NUM_THREADS": "1"})
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert files_of(folder.parent / "several") == files_of(folder.parent / "one")


# Runs the command line, and ends it by SIGKILL at the moment when a file gets its name.
KILLED = """
import os, signal, sys
left = int(sys.argv.pop(2))
place = sys.argv.pop(1)
def watch(event, values):
    global left
    if event == "os.rename" and place in str(values[1]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
from tenreo.cli.app import main
main()
"""


@pytest.mark.parametrize(
    ("place", "count", "parts"), [(".tenreo-parts", 4, 4), pytest.param("model-0", 1, 10, marks=pytest.mark.slow)]
)
def test_a_run_killed_between_two_files_is_continued_with_the_same_result(folder, place, count, parts):
    """Between two encoded tensors, and between two of the files that are put together from them."""
    here(*JOB, "-o", "whole")
    Path("killed.py").write_text(KILLED)
    process = Forked("killed.py", place, count, *JOB, "-o", "small", "--jobs", 1)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list(Path("small/.tenreo-parts").glob("[!.]*"))) == parts
    assert len(list(Path("small").glob("model-*"))) == count * (place == "model-0")
    here(*JOB, "-o", "small", "--resume", "--force")
    assert files_of(Path("small")) == files_of(Path("whole"))


@pytest.mark.slow
def test_a_killed_run_is_continued_with_the_same_result(folder):
    here("compress", folder, "--bits", 5, "-o", "whole")
    random = seeded()
    for _ in range(2):
        process = start_tenreo("compress", "net", "--bits", 5, "-o", "small", "--force", "--resume")
        time.sleep(random.uniform(0.2, 3))
        process.kill()  # a process that has finished already is accepted
        process.communicate()
    here("compress", folder, "--bits", 5, "-o", "small", "--resume", "--force")
    assert files_of(folder.parent / "small") == files_of(folder.parent / "whole")


def uneven(rows, width, share):
    """Weights in bfloat16, of which a share of the rows is zero, all of them in the second half."""
    weight = torch.randn(rows, width)
    weight[rows - int(share * rows) :] = 0
    return weight.bfloat16()


# The estimates from the first layer are too large, and too small.
@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_layers_are_encoded_about_once_and_large_ones_are_not_encoded_again(tmp_path, monkeypatch, share):
    from tenreo.checkpoints import compress, prices

    monkeypatch.setattr(prices, "_ELEMENTS", 2048)
    monkeypatch.setattr(compress, "_SMALL", 0)  # as with more elements than a test can encode
    torch.manual_seed(0)
    tensors = {"embed.weight": uneven(512, 128, 0.2)}
    tensors |= {f"layers.{i:02}.weight": uneven(64, 128, share if i else 0.4 - share) for i in range(24)}
    source, encoded = state_source(tensors), []
    recipe, output = tenreo.Recipe(None, tenreo.TargetSize(100_000)), Output(tmp_path / "s.safetensors", jobs=1)
    compress.compress_tensors(source, resolve_tensors(recipe, source), output, progress=encoded.append)
    assert 0.99 * 100_000 <= output.path.stat().st_size <= 100_000
    assert len(encoded) > len(tensors)  # the size was missed at first
    assert [layer.name for layer in encoded].count("embed") == 1
    assert sum(layer.numel for layer in encoded) < 1.4 * sum(tensor.numel() for tensor in tensors.values())


def test_whole_parts_are_kept_and_damaged_ones_are_not(folder, monkeypatch):
    from tenreo.checkpoints import compress, parts

    here("compress", folder, "-g", 4, "-r", 2, "--refine", 0, "-o", "whole")
    encoded = []
    original = parts.encode_with_rate
    monkeypatch.setattr(
        parts, "encode_with_rate", lambda w, layer, *a: encoded.append(layer.name) or original(w, layer, *a)
    )
    monkeypatch.setattr(compress.shutil, "rmtree", lambda *_, **__: None)  # keeps the parts, as a killed run does
    job = ("compress", folder, "-g", 4, "-r", 2, "--refine", 0, "-o", "small", "--resume")
    here(*job)
    assert len(encoded) == 10
    shutil.copytree(folder.parent / "small" / ".tenreo-parts", folder.parent / "killed" / ".tenreo-parts")
    assert "killed: contains an unfinished run; continue it with --resume" in refused(*job[:-2], "killed")
    kept = sorted((folder.parent / "small" / ".tenreo-parts").iterdir())
    data = bytearray(kept[0].read_bytes())
    data[-1] ^= 1
    kept[0].write_bytes(data)
    encoded.clear()
    here(*job)
    assert len(encoded) == 1
    here(*job[:2], "-g", 4, "-r", 3, *job[6:])
    assert len(encoded) == 11
    monkeypatch.undo()
    os.chdir(folder.parent)
    here(*job)
    assert files_of(folder.parent / "small") == files_of(folder.parent / "whole")


def test_inspect_shows_the_headers_of_all_files_in_one_row(folder):
    headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in folder.glob("*.safetensors"))
    (row,) = [line for line in here("inspect", folder).stdout.splitlines() if line.split()[:1] == ["header"]]
    assert row.split()[1] == f"{headers:,}"


def test_messages_name_no_temporary_files(folder):
    here("compress", folder, "--bits", 5, "-o", "small")
    assert not [p for p in (folder.parent / "small").iterdir() if re.match(r"\.", p.name)]

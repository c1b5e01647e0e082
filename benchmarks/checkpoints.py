"""Time and memory of compressing files without a model, with weights like those of a transformer in bfloat16.

    python benchmarks/checkpoints.py --gigabytes 0.25 --jobs 1 [--bits 4] [--processes 2]

It makes a folder of shards, runs the commands `compress`, `verify` and `decompress` in new processes, and prints their
seconds, their seconds per million weights, their peak memory, and the SNR next to Shannon's bound for the distribution
and to integers of 4 bits in groups of 64 with scales in float16 (4.25 bits).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

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


def decibels(tensor: torch.Tensor, other: torch.Tensor) -> float:
    """Signal-to-noise ratio in dB."""
    error = (tensor.double() - other.double()).square().sum()
    return 10 * math.log10(tensor.double().square().sum() / error)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=0.25)
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--embedding", type=int, default=0, help="rows of an embedding, the largest tensor")
    parser.add_argument("--folder", type=Path, help="where temporary files are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "dense").mkdir()
        total = make(folder / "dense", options.gigabytes, options.embedding)
        small, plain = folder / "small", folder / "plain"
        job = ("compress", folder / "dense", "--bits", options.bits, "-o", small, "--jobs", options.jobs)
        for words in (job, ("verify", small), ("decompress", small, "-o", plain)):
            seconds, busy, memory = run(options.processes if words[0] != "verify" else 1, *words)
            each = total / 1e6
            print(f"{words[0]}: {seconds:.1f} s, {seconds / each:.3f} s per million weights; processors {busy:.1f} s, "
                  f"{busy / each:.3f} s per million; {memory:.2f} GB", flush=True)  # fmt: skip
        size = sum(path.stat().st_size for path in small.glob("*.safetensors"))
        largest = 2 * WIDTH * max(HIDDEN, options.embedding) / 1e9
        print(f"{total / 1e6:.0f} million weights, {8 * size / total:.3f} bits, largest tensor {largest:.3f} GB")
        dense, decoded = load_file(folder / "dense/0.safetensors"), load_file(plain / "0.safetensors")
        key = "layers.0.up.weight"
        print(f"SNR of {key}: {decibels(dense[key], decoded[key]):.2f} dB; "
              f"int4 in groups of 64: {decibels(dense[key], groupwise(dense[key])):.2f} dB at 4.25 bits")  # fmt: skip


if __name__ == "__main__":
    main()

"""The entropy-coded codec: decibels from Shannon's bound, and a real network beside the ISO codec at equal bytes.

.venv/bin/python benchmarks/size_codec.py laplace
.venv/bin/python benchmarks/size_codec.py network CACHE [--points 20,22,24,28] [--weigh norm] [--memory 7] [--all]

The ISO codec is nncodec (ISO/IEC 15938-17): pip install nncodec. It is slow, so CACHE keeps what it gave. All bytes
count but those of what is left dense, which are the same on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import laplace, row, snr, table
from real import crops, divergence, logits, network
from torch import Tensor, nn

import tenreo
from tenreo.codec.codec import EncodedWeight
from tenreo.codec.constrained import constrained, quantiles
from tenreo.codec.decibels import decibels
from tenreo.codec.entropy import decode_positions, encode_positions

Weights = dict[str, Tensor]
# By what a layer's price is divided: equal slopes of absolute error, of error relative to |W|^2, and in between.
WEIGHING: dict[str, Callable[[Tensor], float]] = {
    "absolute": lambda w: 1.0,
    "norm": lambda w: 1 / w.norm().item(),
    "relative": lambda w: 1 / w.square().sum().item(),
}


def coded(weight: Tensor, price: float, memory: int, groups: int = 1, length: int = 512) -> tuple[int, EncodedWeight]:
    """Bytes and what they decode to."""
    if groups == 1:
        start = quantiles(weight, price, memory)
    else:
        length = min(length, weight.numel() // groups)
        start = tenreo.encode(weight, groups, length // 2, 6, length=length)
    encoded = constrained(weight, start, price, memory=memory, turns=1 if groups == 1 else 12)
    columns, per_row = weight.numel() // groups, weight.numel() // len(weight)
    stream = encode_positions(encoded.positions, encoded.length, per_row, memory)
    decoded = decode_positions(stream, columns, encoded.length, per_row)
    assert torch.equal(decoded, encoded.positions)
    return len(stream) + 4 * encoded.coefficients.numel(), encoded


def search(rate: Callable[[float], float], target: float, price: float, tolerance: float = 0.001) -> float:
    """The price at which a rate, in bits, is that of the target or up to `tolerance` (relative) below."""
    for _ in range(12):
        bits = rate(price)
        if (1 - tolerance) * target <= bits <= target:
            return price
        price *= 4 ** (bits - target * (1 - tolerance / 2))  # 6.02 dB a bit
    raise RuntimeError(f"no price for {target} bits")


def measure_laplace(elements: int = 2**19) -> None:
    weight = laplace(512, elements // 512)
    table("what", "bits per weight", "SNR in dB", "dB from Shannon's bound", "samples", "seconds", text=1)
    kinds = [(1, m, 0) for m in (0, 2, 3, 5, 7, 8)] + [(2, 0, 512), (4, 0, 2048), (8, 0, 4096)]
    for groups, memory, length in kinds:
        for bits in (2, 3, 4) if groups == 1 else (2, 3) if groups == 2 else (2,):
            found: dict[str, tuple[int, EncodedWeight]] = {}

            def rate(price: float, setting=(memory, groups, length), found=found) -> float:
                found["last"] = coded(weight, price, *setting)
                return 8 * found["last"][0] / elements

            search(rate, bits, 3 * 4.0**-bits, 0.01 if groups > 1 else 0.002)
            start = time.process_time()
            size, encoded = found["last"]
            price = 3 * 4.0**-bits
            coded(weight, price, memory, groups, length)
            seconds = time.process_time() - start
            exact, quality = 8 * size / elements, snr(weight, tenreo.decode(encoded))
            what = f"g = {groups}" + (f", {2**memory} states" if memory else "")
            gap = 6.0206 * exact + 0.63 - quality
            row(what, f"{exact:.3f}", f"{quality:.2f}", f"{gap:.2f}", encoded.length, f"{seconds:.1f}")


def weights_of(model: nn.Module, everything: bool) -> Weights:
    """Weights of Conv2d and Linear: all, or those of tenreo's rule for models that it does not know."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        if everything or (module.weight.numel() >= 4096 and not depthwise and name != "_conv_stem"):
            found[name] = module.weight.detach()
    return found


def iso(weights: Weights, parameter: int) -> dict[str, object]:
    """Bytes, decoded weights and seconds of the ISO codec, as it comes, at a quantization parameter."""
    from nncodec.nn import decode, encode

    arrays = {f"{name}.weight": weight.numpy() for name, weight in weights.items()}
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        stream = encode(arrays, {"qp": -parameter, "verbose": False, "results": "/tmp"})
    middle = time.process_time()
    back = {name: torch.from_numpy(decode_one).clone() for name, decode_one in decode(stream).items()}
    seconds = (middle - start, time.process_time() - middle)
    decoded = {name: back[f"{name}.weight"].reshape(weight.shape) for name, weight in weights.items()}
    return {"bytes": len(stream), "weights": decoded, "seconds": seconds}


def ours(weights: Weights, size: int, memory: int, weigh: str) -> dict[str, object]:
    """The same of tenreo at so many bytes, or up to 0.1 % less."""
    numel = sum(w.numel() for w in weights.values())
    scale = {name: WEIGHING[weigh](weight) for name, weight in weights.items()}
    mean = sum(math.log(scale[n]) * w.numel() for n, w in weights.items()) / numel
    found: dict[str, tuple[int, EncodedWeight]] = {}

    def rate(price: float) -> float:
        for name, weight in weights.items():
            found[name] = coded(weight, price / scale[name] * math.exp(mean), memory)
        return 8 * sum(size for size, _ in found.values()) / numel

    target = 8 * size / numel
    start = 1.5e-4 * 4 ** (2.8 - target)
    price = search(rate, target, start)
    before = time.process_time()
    rate(price)
    seconds = time.process_time() - before
    decoded = {name: tenreo.decode(encoded) for name, (_, encoded) in found.items()}
    return {
        "bytes": sum(size for size, _ in found.values()), "weights": decoded, "seconds": (seconds, math.nan),
        "price": price,
    }  # fmt: skip


def replaced(model: nn.Module, weights: Weights) -> nn.Module:
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in weights.items():
            copied.get_submodule(name).weight.copy_(weight)
    return copied


def evaluated(result: dict[str, object], dense: nn.Module, images: Tensor, wanted: Tensor) -> None:
    """Add KL and agreement, as it comes and with corrected statistics."""
    model = replaced(dense, result["weights"])
    result["raw"] = divergence(wanted, logits(model, images))
    tenreo.match_statistics_(model, dense, size=224)
    result["corrected"] = divergence(wanted, logits(model, images))


def cached(file: Path, make: Callable[[], dict[str, object]]) -> dict[str, object]:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(make()))
    return pickle.loads(file.read_bytes())


def measure_network(arguments: argparse.Namespace) -> None:
    dense = network(arguments.network)
    weights = weights_of(dense, arguments.all)
    side = {"lite0": 224, "lite1": 240, "lite2": 260}[arguments.network]
    images = crops(8, side)
    wanted = logits(dense, images)
    numel = sum(w.numel() for w in weights.values())
    norm = sum(w.double().square().sum().item() for w in weights.values())
    print(f"{len(weights)} layers, {numel:,} weights, {len(images)} crops")
    table(
        "codec", "bits per weight", "SNR in dB", "KL", "agreement", "KL, corrected", "agreement, corrected",
        "encoding s", "decoding s",
    )  # fmt: skip
    kind = f"{arguments.network}-{'all' if arguments.all else 'rule'}"
    ratios: dict[str, list[float]] = {}
    for parameter in map(int, arguments.points.split(",")):

        def by_iso(parameter: int = parameter) -> dict[str, object]:
            result = iso(weights, parameter)
            evaluated(result, dense, images, wanted)
            return result

        theirs = cached(arguments.cache / f"{kind}-iso{parameter}.pkl", by_iso)
        results = {"ISO": theirs}
        for weigh in arguments.weigh.split(","):
            for memory in map(int, arguments.memory.split(",")):

                def by_us(memory: int = memory, weigh: str = weigh, size: int = theirs["bytes"]) -> dict[str, object]:
                    result = ours(weights, size, memory, weigh)
                    evaluated(result, dense, images, wanted)
                    return result

                name = f"{weigh}, {2**memory} states"
                results[name] = cached(arguments.cache / f"{kind}-{parameter}-{weigh}-{memory}.pkl", by_us)
        for name, result in results.items():
            error = sum((weights[n] - w).double().square().sum().item() for n, w in result["weights"].items())
            row(
                name, f"{8 * result['bytes'] / numel:.3f}", f"{decibels(norm, error):.2f}",
                *(f"{v:.4f}" if i % 2 == 0 else f"{v:.1f}" for i, v in enumerate(result["raw"] + result["corrected"])),
                *(f"{s:.1f}" for s in result["seconds"]),
            )  # fmt: skip
            by = (theirs["raw"][0], theirs["corrected"][0])
            ratios.setdefault(name, []).append(tuple(math.log(result["corrected"][0] / b) for b in by))
    for name, logs in ratios.items():
        means = [math.exp(sum(column) / len(logs)) for column in zip(*logs, strict=True)]
        print(f"{name}: KL corrected / ISO's as it comes {means[0]:.3f}, / ISO's corrected {means[1]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["laplace", "network"])
    parser.add_argument("cache", nargs="?", type=Path)
    parser.add_argument("--network", default="lite0")
    parser.add_argument("--points", default="20,22,24,28")
    parser.add_argument("--weigh", default="absolute")
    parser.add_argument("--memory", default="7")
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    if arguments.what == "laplace":
        measure_laplace()
    else:
        measure_network(arguments)


if __name__ == "__main__":
    main()

"""Compare bytes and error of tenreo, the ISO codec, groupwise integers and k-means in one run; every bit is counted.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/size.py laplace [--elements 524288] [--plot docs/size.png]
OMP_NUM_THREADS=1 .venv/bin/python benchmarks/size.py network [--network lite0] [--points 18,20,22,24,28]
    [--plot docs/codecs.png] [--plot-files docs/agreement.png]

`laplace` encodes one layer of Laplace-distributed weights. `network` encodes the large layers of EfficientNet-Lite and
measures the outputs on photographs, both with the decoded weights alone and after tenreo's correction of BatchNorm
statistics. tenreo is given the number of bytes that the ISO codec needs at each quantization parameter. The ISO codec
is nncodec (ISO/IEC 15938-17): pip install nncodec. Seconds are processor time of one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from common import laplace, row, table
from real import SIZES, crops, divergence, logits, network
from torch import Tensor, nn

import tenreo
from tenreo.codec.distortion import decibels
from tenreo.codec.encode import EncodedWeight
from tenreo.codec.position_coding import decode_positions, encode_positions
from tenreo.codec.rate_distortion import quantize_uniformly, trellis_quantize
from tenreo.compression.price_search import search_price

Weights = dict[str, Tensor]
Points = dict[str, list[tuple[float, float]]]  # of a line in a picture, by its label
CLIPS = tuple(0.6 + 0.025 * i for i in range(17))
POINTS = {"laplace": "1,3,5,10", "network": "18,20,22,24,28"}  # about 2 to 4 bits per weight
CODEBOOKS = {"laplace": (64, 256, 1024, 4096), "network": (64, 256, 1024)}
SHANNON = 0.63  # dB: the bound of Laplace-distributed weights is 6.02 R + 0.63


@dataclass
class Coded:
    """The result of a codec: its name and setting, bytes, decoded weights, and seconds of encoding and decoding."""

    kind: str
    setting: str
    size: int
    weights: Weights
    encoding: float = math.nan
    decoding: float = math.nan


def iso(weights: Weights, parameter: int) -> Coded:
    """Encode with the ISO codec at a quantization parameter; it receives the weights under their layers' names."""
    from nncodec.nn import decode, encode

    arrays = {f"{name}.weight": weight.numpy() for name, weight in weights.items()}
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        stream = encode(arrays, {"qp": -parameter, "verbose": False, "results": folder})
        middle = time.process_time()
        back = decode(stream)
        end = time.process_time()
    decoded = {n: torch.from_numpy(back[f"{n}.weight"]).reshape(w.shape).clone() for n, w in weights.items()}
    return Coded("ISO codec", f", qp -{parameter}", len(stream), decoded, middle - start, end - middle)


def at_price(weight: Tensor, price: float) -> tuple[EncodedWeight, Tensor]:
    """Encode a weight at a price of a bit; return the encoding and the stream of its positions."""
    encoded = trellis_quantize(weight, quantize_uniformly(weight, price), price)
    return encoded, encode_positions(encoded.positions, encoded.length, _row(weight), encoded.memory)


def _row(weight: Tensor) -> int:
    return weight.numel() // len(weight)


def ours(weights: Weights, size: int) -> Coded:
    """tenreo at so many bytes, or up to 0.2 % less: one price of a bit for all layers, as `--target-size` finds it."""
    found: dict[str, tuple[EncodedWeight, Tensor]] = {}
    took = 0.0

    def encode(price: float) -> int:
        nonlocal took
        start = time.process_time()
        found.update({name: at_price(weight, price) for name, weight in weights.items()})
        took = time.process_time() - start
        return sum(len(stream) + 4 * encoded.coefficients.numel() for encoded, stream in found.values())

    numel = sum(w.numel() for w in weights.values())
    power = sum(w.double().square().sum().item() for w in weights.values()) / numel
    search_price(encode, size, numel, power * 4 ** (-8 * size / numel), within=0.002)
    bytes_ = sum(len(stream) + 4 * encoded.coefficients.numel() for encoded, stream in found.values())
    start = time.process_time()
    decoded = {name: _decoded(weights[name], *each) for name, each in found.items()}
    return Coded("tenreo", "", bytes_, decoded, took, time.process_time() - start)


def _decoded(weight: Tensor, encoded: EncodedWeight, stream: Tensor) -> Tensor:
    """What comes back from the bytes."""
    positions = decode_positions(stream, len(encoded.positions), encoded.length, _row(weight))
    assert torch.equal(positions, encoded.positions)
    return tenreo.decode(encoded)


def groupwise(weights: Weights, bits: int, size: int = 64) -> Coded:
    """Quantize to symmetric integers in groups with a 16-bit scale; the best of 17 clipping thresholds per group."""
    top = 2 ** (bits - 1) - 1

    def coded(weight: Tensor) -> Tensor:
        padded = nn.functional.pad(weight.reshape(-1), (0, -weight.numel() % size)).reshape(-1, size)
        best, least = padded, torch.full((len(padded),), math.inf)
        for clip in CLIPS:
            scale = (padded.abs().amax(1, keepdim=True) * clip / top).half().float().clamp_min(1e-8)
            trial = (padded / scale).round().clamp(-top - 1, top) * scale
            error = (padded - trial).square().sum(1)
            best = torch.where((error < least)[:, None], trial, best)
            least = torch.minimum(error, least)
        return best.reshape(-1)[: weight.numel()].reshape(weight.shape)

    taken = sum((w.numel() * bits + -(-w.numel() // size) * 16 + 7) // 8 for w in weights.values())
    return Coded(
        "integers", f" of {bits} bits in groups of {size}, clipped", taken, {n: coded(w) for n, w in weights.items()}
    )


def kmeans(weights: Weights, codewords: int, elements: int = 4) -> Coded:
    """Cluster pieces of `elements` weights with scikit-learn's k-means; every layer has a 16-bit codebook."""
    from sklearn.cluster import KMeans

    taken, decoded = 0, {}
    for name, weight in weights.items():
        points = weight.reshape(elements, -1).T.numpy()
        count = min(codewords, len(points) // 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = KMeans(count, n_init=1, max_iter=30, random_state=0, algorithm="elkan").fit(points)
        book = torch.from_numpy(found.cluster_centers_).half().float()
        decoded[name] = book[torch.from_numpy(found.labels_).long()].T.reshape(weight.shape)
        taken += math.ceil((len(points) * math.ceil(math.log2(count)) + 16 * elements * count) / 8)
    return Coded(f"k-means of {elements} weights", f", {codewords} codewords", taken, decoded)


def every_codec(weights: Weights, parameters: list[int], codebooks: tuple[int, ...]) -> Iterator[Coded]:
    """Yield the results of all codecs at all their settings."""
    for parameter in parameters:
        theirs = iso(weights, parameter)
        yield theirs
        yield ours(weights, theirs.size)
    for bits in (2, 3, 4):
        yield groupwise(weights, bits)
    for codewords in codebooks:
        yield kmeans(weights, codewords)


def quality(weights: Weights, coded: Coded) -> tuple[float, float]:
    """Return bits per weight and the SNR of all layers together in dB."""
    numel = sum(w.numel() for w in weights.values())
    norm = sum(w.double().square().sum().item() for w in weights.values())
    error = sum((weights[n] - w).double().square().sum().item() for n, w in coded.weights.items())
    return 8 * coded.size / numel, decibels(norm, error)


def measure_laplace(elements: int, parameters: list[int]) -> Points:
    """Print the table of one layer; return the points (bits per weight, dB) of every codec."""
    weights = {"layer": laplace(512, elements // 512)}
    points: Points = {}
    table("codec", "bits per weight", "SNR in dB", "dB below Shannon's bound", "encoding s", "decoding s")

    def measured(coded: Coded) -> None:
        bits, snr = quality(weights, coded)
        points.setdefault(coded.kind, []).append((bits, snr))
        gap = 6.0206 * bits + SHANNON - snr
        row(
            coded.kind + coded.setting,
            f"{bits:.3f}",
            f"{snr:.2f}",
            f"{gap:.2f}",
            f"{coded.encoding:.2f}",
            f"{coded.decoding:.2f}",
        )

    for bits in (2, 3, 4):
        measured(ours(weights, bits * elements // 8))
    for coded in every_codec(weights, parameters, CODEBOOKS["laplace"]):
        measured(coded)
    return points


def weights_of(model: nn.Module) -> Weights:
    """Return the weights that tenreo compresses by its general rule."""
    plan = tenreo.resolve(tenreo.Recipe(1, tenreo.Uniform(2.0)), model)
    return {layer.name: model.get_submodule(layer.name).weight.detach() for layer in plan.compressed}


@dataclass
class Network:
    """A dense network, photographs, and its outputs on them."""

    dense: nn.Module
    images: Tensor
    wanted: Tensor
    pixels: int

    def outputs(self, weights: Weights) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return KL and agreement with the given weights, without and with correction of the statistics."""
        model = copy.deepcopy(self.dense)
        with torch.no_grad():
            for name, weight in weights.items():
                model.get_submodule(name).weight.copy_(weight)
        raw = divergence(self.wanted, logits(model, self.images))
        tenreo.match_statistics_(model, self.dense, size=self.pixels)
        return raw, divergence(self.wanted, logits(model, self.images))


def measure_network(name: str, parameters: list[int], each: int) -> tuple[Points, Points]:
    """Print the table of a network.

    Returns:
        The points (bits per weight, KL) of every codec without and with correction, and the points (MB, agreement in %)
        of whole files: tenreo with correction, as `tenreo compress` writes it, and the other codecs without.
    """
    dense, pixels = network(name), SIZES[name]
    images = crops(each, pixels)
    measured = Network(dense, images, logits(dense, images), pixels)
    weights = weights_of(dense)
    print(f"{len(weights)} layers, {sum(w.numel() for w in weights.values()):,} weights, {len(images)} crops")
    table(
        "codec", "bits per weight", "SNR in dB", "KL", "agreement %", "KL, corrected", "agreement %, corrected",
        "encoding s", "decoding s",
    )  # fmt: skip
    points: Points = {}
    files: Points = {}
    other_weights = sum(p.numel() for p in dense.state_dict().values()) - sum(w.numel() for w in weights.values())
    for coded in every_codec(weights, parameters, CODEBOOKS["network"]):
        bits, snr = quality(weights, coded)
        raw, corrected = measured.outputs(coded.weights)
        figures = [f"{v:.{d}f}" for pair in (raw, corrected) for v, d in zip(pair, (4, 1), strict=True)]
        row(
            coded.kind + coded.setting,
            f"{bits:.3f}",
            f"{snr:.2f}",
            *figures,
            f"{coded.encoding:.1f}",
            f"{coded.decoding:.1f}",
        )
        points.setdefault(coded.kind, []).append((bits, raw[0]))
        points.setdefault(f"{coded.kind}, corrected", []).append((bits, corrected[0]))
        agreement = corrected[1] if coded.kind == "tenreo" else raw[1]
        size = coded.size + 2 * other_weights  # all other tensors in float16
        files.setdefault(coded.kind, []).append((size / 1e6, agreement))
    corrected = points["tenreo, corrected"]
    for kind in ("ISO codec", "ISO codec, corrected"):
        ratios = [ours / theirs for (_, ours), (_, theirs) in zip(corrected, points[kind], strict=True)]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"KL of tenreo, corrected / {kind}: {' '.join(f'{r:.2f}' for r in ratios)}, mean {mean:.2f}")
    return points, files


def draw(points: Points, picture: Path, title: str, axes: dict[str, str]) -> None:
    """Draw a line for every codec; the legend is below the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 4.8), layout="constrained")
    axis = figure.subplots()
    colors = dict.fromkeys(kind.partition(", corrected")[0] for kind in points)
    for i, kind in enumerate(colors):
        for name, style in ((kind, "x:"), (f"{kind}, corrected", "o-")):
            if name in points:
                alone = f"{kind}, corrected" not in points
                axis.plot(*zip(*sorted(points[name]), strict=True), "o-" if alone else style, color=f"C{i}", label=name)
    axis.set(title=title, **axes)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["laplace", "network"])
    parser.add_argument("--network", default="lite0", choices=SIZES)
    parser.add_argument("--points", help="quantization parameters of the ISO codec, negative")
    parser.add_argument("--each", type=int, default=6, help="crops of a photograph")
    parser.add_argument("--elements", type=int, default=2**19)
    parser.add_argument("--plot", type=Path, help="PNG: error against bits per weight")
    parser.add_argument("--plot-files", type=Path, help="PNG: agreement against the size of the file")
    arguments = parser.parse_args()
    parameters = [int(p) for p in (arguments.points or POINTS[arguments.what]).split(",")]
    small = {"layer": laplace(64, 64)}
    ours(small, 1500), iso(small, 4)  # compiles, and loads libraries
    if arguments.what == "laplace":
        points, files = measure_laplace(arguments.elements, parameters), {}
        title, axes = "One layer of Laplace-distributed weights", {"ylabel": "SNR in dB"}
    else:
        points, files = measure_network(arguments.network, parameters, arguments.each)
        title = f"EfficientNet-{arguments.network.capitalize()} on {20 * arguments.each} crops of photographs"
        axes = {"ylabel": "KL from the dense model in nats", "yscale": "log"}
    if arguments.plot:
        draw(points, arguments.plot, title, {"xlabel": "bits per weight", **axes})
    if arguments.plot_files:
        agreement = "first class equal to the dense model's, % of images"
        draw(files, arguments.plot_files, title, {"xlabel": "MB of the whole file", "ylabel": agreement})


if __name__ == "__main__":
    main()

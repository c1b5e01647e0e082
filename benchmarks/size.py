"""Compare bytes and error of tenreo, the ISO codec, groupwise integers and k-means; every stored bit is counted.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/size.py laplace [--elements 524288] [--plot docs/size.png]
OMP_NUM_THREADS=1 .venv/bin/python benchmarks/size.py network [--network lite0] [--points 18,20,22,24,28]
    [--plot docs/codecs.png]

`laplace` encodes one layer of Laplace-distributed weights. `network` encodes the large layers of EfficientNet-Lite and
measures the outputs on photographs, both with the decoded weights alone and after tenreo's correction of BatchNorm
statistics. At each quantization parameter of the ISO codec, tenreo gets the number of bytes that the ISO codec needs.
The ISO codec is nncodec (ISO/IEC 15938-17): pip install nncodec. Seconds are processor time of one thread.
"""

from __future__ import annotations

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
from common import laplace, parser, row, table
from real import SIZES, crops, divergence, logits, network
from torch import Tensor, nn

import tenreo
from tenreo.codec.distortion import decibels
from tenreo.codec.encode import EncodedWeight
from tenreo.codec.position_coding import columns_per_output, decode_positions, encode_positions
from tenreo.codec.rate_distortion import trellis_quantize
from tenreo.compression.price_search import search_price

Weights = dict[str, Tensor]
Points = dict[str, list[tuple[float, float]]]  # label of a line in a picture: its points
CLIPS = tuple(0.6 + 0.025 * i for i in range(17))
POINTS = {"laplace": "1,3,5,10", "network": "18,20,22,24,28"}  # about 2 to 4 bits per weight
CODEBOOKS = {"laplace": (64, 256, 1024, 4096), "network": (64, 256, 1024)}
SHANNON = 0.63  # dB; no code of R bits per Laplace-distributed weight has an SNR above 6.02 R + 0.63


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
    """Encode with the ISO codec; its parameter qp is minus the given quantization parameter."""
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
    """Encode a weight at a price per bit; return the encoding and the stream of its positions."""
    encoded = trellis_quantize(weight, price)
    return encoded, encode_positions(
        encoded.positions, encoded.length, columns_per_output(weight.shape), encoded.memory, encoded.basis
    )


def ours(weights: Weights, size: int) -> Coded:
    """Encode with tenreo in 99.8 to 100 % of a size in bytes.

    All layers have the same price per bit, which is searched for as `--target-size` does.
    """
    results: dict[str, tuple[EncodedWeight, Tensor]] = {}
    took = 0.0

    def encode(price: float) -> int:
        nonlocal took
        start = time.process_time()
        results.update({name: at_price(weight, price) for name, weight in weights.items()})
        took = time.process_time() - start
        return stored_bytes()

    def stored_bytes() -> int:
        return sum(len(stream) + 4 * encoded.coefficients.numel() for encoded, stream in results.values())

    numel = sum(w.numel() for w in weights.values())
    power = sum(w.double().square().sum().item() for w in weights.values()) / numel
    encode(search_price(encode, size, numel, power * 4 ** (-8 * size / numel), within=0.002))
    start = time.process_time()
    decoded = {name: _decoded(weights[name], *each) for name, each in results.items()}
    return Coded("tenreo", "", stored_bytes(), decoded, took, time.process_time() - start)


def _decoded(weight: Tensor, encoded: EncodedWeight, stream: Tensor) -> Tensor:
    """Decode a weight; the positions come from the stream."""
    row = columns_per_output(weight.shape)
    positions = decode_positions(stream, len(encoded.positions), encoded.length, row, encoded.basis)
    assert torch.equal(positions, encoded.positions)
    return tenreo.decode(encoded)


def groupwise(weights: Weights, bits: int, size: int = 64) -> Coded:
    """Quantize to symmetric integers in groups with 16-bit scales and the best of 17 clipping thresholds per group."""
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

    bytes_ = sum((w.numel() * bits + -(-w.numel() // size) * 16 + 7) // 8 for w in weights.values())
    return Coded(
        "integers", f" of {bits} bits in groups of {size}, clipped", bytes_, {n: coded(w) for n, w in weights.items()}
    )


def kmeans(weights: Weights, codewords: int, elements: int = 4) -> Coded:
    """Cluster vectors of `elements` weights with scikit-learn's k-means; every layer has a codebook in float16."""
    from sklearn.cluster import KMeans

    bytes_, decoded = 0, {}
    for name, weight in weights.items():
        points = weight.reshape(elements, -1).T.numpy()
        count = min(codewords, len(points) // 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clusters = KMeans(count, n_init=1, max_iter=30, random_state=0, algorithm="elkan").fit(points)
        book = torch.from_numpy(clusters.cluster_centers_).half().float()
        decoded[name] = book[torch.from_numpy(clusters.labels_).long()].T.reshape(weight.shape)
        bytes_ += math.ceil((len(points) * math.ceil(math.log2(count)) + 16 * elements * count) / 8)
    return Coded(f"k-means of {elements} weights", f", {codewords} codewords", bytes_, decoded)


def every_codec(weights: Weights, parameters: list[int], codebooks: tuple[int, ...]) -> Iterator[Coded]:
    """Yield the results of all codecs with all settings."""
    for parameter in parameters:
        theirs = iso(weights, parameter)
        yield theirs
        yield ours(weights, theirs.size)
    for bits in (2, 3, 4):
        yield groupwise(weights, bits)
    for codewords in codebooks:
        yield kmeans(weights, codewords)


def quality(weights: Weights, coded: Coded) -> tuple[float, float]:
    """Return the bits per weight and the SNR in dB, both over all layers together."""
    numel = sum(w.numel() for w in weights.values())
    norm = sum(w.double().square().sum().item() for w in weights.values())
    error = sum((weights[n] - w).double().square().sum().item() for n, w in coded.weights.items())
    return 8 * coded.size / numel, decibels(norm, error)


def measure_laplace(elements: int, parameters: list[int]) -> Points:
    """Print the table of one layer; return the points (bits per weight, SNR in dB) of every codec."""
    weights = {"layer": laplace(512, elements // 512)}
    points: Points = {}
    table("codec", "bits per weight", "SNR in dB", "dB below Shannon's bound", "encoding s", "decoding s")

    def print_row(coded: Coded) -> None:
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
        print_row(ours(weights, bits * elements // 8))
    for coded in every_codec(weights, parameters, CODEBOOKS["laplace"]):
        print_row(coded)
    return points


def weights_of(model: nn.Module) -> Weights:
    """Return the weights that tenreo compresses by its general rule."""
    plan = tenreo.resolve(tenreo.Recipe(1, tenreo.Uniform(2.0)), model)
    return {layer.name: model.get_submodule(layer.name).weight.detach() for layer in plan.compressed}


@dataclass
class Network:
    """A dense network, images with sides of `pixels`, and the outputs of the dense network for them."""

    dense: nn.Module
    images: Tensor
    dense_outputs: Tensor
    pixels: int

    def outputs(self, weights: Weights) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return (KL, agreement) of the network with other weights, without and with correction of the statistics."""
        model = copy.deepcopy(self.dense)
        with torch.no_grad():
            for name, weight in weights.items():
                model.get_submodule(name).weight.copy_(weight)
        raw = divergence(self.dense_outputs, logits(model, self.images))
        tenreo.match_statistics_(model, self.dense, size=self.pixels)
        return raw, divergence(self.dense_outputs, logits(model, self.images))


def measure_network(name: str, parameters: list[int], each: int) -> Points:
    """Print the table of a network; return the points (bits per weight, KL) of every codec, also with correction."""
    dense, pixels = network(name), SIZES[name]
    images = crops(each, pixels)
    measured = Network(dense, images, logits(dense, images), pixels)
    weights = weights_of(dense)
    print(f"{len(weights)} layers, {sum(w.numel() for w in weights.values()):,} weights, {len(images)} crops")
    table(
        "codec", "bits per weight", "SNR in dB", "KL in nats", "agreement %", "KL in nats, corrected",
        "agreement %, corrected", "encoding s", "decoding s",
    )  # fmt: skip
    points: Points = {}
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
    corrected = points["tenreo, corrected"]
    for kind in ("ISO codec", "ISO codec, corrected"):
        ratios = [ours / theirs for (_, ours), (_, theirs) in zip(corrected, points[kind], strict=True)]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"KL of tenreo, corrected / {kind}: {' '.join(f'{r:.2f}' for r in ratios)}, mean {mean:.2f}")
    return points


def draw(points: Points, picture: Path, title: str, axes: dict[str, str]) -> None:
    """Draw a line for every codec, with the legend below the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 4.8), layout="constrained")
    axis = figure.subplots()
    colors = dict.fromkeys(kind.partition(", corrected")[0] for kind in points)
    for i, kind in enumerate(colors):
        for name, style in ((kind, "x:"), (f"{kind}, corrected", "o-")):
            if name in points:
                single = f"{kind}, corrected" not in points
                axis.plot(
                    *zip(*sorted(points[name]), strict=True), "o-" if single else style, color=f"C{i}", label=name
                )
    axis.set(title=title, **axes)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(picture, dpi=110)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("weights", choices=["laplace", "network"], help="weights to encode")
    options.add_argument("--network", default="lite0", choices=SIZES, help="size of the EfficientNet-Lite network")
    options.add_argument("--points", help="quantization parameters of the ISO codec without their minus signs")
    options.add_argument("--each", type=int, default=6, help="number of crops per photograph")
    options.add_argument("--elements", type=int, default=2**19, help="number of weights of the Laplace layer")
    options.add_argument("--plot", type=Path, help="PNG file for the picture of the error against bits per weight")
    arguments = options.parse_args()
    parameters = [int(p) for p in (arguments.points or POINTS[arguments.weights]).split(",")]
    small = {"layer": laplace(64, 64)}
    ours(small, 1500), iso(small, 4)  # compiles the loops and loads the libraries before anything is timed
    if arguments.weights == "laplace":
        points = measure_laplace(arguments.elements, parameters)
        title, axes = "One layer of Laplace-distributed weights", {"ylabel": "SNR in dB"}
    else:
        points = measure_network(arguments.network, parameters, arguments.each)
        title = f"EfficientNet-{arguments.network.capitalize()} on {20 * arguments.each} crops of photographs"
        axes = {"ylabel": "KL from the dense model in nats", "yscale": "log"}
    if arguments.plot:
        draw(points, arguments.plot, title, {"xlabel": "bits per weight", **axes})


if __name__ == "__main__":
    main()

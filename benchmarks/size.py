"""SNR against bits per weight: curves of tenreo, groupwise quantization, and k-means, every bit counted.

.venv/bin/python benchmarks/size.py [FOLDER] [--plot docs/size.png] [--elements 589824]

Without a folder: a Laplace-distributed layer. With that of benchmarks/accuracy.py: the compressed layers of its dense
MobileNet-V2 together, every method with the same settings in all layers, but for the target size, which chooses.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from common import laplace, row, table, trained
from torch import Tensor

import tenreo
from tenreo.codec.codec import nearest_neighbor_order
from tenreo.codec.decibels import decibels
from tenreo.codec.shape import CurveShape, Precision
from tenreo.planning.layers import weight_of
from tenreo.planning.search import candidates, choose

# groups, position bits, coefficients per row, precision
CURVES = (
    (4, 11, 2048, "int6"), (4, 12, 2048, "int8"), (4, 13, 2048, "int6"), (4, 13, 4096, "int8"), (4, 13, 4096, "int6"),
    (4, 14, 8192, "int6"), (8, 13, 2048, "int6"),
)  # fmt: skip
CODEBOOKS = (
    (4, 128), (4, 256), (4, 512), (4, 1024), (4, 2048), (4, 4096), (8, 512), (8, 1024), (8, 2048), (8, 4096),
)  # fmt: skip
SIZES = (1.6, 1.8, 2.0, 2.3, 2.6, 2.83, 3.1, 3.3, 3.42, 3.7, 4.0)  # bits per weight that are aimed for
Point = tuple[float, float]  # bits per weight, SNR in dB

orders: dict[tuple[int, int], Tensor] = {}


def curve(i: int, weight: Tensor, shape: CurveShape, rounds: int) -> tuple[int, float]:
    """Bytes and squared error of layer number i as a curve."""
    if (i, shape.groups) not in orders:
        orders[i, shape.groups] = nearest_neighbor_order(weight, shape.groups)
    encoded = tenreo.encode(
        weight, shape.groups, shape.coefficients_per_row, rounds, length=shape.length, precision=shape.precision,
        order=orders[i, shape.groups],
    )  # fmt: skip
    return shape.bytes(weight.numel()), (weight - tenreo.decode(encoded)).double().square().sum().item()


def groupwise(weight: Tensor, bits: int, clips: tuple[float, ...], size: int = 64) -> tuple[int, float]:
    """Bytes and squared error of symmetric integers with a 16-bit scale per group, the best of some clips."""
    rows = weight.reshape(-1, size)
    top = 2 ** (bits - 1) - 1
    best = torch.full((len(rows),), math.inf)
    for clip in clips:
        scale = (rows.abs().amax(1, keepdim=True) * clip / top).half().float().clamp_min(1e-8)
        error = (rows - (rows / scale).round().clamp(-top - 1, top) * scale).square().sum(1)
        best = torch.minimum(best, error)
    return (weight.numel() * bits + len(rows) * 16 + 7) // 8, best.double().sum().item()


def kmeans(weight: Tensor, groups: int, codewords: int) -> tuple[int, float]:
    """Bytes and squared error of scikit-learn's k-means on pieces of `groups` weights, with a 16-bit codebook."""
    from sklearn.cluster import KMeans

    points = weight.reshape(groups, -1).T.numpy()
    codewords = min(codewords, len(points))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = KMeans(
            codewords, n_init=1, max_iter=60, random_state=0, algorithm="elkan" if groups < 8 else "lloyd"
        ).fit(points)
    book = torch.from_numpy(found.cluster_centers_).half().float()
    error = (torch.from_numpy(points) - book[torch.from_numpy(found.labels_).long()]).double().square().sum()
    bits = len(points) * math.ceil(math.log2(max(2, codewords))) + 16 * groups * codewords
    return (bits + 7) // 8, error.item()


def total(layers: list[Tensor], parts: list[tuple[int, float]]) -> Point:
    """Bits per weight and SNR of all layers together."""
    size, error = (sum(column) for column in zip(*parts, strict=True))
    return 8 * size / sum(w.numel() for w in layers), decibels(sum(_squared_norm(w) for w in layers), error)


def _squared_norm(weight: Tensor) -> float:
    return weight.double().square().sum().item()


def targeted(layers: list[Tensor], bits: float, rounds: int) -> Point:
    """What `--target-size` makes of so many bits per weight."""
    recipe = tenreo.Recipe(None, tenreo.TargetSize(10**9))
    room = int(bits / 8 * sum(w.numel() for w in layers))
    # Weighted by squared norms: the error of all layers together is what is compared.
    chosen = choose([candidates(w.numel(), recipe) for w in layers], [_squared_norm(w) for w in layers], room)
    pairs = zip(layers, chosen, strict=True)
    return total(layers, [curve(i, weight, choice.curve, rounds) for i, (weight, choice) in enumerate(pairs)])


def fixed(layers: list[Tensor], groups: int, bits: int, per_row: int, precision: str, rounds: int) -> Point:
    """The same curve for every layer, shorter where a layer has fewer columns."""
    parts = []
    for i, weight in enumerate(layers):
        length = min(weight.numel() // groups, 2**bits)
        shape = CurveShape(groups, length, min(per_row, length), Precision(precision))
        parts.append(curve(i, weight, shape, rounds))
    return total(layers, parts)


def read(folder: Path | None, elements: int) -> list[Tensor]:
    if folder is None:
        return [laplace(1, elements)]
    model = trained("mobilenet_v2", folder)
    plan = tenreo.resolve(tenreo.Recipe(4, tenreo.Uniform(2.0)), model)
    return [weight_of(model.get_submodule(layer.name)).detach() for layer in plan.compressed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--elements", type=int, default=589_824)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    layers = read(arguments.folder, arguments.elements)
    series: dict[str, list[Point]] = {}

    def measured(name: str, what: str, point: Point) -> None:
        series.setdefault(name, []).append(point)
        row(what, f"{point[0]:.2f}", f"{point[1]:.2f}")

    table("what", "bits per weight", "SNR in dB")
    for name, clips in (("plain", (1.0,)), ("clipped", tuple(0.6 + 0.025 * i for i in range(17)))):
        for bits in (2, 3, 4):
            parts = [groupwise(w, bits, clips) for w in layers]
            measured(f"groupwise, {name}", f"groupwise {bits}-bit, {name}", total(layers, parts))
    for g, k in CODEBOOKS:
        # Small layers pay dearly for a codebook; beyond 4.5 bits per weight there is nothing to compare.
        if sum(16 * g * k + w.numel() / g * math.log2(k) for w in layers) > 4.5 * sum(w.numel() for w in layers):
            continue
        what = f"k-means, {g} elements, K = {k:,}"
        measured(f"k-means, {g} elements", what, total(layers, [kmeans(w, g, k) for w in layers]))
    for g, bits, per_row, precision in CURVES:
        what = f"curve, g = {g}, b = {bits}, t = {per_row:,}, {precision}"
        measured("curve", what, fixed(layers, g, bits, per_row, precision, arguments.rounds))
    for bits in SIZES:
        measured("target size", f"target size, {bits} bits", targeted(layers, bits, arguments.rounds))
    if arguments.plot:
        draw(series, arguments.plot)


def draw(series: dict[str, list[Point]], picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, points in series.items():
        line = "" if name == "curve" else "-"
        x, y = zip(*sorted(points), strict=True)
        axis.plot(x, y, marker="o", linestyle=line, label=name)
    axis.set(xlabel="bits per weight", ylabel="SNR in dB", xlim=(1, 4.6), ylim=(4, 20))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()

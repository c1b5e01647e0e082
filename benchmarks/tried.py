"""What was tried for refinement and not taken (docs/research/refinement.md).

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/tried.py FOLDER [weights] [seeds] [starts] [sweeps]

weights: columns weighted by their input; seeds: re-seeding of unused samples; starts: where a round begins; sweeps:
what is gained by the curve that the first round begins on.

FOLDER is that of benchmarks/accuracy.py; its dense MobileNet-V2 is trained first where it is not there.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path

import torch
from common import laplace, row, snr, table, trained
from torch import Tensor, nn

import tenreo
from tenreo.codec import refine
from tenreo.codec.cosine import dct, idct
from tenreo.codec.encode import refined
from tenreo.codec.refine import SWEEP_RATIOS, Descent
from tenreo.correction.noise import noise_images
from tenreo.training.digits import calibration_images, digits, top1

ROUNDS = 4
STARTS = ((1, 0), (1.5, 0), (2.2, 0), (1, 0.8), (1.5, 0.6), (2.2, 0.6), (3, 0.5), (1.8, 0.7))  # step, momentum
SWEPT = (
    (4, 589_824, 25), (4, 262_144, 17), (4, 147_456, 13), (4, 65_536, 9), (4, 36_864, 5), (4, 36_864, 25),
    (3, 147_456, 9), (3, 147_456, 16), (2, 147_456, 25), (2, 147_456, 100), (8, 73_728, 25),
)  # fmt: skip
SWEEP_COLUMNS = "chain", "sweeps", "time"


def second_moments(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Mean square of every input channel of every 1x1 convolution."""
    found = {}
    handles = [
        m.register_forward_pre_hook(lambda _, inputs, name=n: found.update({name: inputs[0].square().mean((0, 2, 3))}))
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
    ]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


def weighted_fit(matrix: Tensor, positions: Tensor, y: Tensor, length: int, weights: Tensor) -> Tensor:
    """The fit of tenreo.codec.refine with a weight (n,) for every column, by 20 conjugate gradients."""
    density = torch.zeros(length).index_add_(0, positions, weights)
    per_row = y.shape[1]
    residual = dct(refine.scatter(matrix * weights, positions, length) - idct(y, length) * density, per_row)
    direction, energy = residual, residual.square().sum(1, keepdim=True)
    for _ in range(20):
        image = dct(idct(direction, length) * density, per_row)
        step = energy / (direction * image).sum(1, keepdim=True).clamp_min(1e-20)
        y, residual = y + step * direction, residual - step * image
        before, energy = energy, residual.square().sum(1, keepdim=True)
        direction = residual + energy / before.clamp_min(1e-20) * direction
    return y


def weighted(weight: Tensor, groups: int, per_row: int, moments: Tensor | None, rounds: int) -> Tensor:
    """Decode a 1x1 convolution that was refined in plain rounds, its columns weighted by their input."""
    encoded = tenreo.encode(weight, groups, per_row)
    matrix = weight.detach().reshape(groups, -1)  # column = (output channel within the group, input channel)
    weights = torch.ones(matrix.shape[1])
    if moments is not None:
        share = (moments / moments.mean()).clamp_min(1e-3)
        weights = share.repeat(len(weights) // len(share))
    positions, y = encoded.positions, encoded.coefficients
    for _ in range(rounds):
        positions = refine.assign(matrix, y, encoded.length, positions)
        y = weighted_fit(matrix, positions, y, encoded.length, weights)
    return idct(y, encoded.length)[:, positions].reshape(weight.shape)


def compare_weights(dense: nn.Module) -> None:
    train, val = digits()
    x = noise_images(256, 3, 32)
    moments = {
        "no weights": None,
        "noise": second_moments(dense, x),
        "digits": second_moments(dense, calibration_images(train)),
    }
    for groups, growth in ((8, 32.0), (16, 4.0)):
        plan = tenreo.resolve(tenreo.Recipe(groups, tenreo.Progressive(growth)), dense)
        for name, known in moments.items():
            small = copy.deepcopy(dense)
            for layer in plan.compressed:
                module = small.get_submodule(layer.name)
                of_layer = known.get(layer.name) if known else None  # none for the classifier
                per_row = layer.encoding.coefficients_per_row
                module.weight.data = weighted(module.weight, groups, per_row, of_layer, ROUNDS)
            alone = top1(small, val)
            tenreo.match_statistics_(small, dense, [x])
            print(f"g={groups} r'={growth:g}, {name}: {alone:.1f}, matched {top1(small, val):.1f}", flush=True)


def compare_seeds() -> None:
    for groups, columns, rate in ((4, 36_864, 13), (8, 18_432, 13)):
        matrix = laplace(groups, columns)
        encoded = tenreo.encode(matrix, groups, columns // rate)
        for share in (0.0, 0.01, 0.03):
            positions, y = encoded.positions, encoded.coefficients
            for left in reversed(range(12)):
                curve = idct(y, columns)
                positions = refine.assign(matrix, y, columns, positions)
                if left > 2:  # the worst columns pull unused samples to themselves, in the curve's order
                    unused = (torch.bincount(positions, minlength=columns) == 0).nonzero()[:, 0]
                    count = min(int(share * columns), len(unused))
                    worst = (matrix - curve[:, positions]).square().sum(0).topk(count).indices
                    worst = worst[positions[worst].argsort()]
                    chosen = torch.linspace(0, len(unused) - 1, count).long()
                    positions = positions.clone()
                    positions[worst] = unused[chosen].int()
                y = refine.fit(matrix, positions, y, columns)
            positions = refine.assign(matrix, y, columns, positions)
            print(f"g={groups} n={columns:,} rate {rate}, re-seeded {share:.0%}: "
                  f"{snr(matrix, idct(y, columns)[:, positions]):.2f} dB", flush=True)  # fmt: skip


def compare_starts(layers: tuple[tuple[int, int, int], ...] = ((4, 73_728, 13), (8, 36_864, 13))) -> None:
    table("next start", *(f"g = {g}, n = {n:,}, rate {rate}" for g, n, rate in layers))
    weights = [laplace(g, n) for g, n, _ in layers]
    papers = [tenreo.encode(w, g, n // rate) for w, (g, n, rate) in zip(weights, layers, strict=True)]
    for step, momentum in STARTS:
        descent = Descent(step, momentum, sweep_ratios={})  # all from the chain
        better = [refined(weight, paper, 12, descent=descent) for weight, paper in zip(weights, papers, strict=True)]
        row(
            f"step {step}, momentum {momentum}",
            *(f"{snr(weight, tenreo.decode(e)):.2f}" for weight, e in zip(weights, better, strict=True)),
        )


def compare_sweeps() -> None:
    """12 rounds from the chain and from sweeps, and the processor time of the latter as a share of the former."""
    table("g", "n", "rate", *(f"{kind}: {what}" for kind in ("normal", "Laplace") for what in SWEEP_COLUMNS), text=0)
    for g, n, rate in SWEPT:
        cells = []
        for weight in (torch.randn(g, n, generator=torch.Generator().manual_seed(0)), laplace(g, n)):
            paper, took = tenreo.encode(weight, g, n // rate), []
            for ratios in ({}, dict.fromkeys(SWEEP_RATIOS, 0)):
                start = time.process_time()
                better = refined(weight, paper, 12, descent=Descent(sweep_ratios=ratios))
                took.append(time.process_time() - start)
                cells.append(f"{snr(weight, tenreo.decode(better)):.2f}")
            cells.append(f"{took[1] / took[0]:.2f}")
        row(g, f"{n:,}", rate, *cells)


if __name__ == "__main__":
    asked = sys.argv[2:] or ["weights", "seeds", "starts", "sweeps"]
    if "sweeps" in asked:
        compare_sweeps()
    if "seeds" in asked:
        compare_seeds()
    if "starts" in asked:
        compare_starts()
    if "weights" in asked:
        compare_weights(trained("mobilenet_v2", Path(sys.argv[1])))

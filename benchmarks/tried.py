"""What was tried for refinement and not taken: weights per column, re-seeding.

.venv/bin/python benchmarks/tried.py FOLDER [weights] [seeds]

FOLDER is that of benchmarks/accuracy.py, with its dense MobileNet-V2.
"""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import tenreo
from tenreo.cli.demo import percent
from tenreo.core import refine
from tenreo.core.cosine import dct, idct
from tenreo.data import DIGITS, open_images
from tenreo.header import Preprocess
from tenreo.statistics import noise

ROUNDS = 4
PREPROCESS = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def second_moments(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Mean square of every input channel of every 1x1 convolution."""
    found = {}
    handles = [
        m.register_forward_pre_hook(
            lambda _, inputs, name=n: found.update({name: inputs[0].square().mean((0, 2, 3))})
        )
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
    ]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


def weighted_fit(matrix: Tensor, positions: Tensor, y: Tensor, length: int, weights: Tensor) -> Tensor:
    """The fit of tenreo.core.refine with a weight (n,) for every column, by 20 conjugate gradients."""
    density = torch.zeros(length).index_add_(0, positions, weights)
    kept = y.shape[1]
    residual = dct(refine.scatter(matrix * weights, positions, length) - idct(y, length) * density, kept)
    direction, energy = residual, residual.square().sum(1, keepdim=True)
    for _ in range(20):
        image = dct(idct(direction, length) * density, kept)
        step = energy / (direction * image).sum(1, keepdim=True).clamp_min(1e-20)
        y, residual = y + step * direction, residual - step * image
        before, energy = energy, residual.square().sum(1, keepdim=True)
        direction = residual + energy / before.clamp_min(1e-20) * direction
    return y


def weighted(weight: Tensor, groups: int, kept: int, moments: Tensor | None, rounds: int) -> Tensor:
    """Decode a 1x1 convolution that was refined in plain rounds, its columns weighted by their input."""
    encoded = tenreo.encode(weight, groups, kept)
    matrix = weight.detach().reshape(groups, -1)  # column = (output channel within the group, input channel)
    weights = torch.ones(matrix.shape[1])
    if moments is not None:
        share = (moments / moments.mean()).clamp_min(1e-3)
        weights = share.repeat(len(weights) // len(share))
    positions, y = encoded.positions, encoded.coefficients
    for _ in range(rounds):
        positions = refine.assign(matrix, idct(y, encoded.length), positions)
        y = weighted_fit(matrix, positions, y, encoded.length, weights)
    return idct(y, encoded.length)[:, positions].reshape(weight.shape)


def compare_weights(dense: nn.Module) -> None:
    train, val = (open_images(DIGITS, split, PREPROCESS, 10) for split in ("train", "val"))
    x = noise(256, 3, 32)
    moments = {
        "no weights": None,
        "noise": second_moments(dense, x),
        "digits": second_moments(dense, torch.stack([train[i][0] for i in range(256)])),
    }
    for groups, growth in ((8, 32.0), (16, 4.0)):
        plan = tenreo.resolve(tenreo.Recipe(groups, tenreo.Progressive(growth)), dense)
        for name, known in moments.items():
            small = copy.deepcopy(dense)
            for layer in plan.compressed:
                module = small.get_submodule(layer.name)
                of_layer = known.get(layer.name) if known else None  # none for the classifier
                module.weight.data = weighted(module.weight, groups, layer.kept, of_layer, ROUNDS)
            alone = percent(small, val)
            tenreo.match_statistics_(small, dense, [x])
            print(
                f"g={groups} r'={growth:g}, {name}: {alone:.1f}, matched {percent(small, val):.1f}",
                flush=True,
            )


def laplace(groups: int, columns: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).laplace(size=(groups, columns)).astype(np.float32))


def decibels(matrix: Tensor, curve: Tensor, positions: Tensor) -> float:
    return 10 * math.log10(matrix.square().sum() / (matrix - curve[:, positions]).square().sum())


def compare_seeds() -> None:
    for groups, columns, rate in ((4, 36_864, 13), (8, 18_432, 13)):
        matrix = laplace(groups, columns)
        encoded = tenreo.encode(matrix, groups, columns // rate)
        for share in (0.0, 0.01, 0.03):
            positions, y = encoded.positions, encoded.coefficients
            for left in reversed(range(12)):
                curve = idct(y, columns)
                positions = refine.assign(matrix, curve, positions)
                if left > 2:  # the worst columns pull unused samples to themselves, in the curve's order
                    unused = (torch.bincount(positions, minlength=columns) == 0).nonzero()[:, 0]
                    count = min(int(share * columns), len(unused))
                    worst = (matrix - curve[:, positions]).square().sum(0).topk(count).indices
                    worst = worst[positions[worst].argsort()]
                    spread = torch.linspace(0, len(unused) - 1, count).long()
                    positions = positions.clone()
                    positions[worst] = unused[spread].int()
                y = refine.fit(matrix, positions, y, columns)
            positions = refine.assign(matrix, idct(y, columns), positions)
            print(f"g={groups} n={columns:,} rate {rate}, re-seeded {share:.0%}: "
                  f"{decibels(matrix, idct(y, columns), positions):.2f} dB", flush=True)  # fmt: skip


if __name__ == "__main__":
    asked = sys.argv[2:] or ["weights", "seeds"]
    if "weights" in asked:
        compare_weights(tenreo.load(Path(sys.argv[1]) / "mobilenet_v2.safetensors").eval())
    if "seeds" in asked:
        compare_seeds()

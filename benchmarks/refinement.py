"""SNR against rounds of refinement and seconds, paper beside refined, for four layer sizes.

.venv/bin/python benchmarks/refinement.py
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch

import tenreo
from tenreo.core.codec import refined

LAYERS = ((4, 36_864, 13), (4, 147_456, 13), (4, 147_456, 49), (8, 73_728, 13))  # groups, columns, rate
ROUNDS = (1, 2, 4, 8, 12, 16, 24)


def snr(weight: torch.Tensor, encoded: tenreo.EncodedWeight) -> float:
    noise = (weight - tenreo.decode(encoded)).double().square().sum()
    return 10 * math.log10(weight.double().square().sum() / noise)


if __name__ == "__main__":
    tenreo.encode(torch.randn(8, 8), 4, 2, refine=1)  # compiles
    torch.set_num_threads(1)
    for g, n, rate in LAYERS:
        weight = torch.from_numpy(np.random.default_rng(0).laplace(size=(g, n)).astype(np.float32))
        start = time.perf_counter()
        paper = tenreo.encode(weight, g, n // rate)
        chain = time.perf_counter() - start
        print(f"g={g} n={n:,} rate {rate}: paper {snr(weight, paper):.2f} dB, {chain:.2f} s")
        for rounds in ROUNDS:
            start = time.perf_counter()
            better = refined(weight, paper, rounds)
            seconds = time.perf_counter() - start
            print(f"  {rounds:>2} rounds: {snr(weight, better):.2f} dB, {seconds:.2f} s more, "
                  f"{seconds / chain:.1f} times the paper's encoding")  # fmt: skip

"""Print SNR and time against the number of rounds of refinement, compared with the paper's encoding.

.venv/bin/python benchmarks/refinement.py [--columns 10000000] [--time]
"""

from __future__ import annotations

import time

import torch
from common import laplace, parser, row, snr, table

import tenreo
from tenreo.codec.encode import refined

# groups, columns, rate
LAYERS = (
    (4, 147_456, 4), (4, 147_456, 13), (4, 147_456, 49), (8, 73_728, 13), (8, 73_728, 49), (4, 73_728, 13),
    (8, 36_864, 13),
)  # fmt: skip
ROUNDS = (4, 8, 12, 16, 24, 50)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--columns", type=int, default=10_000_000, help="skip layers with more columns")
    options.add_argument("--time", action="store_true", help="print the times as multiples of the chain's time as well")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    tenreo.encode(torch.randn(8, 8), 4, 2, refine=1)  # compiles the loops before they are timed
    times = []
    table("g", "n", "rate", "paper", *(f"{rounds} rounds" for rounds in ROUNDS), text=0)
    for g, n, rate in LAYERS:
        if n > arguments.columns:
            continue
        weight = laplace(g, n)
        start = time.perf_counter()
        paper = tenreo.encode(weight, g, n // rate)
        chain = time.perf_counter() - start
        ratios, multiples = [snr(weight, tenreo.decode(paper))], []
        for rounds in ROUNDS:
            start = time.perf_counter()
            better = refined(weight, paper, rounds)
            multiples.append((time.perf_counter() - start) / chain)
            ratios.append(snr(weight, tenreo.decode(better)))
        layer = (g, f"{n:,}", rate)
        row(*layer, *(f"{ratio:.2f}" for ratio in ratios))
        times.append((*layer, f"{chain:.2f} s", *(f"{multiple:.1f}" for multiple in multiples)))
    if arguments.time:
        print()
        table("g", "n", "rate", "chain", *(f"{rounds} rounds" for rounds in ROUNDS), text=0)
        for cells in times:
            row(*cells)


if __name__ == "__main__":
    main()

"""Compare numbers of refinement rounds on trained networks: time, SNR, and their figures after the correction.

.venv/bin/python benchmarks/rounds.py [lite0 voice pitch]

The networks and their figures are those of networks.py. The time is processor time of one thread, as a ratio to that of
twelve rounds, the default.
"""

import copy
import time

import torch
from common import parser, row, table
from networks import MEASURES

import tenreo

ROUNDS = (0, 4, 8, 12, 24)
RATES = {"r' = 1": tenreo.Progressive(1.0), "r = 8": tenreo.Uniform(8.0)}


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("networks", nargs="*", metavar="NETWORK", help="networks to measure; default: all")
    torch.set_num_threads(1)
    for name in options.parse_args().networks or MEASURES:
        measure = MEASURES[name]()
        table("network", "rate", "rounds", "time", "SNR dB", *measure.names, text=2)
        for title, rate in RATES.items():
            results = {}
            for rounds in ROUNDS:
                small, start = copy.deepcopy(measure.dense), time.process_time()
                report = tenreo.compress_(small, tenreo.Recipe(4, rate, refine=rounds), jobs=1)
                took = time.process_time() - start
                measure.correct(small)
                results[rounds] = took, report.snr, *measure.figures(small)
            for rounds, (took, snr, *figures) in results.items():
                ratio = took / results[12][0]
                row(name, title, rounds, f"{ratio:.2f}", f"{snr:.2f}", *(f"{each:.4g}" for each in figures))


if __name__ == "__main__":
    main()

"""Compare tenreo with a uniform quantizer at equal bytes, on weights of several distributions.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/distributions.py [--elements 65536] [--bits 0.3,1,2,4,8] [--only NAME]

The table shows how many decibels the SNR of one layer encoded by tenreo is above that of a uniform quantizer whose
bits are the order-0 entropy of its integers. All bytes of tenreo are counted; the entropy is ideal, and the tables of
an actual entropy coder are not counted. The last row is the layer conv4 of the voice detector Silero VAD:
pip install --no-deps silero-vad.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from common import parser, row, table
from size import ours, quality
from torch import Tensor

from tenreo.codec.distortion import decibels
from tenreo.planning.bisection import bisect

ROW = 256  # weights of an output channel
MOST_DECIBELS = 100  # nothing is measured where a uniform quantizer is better than this


def distributions(elements: int) -> Iterator[tuple[str, Tensor]]:
    """Yield names and weights (elements / 256, 256) in float32, from a fixed seed."""
    random = np.random.default_rng(0)
    outliers = random.standard_normal(elements)
    outliers[random.choice(elements, 20, replace=False)] *= 50
    weights = {
        "Gaussian": random.standard_normal(elements),
        "Laplace": random.laplace(size=elements),
        "Student-t, 3 degrees of freedom": random.standard_t(3, size=elements),
        "Student-t, 1.5 degrees of freedom": random.standard_t(1.5, size=elements),
        "Gaussian, 20 weights times 50": outliers,
        "Gaussian, 90 % zeros": random.standard_normal(elements) * (random.random(elements) < 0.1),
        "uniform": random.random(elements) - 0.5,
    }
    for name, values in weights.items():
        yield name, torch.from_numpy(values.astype(np.float32)).reshape(-1, ROW)
    if silero := importlib.util.find_spec("silero_vad"):
        from safetensors.torch import load_file

        assert silero.submodule_search_locations
        file = Path(silero.submodule_search_locations[0]) / "data" / "silero_vad_16k.safetensors"
        yield "Silero VAD, conv4", load_file(file)["conv4.weight"]


def uniform_snr(weight: Tensor, bits: float) -> float:
    """Return the SNR of the finest uniform quantizer whose order-0 entropy is at most `bits` per weight, in dB."""
    values = weight.double().reshape(-1)
    largest = values.abs().max().item()

    def entropy(step: float) -> float:
        counts = torch.unique((values / step).round(), return_counts=True)[1].double() / len(values)
        return -(counts * counts.log2()).sum().item()

    top = np.log2(largest) + 1
    step = float(np.exp2(bisect(lambda log: entropy(2.0**log) <= bits, top - 41, top, steps=30)))
    error = (values - (values / step).round() * step).square().sum().item()
    return decibels(values.square().sum().item(), error)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--elements", type=int, default=2**16, help="number of weights, a multiple of 256")
    options.add_argument("--bits", default="0.3,0.5,1,1.5,2,3,4,6,8", help="bits per weight")
    options.add_argument("--only", default="", help="beginning of the name of the only distribution to encode")
    arguments = options.parse_args()
    bits = [float(b) for b in arguments.bits.split(",")]
    table("weights", *(f"{b:g} bits" for b in bits), "encoding s")
    for name, weight in distributions(arguments.elements):
        if not name.startswith(arguments.only):
            continue
        gains, start = [], time.process_time()
        for rate in bits:
            uniform = uniform_snr(weight, rate)
            if uniform > MOST_DECIBELS:
                gains.append("")
                continue
            snr = quality({"layer": weight}, ours({"layer": weight}, int(rate * weight.numel() / 8)))[1]
            gains.append(f"{snr - uniform:+.2f}")
        row(name, *gains, f"{time.process_time() - start:.1f}")


if __name__ == "__main__":
    main()

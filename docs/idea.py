"""Draw docs/idea.png from a layer of the demo's dense model.

.venv/bin/tenreo demo && .venv/bin/python docs/idea.py tenreo-demo/dense.safetensors
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import tenreo
from tenreo.codec.cosine import dct

LAYER, GROUPS, GROWTH = "features.17.conv.0.0", 4, 1.0

model = tenreo.load(sys.argv[1])
weight = model.get_submodule(LAYER).weight.detach()
plan = tenreo.resolve(tenreo.Recipe(GROUPS, tenreo.Progressive(GROWTH)), model)
count = next(layer.encoding.coefficients_per_row for layer in plan.compressed if layer.name == LAYER)
encoded = tenreo.encode(weight, GROUPS, count)
columns = encoded.length
before = weight.reshape(GROUPS, columns)
after = before[:, np.argsort(encoded.positions.numpy())]

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
row = 0
shown = slice(0, 400)
left.plot(before[row, shown], lw=0.7)
left.set(title="a row of the weight", xlabel=f"column (the first 400 of {columns:,})", ylabel="weight")
middle.plot(after[row, shown], lw=0.7, label="row, reordered")
curve = tenreo.decode(
    tenreo.EncodedWeight(encoded.coefficients, encoded.positions.new_tensor(range(columns)), columns, (GROUPS, columns))
)
middle.plot(curve[row, shown], lw=1.2, label=f"{count:,} coefficients")
middle.set(title="along the path through all columns", xlabel="position (the first 400)")
middle.legend(frameon=False)
for values, name in ((before, "before"), (after, "after reordering")):
    energy = dct(values).square().mean(0).numpy()
    bins = np.array_split(energy, 200)
    right.semilogy(np.linspace(0, columns, 200), [b.mean() for b in bins], lw=1, label=name)
right.axvspan(0, count, color="tab:green", alpha=0.12, label=f"kept ({count / columns:.0%})")
right.set(title="cosine spectrum", xlabel="frequency", ylabel="mean squared coefficient")
right.legend(frameon=False)
figure.suptitle(f"{LAYER} of MobileNet-V2 trained on digits, g = {GROUPS}, r' = {GROWTH:g}")
figure.savefig(Path(__file__).with_name("idea.png"), dpi=110)

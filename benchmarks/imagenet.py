"""Measure how closely a compressed EfficientNet-Lite follows the dense one: KL and agreement, parameters and bytes.

.venv/bin/python benchmarks/imagenet.py [--network lite0] [--each 6] [--plot docs/gain.png] [--quick]

The script needs pip install -e '.[real]'. Compression uses no image: the statistics are corrected on noise.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common import parser, table
from real import SIZES, crops, divergence, logits, network
from torch import nn

import tenreo
from tenreo.compression.compress_model import Orders

GROWTHS = ((4, 0.5), (4, 2.0), (4, 8.0), (2, 0.5), (8, 0.5))  # groups, r'
BYTES = (4_000_000, 3_000_000, 2_500_000, 2_000_000)


@dataclass(frozen=True)
class Row:
    """The figures of one setting, with or without corrected statistics."""

    name: str
    corrected: bool
    parameters: int
    size: int
    kl: float
    agreement: float

    def __str__(self) -> str:
        correction = "corrected on noise" if self.corrected else "as encoded"
        return (f"| {self.name} | {correction} | {self.parameters / 1e6:.2f} M | {self.size / 1e6:.2f} MB | "
                f"{self.kl:.4f} | {self.agreement:.1f} |")  # fmt: skip


class Measurement:
    """A dense network, crops of photographs, and the outputs of the dense network for them."""

    def __init__(self, name: str, each: int) -> None:
        self.dense, self.pixels = network(name), SIZES[name]
        self.images = crops(each, self.pixels)
        self.outputs = logits(self.dense, self.images)
        self.orders: Orders = {}

    def rows(self, name: str, recipe: tenreo.Recipe) -> Iterator[Row]:
        """Yield the figures of a recipe without and with corrected statistics."""
        model = copy.deepcopy(self.dense)
        plan = tenreo.resolve(recipe, model)
        report = tenreo.compress_(model, plan, orders=self.orders)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            tenreo.save(model, path, recipe=plan.recipe)
            size = path.stat().st_size
        for corrected in (False, True):
            if corrected:
                tenreo.match_statistics_(model, self.dense, size=self.pixels)
            kl, agreement = divergence(self.outputs, logits(model, self.images))
            yield Row(name, corrected, report.after.parameters, size, kl, agreement)


def measure(measurement: Measurement, quick: bool) -> Iterator[Row]:
    """Yield the figures of all settings; if quick, of two refined ones only."""
    for groups, growth in GROWTHS[:2] if quick else GROWTHS:
        refined = tenreo.Recipe(groups, tenreo.Progressive(growth))
        if not quick:
            yield from measurement.rows(f"paper, g = {groups}, r' = {growth:g}", replace(refined, refine=0))
        yield from measurement.rows(f"refined, g = {groups}, r' = {growth:g}", refined)
    for size in () if quick else BYTES:
        recipe = tenreo.Recipe(None, tenreo.TargetSize(size))
        important = tenreo.measure_importance(recipe, measurement.dense, size=measurement.pixels)
        yield from measurement.rows(f"{size / 1e6:g} MB", important)


def plot(rows: list[Row], dense: int, picture: Path) -> None:
    """Draw KL and agreement against bytes, with a line for each kind of encoding, uncorrected and corrected."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    kinds = {"paper": "paper's encoding, g = 4", "refined": "refined, g = 4", "MB": "tenreo --target-size"}
    for axis, column in zip(figure.subplots(1, 2), ("kl", "agreement"), strict=True):
        for i, (kind, label) in enumerate(kinds.items()):
            for corrected in (False, True):
                chosen = sorted(
                    (row.size / 1e6, getattr(row, column))
                    for row in rows
                    if row.corrected == corrected
                    and kind in row.name
                    and ("g =" not in row.name or "g = 4" in row.name)
                )
                style = {"linestyle": "-", "marker": "o"} if corrected else {"linestyle": ":", "marker": "x"}
                name = f"{label}, corrected on noise" if corrected else label
                axis.plot(*zip(*chosen, strict=True), color=f"C{i}", label=name, **style)
        axis.set(xlabel=f"MB on disk (dense: {dense / 1e6:.1f} MB)")
        axis.grid(alpha=0.3)
    left, right = figure.axes
    left.set(yscale="log", ylabel="KL from the dense model in nats")
    right.set(ylabel="agreement of top-1 with the dense model in %")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="x-small")
    figure.savefig(picture, format="png", dpi=110)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--network", choices=SIZES, default="lite0", help="size of the EfficientNet-Lite network")
    options.add_argument("--each", type=int, default=6, help="number of crops per photograph")
    options.add_argument("--plot", type=Path, help="PNG file for the picture of KL and agreement against bytes")
    options.add_argument("--quick", action="store_true", help="measure two settings only")
    arguments = options.parse_args()
    measurement = Measurement(arguments.network, arguments.each)
    dense = dense_size(measurement.dense)
    parameters = sum(p.numel() for p in measurement.dense.state_dict().values() if p.is_floating_point())
    print(f"EfficientNet-{arguments.network.capitalize()}: dense {parameters / 1e6:.2f} M parameters, "
          f"{dense / 1e6:.2f} MB; {len(measurement.images)} crops of 20 photographs")  # fmt: skip
    table("setting", "statistics", "parameters", "bytes", "KL in nats", "agreement %", text=2)
    rows = []
    for row in measure(measurement, arguments.quick):
        rows.append(row)
        print(row, flush=True)
    if arguments.plot:
        plot(rows, dense, arguments.plot)


def dense_size(model: nn.Module) -> int:
    """Return the size of all tensors of a model in bytes."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


if __name__ == "__main__":
    main()

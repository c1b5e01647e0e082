"""KL and agreement of a compressed EfficientNet-Lite0 with the dense one on photographs, beside parameters and bytes.

.venv/bin/python benchmarks/imagenet.py [--network lite0] [--each 6] [--plot docs/gain.png] [--quick]

Needs pip install -e '.[real]'. No image is used to compress: the statistics are corrected on noise.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from real import SIZES, crops, divergence, logits, network
from torch import nn

import tenreo
from tenreo.compression.compress_model import Orders

GROWTHS = ((4, 0.5), (4, 2.0), (4, 8.0), (2, 0.5), (8, 0.5))  # groups, r'
BYTES = (4_000_000, 3_000_000, 2_500_000, 2_000_000)
DTYPES = {"dense_dtype": "float16"}  # of the files of a given size


@dataclass(frozen=True)
class Row:
    """A setting, corrected or not, and what was measured of it."""

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
    """A dense network, photographs, and its outputs on them."""

    def __init__(self, name: str, each: int) -> None:
        self.dense, self.pixels = network(name), SIZES[name]
        self.images = crops(each, self.pixels)
        self.outputs = logits(self.dense, self.images)
        self.orders: Orders = {}

    def rows(self, name: str, recipe: tenreo.Recipe) -> Iterator[Row]:
        """The setting as it is encoded, and with its statistics corrected."""
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


def measure(found: Measurement, quick: bool) -> Iterator[Row]:
    """All settings, or with quick the two of the default encoding."""
    for groups, growth in GROWTHS[:2] if quick else GROWTHS:
        refined = tenreo.Recipe(groups, tenreo.Progressive(growth))
        if not quick:
            yield from found.rows(f"paper, g = {groups}, r' = {growth:g}", replace(refined, refine=0))
        yield from found.rows(f"refined, g = {groups}, r' = {growth:g}", refined)
    for size in () if quick else BYTES:
        yield from found.rows(f"{size / 1e6:g} MB", tenreo.Recipe(None, tenreo.TargetSize(size), **DTYPES))


def plot(rows: list[Row], dense: int, picture: Path) -> None:
    """Draw KL against bytes: a line for the paper's encoding, one refined, one for given sizes, as is and corrected."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=SIZES, default="lite0")
    parser.add_argument("--each", type=int, default=6, help="crops of a photograph")
    parser.add_argument("--plot", type=Path, help="PNG")
    parser.add_argument("--quick", action="store_true", help="two settings alone")
    arguments = parser.parse_args()
    found = Measurement(arguments.network, arguments.each)
    dense = dense_size(found.dense)
    parameters = sum(p.numel() for p in found.dense.state_dict().values() if p.is_floating_point())
    print(f"EfficientNet-{arguments.network.capitalize()}: dense {parameters / 1e6:.2f} M parameters, "
          f"{dense / 1e6:.2f} MB; {len(found.images)} crops of 20 photographs")  # fmt: skip
    print("| setting | statistics | parameters | bytes | KL in nats | agreement % |")
    print("|:--|:--|--:|--:|--:|--:|")
    rows = []
    for row in measure(found, arguments.quick):
        rows.append(row)
        print(row, flush=True)
    if arguments.plot:
        plot(rows, dense, arguments.plot)


def dense_size(model: nn.Module) -> int:
    """The bytes of all tensors of a model."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


if __name__ == "__main__":
    main()

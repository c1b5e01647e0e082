"""The paper's two tables: counts and bytes as tenreo computes them, accuracies as published.

.venv/bin/python benchmarks/paper_tables.py
"""

from __future__ import annotations

from pathlib import Path

from tenreo.models import build
from tenreo.plan import resolve
from tenreo.rates import Uniform
from tenreo.recipe import Recipe, read_config
from tenreo.report import Counts

CONFIGS = Path(__file__).parent.parent / "configs"
# Top-1 and top-5 on ImageNet after one epoch of fine-tuning, from the paper's tables.
PUBLISHED = {
    "resnet50": {
        None: (76.15, 92.87), "g4-progressive-0.125": (76.69, 93.27), "g4-progressive-0.25": (76.53, 93.20),
        "g4-progressive-1.0": (76.16, 92.96), "g8-progressive-0.5": (75.21, 92.36),
        "g8-progressive-1.0": (73.02, 91.37),
    },
    "mobilenet_v2": {
        None: (71.87, 90.29), "g4-progressive-0.25": (71.80, 90.47), "g4-progressive-0.5": (71.70, 90.38),
        "g4-progressive-1.0": (71.51, 90.34), "g4-progressive-2.0": (70.94, 89.89),
        "g4-progressive-4.0": (69.64, 89.18),
    },
}  # fmt: skip


def row(name: str, counts: Counts, top1: float, top5: float) -> str:
    cells = (name, f"{counts.parameters:,}", f"{counts.trainable:,}", f"{counts.bytes / 1e6:.1f} MB",
             f"{top1:.2f}", f"{top5:.2f}")  # fmt: skip
    return f"| {' | '.join(cells)} |"


for arch, published in PUBLISHED.items():
    print(f"\n| {arch} | parameters | trainable | bytes | top-1 % (published) | top-5 % (published) |")
    print("|:--|--:|--:|--:|--:|--:|")
    model = build(arch, device="meta")
    print(row("dense", resolve(Recipe(4, Uniform(2.0)), model).before, *published[None]))
    for setting, accuracy in published.items():
        if setting is not None:
            recipe = read_config(CONFIGS / f"{arch}-{setting}.yaml").recipe()
            counts = resolve(recipe, model).after
            print(row(f"g = {recipe.groups}, r' = {recipe.strength}", counts, *accuracy))

"""Print the paper's two tables: counts and bytes as tenreo computes them, and the published accuracies.

.venv/bin/python benchmarks/paper_tables.py

Every row except the dense one is a recipe in configs/.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from common import parser, row, table

from tenreo.files.counts import Counts
from tenreo.models.builders import build_model
from tenreo.planning.plan import resolve
from tenreo.planning.rates import Progressive, Uniform
from tenreo.planning.recipe import Recipe

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


def show(name: str, counts: Counts, top1: float, top5: float) -> None:
    numbers = (f"{counts.parameters:,}", f"{counts.paper_trainable:,}", f"{counts.bytes / 1e6:.1f} MB")
    row(name, *numbers, f"{top1:.2f}", f"{top5:.2f}")


def main() -> None:
    parser(__doc__).parse_args()
    for arch, published in PUBLISHED.items():
        print()
        table(arch, "parameters", "trainable", "bytes", "top-1 % (published)", "top-5 % (published)")
        model = build_model(f"torchvision:{arch}", device="meta")
        show("dense", resolve(Recipe(4, Uniform(2.0)), model).before, *published[None])
        for setting, accuracy in published.items():
            if setting is not None:
                values = yaml.safe_load((CONFIGS / f"{arch}-{setting}.yaml").read_text())
                recipe = Recipe(values["groups"], Progressive(values["progressive"]))
                show(f"g = {recipe.groups}, r' = {values['progressive']}", resolve(recipe, model).after, *accuracy)


if __name__ == "__main__":
    main()

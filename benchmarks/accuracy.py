"""Top-1 with no fine-tuning: the second table of docs/refinement.md.

.venv/bin/python benchmarks/accuracy.py FOLDER [mobilenet_v2] [resnet18]

Both models are trained on the digits as the demo's is; the dense files in the folder are used again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import tenreo
from tenreo import models
from tenreo.cli.demo import WAYS, percent, train_dense, untrained
from tenreo.data import DIGITS, Images, open_images
from tenreo.header import ModelCard, Preprocess

SETTINGS = {"mobilenet_v2": ((4, 32.0), (8, 4.0), (8, 8.0), (16, 4.0)), "resnet18": ((8, 1.0), (8, 4.0))}
PREPROCESS = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def trained(arch: str, folder: Path, train: Images, val: Images) -> torch.nn.Module:
    path = folder / f"{arch}.safetensors"
    if not path.exists():
        card = ModelCard(arch, 10, DIGITS, PREPROCESS)
        models.save(train_dense(card, train, val, seed=0), path, card)
    return tenreo.load(path).eval()


def main(folder: Path, archs: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    train, val = (open_images(DIGITS, split, PREPROCESS, 10) for split in ("train", "val"))
    images = torch.stack([train[i][0] for i in range(256)])
    for arch in archs or SETTINGS:
        dense = trained(arch, folder, train, val)
        ways = [way for way in WAYS if way != "finetuned"]
        print(f"{arch}, dense {percent(dense, val):.1f}: {', '.join(ways)}; SNR paper, refined", flush=True)
        for groups, growth in SETTINGS[arch]:
            recipe = tenreo.Recipe(groups, tenreo.Progressive(growth))
            top1, _, report, _ = untrained(dense, recipe, PREPROCESS.crop, images, val)
            print(f"| {groups}, {growth:g} |", *(f"{top1[way]:.1f} |" for way in ways),
                  f"{report.snr_unrefined:.2f} | {report.snr:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""How a dense MobileNet-V2 is trained on the digits, and what its compression then costs.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/dense.py [ROW ...]

A row is the number of a setting, from 0; without any, all are trained.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import asdict

import torch
from common import compressed
from torch import nn

import tenreo
from tenreo.models.builders import build_model
from tenreo.training.digits import digits, top1
from tenreo.training.loop import finetune_
from tenreo.training.settings import Settings

WAYS = (
    Settings(epochs=14, batch_size=64, lr=0.1, warmup=2.8, schedule="cosine"),
    Settings(epochs=14, batch_size=32, lr=0.05, warmup=2.8, schedule="cosine", clip=1.0),
    Settings(epochs=12, batch_size=32, lr=0.05, warmup=2.8, schedule="cosine", weight_decay=0.001,
             label_smoothing=0.1),
    Settings(epochs=14, batch_size=64, lr=0.1, warmup=2.8, schedule="cosine", weight_decay=0.005),
    Settings(epochs=12, batch_size=32, lr=0.05, warmup=2.4, schedule="cosine", weight_decay=0.005),
)  # fmt: skip


def learned(model: nn.Module, start: nn.Module) -> float:
    """The share of a weight's energy that is not its start's, averaged over the compressed convolutions."""
    plan = tenreo.resolve(tenreo.Recipe(8, tenreo.Progressive(8.0)), start)
    shares = []
    for layer in plan.compressed:
        if len(layer.shape) == 4:
            now, before = (each.get_submodule(layer.name).weight.flatten() for each in (model, start))
            shares.append(1 - torch.cosine_similarity(now, before, dim=0).item() ** 2)
    return sum(shares) / len(shares)


def main(settings_used: list[Settings]) -> None:
    train, val = digits()
    for settings in settings_used:
        torch.manual_seed(0)
        start = build_model("torchvision:mobilenet_v2", {"num_classes": 10})
        dense = copy.deepcopy(start)
        finetune_(dense, train, val, settings)
        small = compressed(dense, 8, 8.0, refine=0)
        alone = top1(small, val)
        tenreo.match_statistics_(small, dense, size=32)
        what = {k: v for k, v in asdict(settings).items() if v != getattr(Settings(), k)}
        print(f"{what}: dense {top1(dense, val):.1f}, learned {learned(dense, start):.3f}; "
              f"g=8 r'=8 paper {alone:.1f}, matched {top1(small, val):.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main([WAYS[int(i)] for i in sys.argv[1:]] or list(WAYS))

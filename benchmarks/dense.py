"""How a dense MobileNet-V2 is trained on the digits, and what its compression then costs.

.venv/bin/python benchmarks/dense.py
"""

from __future__ import annotations

import copy
from dataclasses import asdict

import torch
from torch import nn

import tenreo
from tenreo import models
from tenreo.cli.demo import percent
from tenreo.data import DIGITS, open_images
from tenreo.finetuning import Settings, finetune_
from tenreo.header import Preprocess

WAYS = (
    Settings(epochs=14, batch_size=64, lr=0.1, warmup=2.8, schedule="cosine"),
    Settings(epochs=14, batch_size=32, lr=0.05, warmup=2.8, schedule="cosine", clip=1.0),
    Settings(epochs=12, batch_size=32, lr=0.05, warmup=2.8, schedule="cosine", weight_decay=0.001,
             label_smoothing=0.1),
    Settings(epochs=14, batch_size=64, lr=0.1, warmup=2.8, schedule="cosine", weight_decay=0.005),
    Settings(epochs=12, batch_size=32, lr=0.05, warmup=2.4, schedule="cosine", weight_decay=0.005),
)  # fmt: skip


def learned(model: nn.Module, start: nn.Module) -> float:
    """The share of a weight's energy that is not its start's, averaged over what is compressed."""
    shares = [
        1 - torch.cosine_similarity(model.get_submodule(x.name).weight.flatten(),
                                    start.get_submodule(x.name).weight.flatten(), dim=0).item() ** 2
        for x in tenreo.resolve(tenreo.Recipe(8, tenreo.Progressive(8.0)), start).compressed
        if len(x.shape) == 4
    ]  # fmt: skip
    return sum(shares) / len(shares)


if __name__ == "__main__":
    preprocess = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    train, val = (open_images(DIGITS, split, preprocess, 10) for split in ("train", "val"))
    for settings in WAYS:
        torch.manual_seed(0)
        start = models.build("mobilenet_v2", 10, "none")
        dense = copy.deepcopy(start)
        finetune_(dense, train, val, settings, device=torch.device("cpu"))
        small = copy.deepcopy(dense)
        tenreo.compress_(small, tenreo.Recipe(8, tenreo.Progressive(8.0), refine=0))
        alone = percent(small, val)
        tenreo.match_statistics_(small, dense, size=32)
        what = {k: v for k, v in asdict(settings).items() if v != getattr(Settings(), k)}
        print(f"{what}: dense {percent(dense, val):.1f}, learned {learned(dense, start):.3f}; "
              f"g=8 r'=8 paper {alone:.1f}, matched {percent(small, val):.1f}", flush=True)  # fmt: skip

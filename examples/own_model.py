"""Compress your own model to a given size, save it, and load it again: python examples/own_model.py

The model is any `nn.Module`; here it is a small classifier with random weights, so no file is downloaded.
"""

import copy

from torch import nn

import tenreo


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 128, 3, stride=2),
        nn.BatchNorm2d(128), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(2048, 10),
    ).eval()  # fmt: skip


dense = build()  # your trained model
model = copy.deepcopy(dense)
recipe = tenreo.Recipe(groups=None, rate=tenreo.TargetSize(60_000))  # bytes of the file, at most
report = tenreo.compress_(model, recipe)  # in place
tenreo.match_statistics_(model, dense, size=32)  # correct BatchNorm; no images are needed
tenreo.save(model, "own_model.safetensors")
loaded = tenreo.load("own_model.safetensors", build())  # fills a model of the same architecture
print(f"{report.before.bytes:,} bytes -> {report.after.bytes:,} bytes, SNR {report.snr:.1f} dB")

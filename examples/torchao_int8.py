"""Run a compressed file with int8 weights of torchao: python examples/torchao_int8.py

Needs torchao (pip install torchao). The file stays small on disk. Loaded and decoded, it is a plain dense model, whose
linear layers torchao rounds to int8, so that they also need a quarter of the memory while the model runs.
"""

import copy

import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import tenreo


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).eval()


def difference(model: nn.Module, other: nn.Module) -> float:
    """Return the error of a model's outputs in percent of those of the other model."""
    with torch.inference_mode():
        error, size = model(inputs) - other(inputs), other(inputs)
    return 100 * (error.norm() / size.norm()).item()


torch.manual_seed(0)
inputs = torch.randn(256, 64)
dense = build()
small = copy.deepcopy(dense)
tenreo.compress_(small, tenreo.Recipe(rate=tenreo.TargetBits(8)))
tenreo.save(small, "int8.safetensors")

decoded = tenreo.expand_(tenreo.load("int8.safetensors", build()))
quantized = copy.deepcopy(decoded)
quantize_(quantized, Int8WeightOnlyConfig())  # in place
print(
    f"error of the outputs: {difference(decoded, dense):.2f} % decoded, {difference(quantized, dense):.2f} % with int8"
)

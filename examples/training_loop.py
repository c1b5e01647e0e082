"""Fine-tune a compressed model in your own training loop: python examples/training_loop.py

A compressed layer remains an `nn.Linear` or `nn.Conv2d`. Its weight is computed from the trainable coefficients of its
curve, so `model.parameters()` and any optimizer work as usual. The data are synthetic.
"""

import copy

import torch
from torch import nn

import tenreo


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return 100 * (model(images).argmax(1) == labels).float().mean().item()


torch.manual_seed(0)
images = torch.randn(512, 64)
labels = torch.randn(64, 10).T @ images.T  # (10, 512): a linear teacher
labels = labels.argmax(0)
dense = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def train(model: nn.Module, steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


train(dense, steps=100, rate=0.01)
model = copy.deepcopy(dense)
tenreo.compress_(model, tenreo.Recipe(groups=4, rate=tenreo.Uniform(16.0)))
before = accuracy(model, images, labels)
train(model, steps=50, rate=0.01)
print(f"dense {accuracy(dense, images, labels):.1f} %, compressed {before:.1f} %, "
      f"fine-tuned {accuracy(model, images, labels):.1f} %")  # fmt: skip

"""Compile a compressed model with torch.compile: python examples/compiled.py

torch.compile needs a C++ compiler on a CPU. To serve, decode once with `tenreo.expand_` and compile the dense model; to
fine-tune, compile the compressed model itself, whose weights are then decoded in the compiled code.
"""

import copy

import torch
from torch import nn

import tenreo

torch.manual_seed(0)
inputs = torch.randn(256, 64)
dense = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
small = copy.deepcopy(dense)
tenreo.compress_(small, tenreo.Recipe(groups=4, rate=tenreo.Uniform(32.0)))

served = torch.compile(tenreo.expand_(copy.deepcopy(small)).eval())
with torch.inference_mode():
    difference = (served(inputs) - small(inputs)).abs().max().item()

trained = torch.compile(small)
optimizer = torch.optim.Adam(small.parameters(), lr=0.001)
with torch.no_grad():
    targets = dense(inputs)
losses = []
for _ in range(20):
    loss = nn.functional.mse_loss(trained(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"largest difference after compiling: {difference:.0e}; loss {losses[0]:.4f} -> {losses[-1]:.4f}")

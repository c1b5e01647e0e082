"""Fine-tune a compressed model with Accelerate: accelerate launch examples/accelerate_training.py

Needs Accelerate (pip install accelerate). The model is compressed before `prepare` wraps it; `unwrap_model` returns it
for `tenreo.save`. The data are synthetic: the model learns the outputs of the dense one.
"""

import copy

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tenreo

torch.manual_seed(0)
dense = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
small = copy.deepcopy(dense)
tenreo.compress_(small, tenreo.Recipe(groups=4, rate=tenreo.Uniform(32.0)))
inputs = torch.randn(512, 64)
with torch.no_grad():
    data = TensorDataset(inputs, dense(inputs))

accelerator = Accelerator(cpu=True)  # without cpu=True: the devices that `accelerate config` was told
optimizer = torch.optim.Adam(small.parameters(), lr=0.001)
model, optimizer, loader = accelerator.prepare(small, optimizer, DataLoader(data, batch_size=64, shuffle=True))
losses = []
for _ in range(3):
    total = 0.0
    for batch, targets in loader:
        loss = nn.functional.mse_loss(model(batch), targets)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        total += loss.item()
    losses.append(total / len(loader))
if accelerator.is_main_process:
    tenreo.save(accelerator.unwrap_model(model), "accelerate.safetensors")
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")

"""Fine-tune a compressed model with Lightning: python examples/lightning_training.py

Needs Lightning (pip install lightning). A compressed model is a part of the LightningModule like any other. The data
are synthetic: the model learns the outputs of the dense one.
"""

import copy

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tenreo


class Distillation(lightning.LightningModule):
    """Trains a model to reproduce targets."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []  # of all steps

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        loss = nn.functional.mse_loss(self.model(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=0.001)


torch.manual_seed(0)
dense = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
small = copy.deepcopy(dense)
tenreo.compress_(small, tenreo.Recipe(groups=4, rate=tenreo.Uniform(32.0)))
inputs = torch.randn(512, 64)
with torch.no_grad():
    data = TensorDataset(inputs, dense(inputs))

training = Distillation(small)
trainer = lightning.Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
trainer.fit(training, DataLoader(data, batch_size=64, shuffle=True))
tenreo.save(training.model, "lightning.safetensors")
first, last = (sum(losses) / 8 for losses in (training.losses[:8], training.losses[-8:]))  # epochs of 8 steps
print(f"loss {first:.4f} -> {last:.4f}")

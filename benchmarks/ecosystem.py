"""Use compressed models with other libraries, and compare the results with those of plain torch.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/ecosystem.py [NAME ...]

Every case trains, copies or runs a small compressed model with another library and compares the result with the result
of plain torch, or saves the model and loads it again. Cases whose library is not installed are reported as such. All
cases together need lightning, accelerate and transformers.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import parser, row, table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tenreo

RECIPE = tenreo.Recipe(4, tenreo.Uniform(4.0), refine=0)
X = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(32) % 10
STEPS = 4


def dense() -> nn.Module:
    """Return a dense model of three linear layers, two of which the recipe compresses."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def small() -> nn.Module:
    """Return the compressed model."""
    model = dense()
    tenreo.compress_(model, RECIPE)
    return model


def batches() -> DataLoader[Any]:
    """Return a loader that yields the same batches in the same order every time."""
    return DataLoader(TensorDataset(X, Y), batch_size=32 // STEPS)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that all cases use."""
    return torch.optim.SGD(model.parameters(), 0.1)


def trained() -> nn.Module:
    """Return the compressed model after one epoch with plain torch."""
    model = small()
    optimizer = sgd(model)
    for x, y in batches():
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def compare(model: nn.Module, steps: str) -> str:
    """Save a trained model, load it, and compare its outputs with those of the model that plain torch trained.

    Args:
        model: a trained compressed model.
        steps: description of what was done with the model.

    Returns:
        A cell of the table, with the description and the largest difference.
    """
    expected = trained()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "m.safetensors"
        tenreo.save(model, path)
        difference = (tenreo.load(path, dense())(X) - expected(X)).abs().max().item()
    assert difference < 1e-5, f"{steps}: the outputs differ by {difference:.1g}"
    return f"{steps}; after saving and loading, the outputs differ from plain torch's by {difference:.0e}"


def functional_call() -> str:
    """Call a model with the parameters of another one by torch.func.functional_call."""
    model, other = small(), trained()
    output = torch.func.functional_call(model, dict(other.named_parameters()), (X,))
    assert torch.equal(output, other(X)) and not torch.equal(output, model(X))
    return "the coefficients of another model give the outputs of that model"


def gradients_per_sample() -> str:
    """Compute the gradient of every sample of a batch by vmap(grad)."""
    model = small()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, values, (x[None],)), y[None])

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, X, Y)
    F.cross_entropy(model(X), Y).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name].mean(0), parameter.grad, atol=1e-5, rtol=1e-4)
    return "the mean of the gradients of all samples is the gradient of the batch"


def lightning() -> str:
    """Train one epoch with Lightning's Trainer, and load its checkpoint."""
    import lightning as L

    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self)

    module = Module()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(module, batches())
        trainer.save_checkpoint(f"{folder}/last.ckpt")
        again = Module.load_from_checkpoint(f"{folder}/last.ckpt", weights_only=False)
    assert torch.equal(again.net(X), module.net(X))
    return compare(module.net, "an epoch, a checkpoint")


def accelerate() -> str:
    """Train one epoch with Accelerate, and restore the state that it saved."""
    from accelerate import Accelerator

    helper = Accelerator(cpu=True)
    model, optimizer, data = helper.prepare(*(lambda m: (m, sgd(m), batches()))(small()))
    for x, y in data:
        helper.backward(F.cross_entropy(model(x), y))
        optimizer.step()
        optimizer.zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        helper.save_state(folder)
        before = model(X).detach()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        helper.load_state(folder)
    assert torch.equal(model(X), before)
    return compare(helper.unwrap_model(model), "an epoch, save_state and load_state")


class Named(nn.Module):
    """The model in the form that the Trainer of transformers accepts: named arguments, and the loss as an output."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss and the logits of inputs (batch, 64) and labels (batch,)."""
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def huggingface() -> str:
    """Train one epoch with transformers.Trainer, and load its checkpoint."""
    from transformers import Trainer, TrainingArguments

    model = Named()
    rows = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=32 // STEPS, learning_rate=0.1, optim="sgd",
            lr_scheduler_type="constant", max_grad_norm=0, report_to=[], use_cpu=True, disable_tqdm=True,
            save_strategy="epoch", logging_strategy="no", train_sampling_strategy="sequential",
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train()  # type: ignore[arg-type]
        (checkpoint,) = Path(folder).glob("checkpoint-*/model.safetensors")
        from safetensors.torch import load_file

        again = Named()
        again.load_state_dict(load_file(checkpoint))
    assert torch.equal(again.net(X), model.net(X))
    return compare(model.net, "an epoch, a checkpoint")


def sharded() -> str:
    """Train with fully_shard on two processes, and compare the saved file with the full state dict."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", __file__, "--shard", folder]
        environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
        both = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
        assert [each.wait() for each in both] == [0, 0]
        model = small()
        model.load_state_dict(torch.load(f"{folder}/full.pth"))
        with torch.no_grad():
            again = tenreo.load(f"{folder}/m.safetensors", dense())(X)
            assert torch.equal(again, model(X)), "the file differs from the full state dict"
    return compare(model, "four steps on two processes, tenreo.save of the sharded model")


def shard(folder: str) -> None:
    """Train the model in one of the two processes, and save it to the folder."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    model = small()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer, rank = sgd(model), torch.distributed.get_rank()
    for x, y in batches():
        F.cross_entropy(model(x[rank::2]), y[rank::2]).backward()
        optimizer.step()
        optimizer.zero_grad()
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        torch.save(full, f"{folder}/full.pth")
    tenreo.save(model, f"{folder}/m.safetensors")
    torch.distributed.destroy_process_group()


def copies() -> str:
    """Copy a model by deepcopy, and average weights by AveragedModel."""
    model = trained()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(trained())
    assert torch.equal(copy.deepcopy(model)(X), model(X))
    return compare(averaged, "a copy gives equal outputs; the average of two equal models")


CASES: dict[str, Callable[[], str]] = {
    "copy.deepcopy, AveragedModel": copies, "torch.func.functional_call": functional_call,
    "torch.func.vmap(grad)": gradients_per_sample, "fully_shard (FSDP2)": sharded, "lightning": lightning,
    "accelerate": accelerate, "transformers.Trainer": huggingface,
}  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--shard"]:
        shard(sys.argv[2])
        sys.exit()
    options = parser(__doc__)
    options.add_argument("names", nargs="*", help="parts of the names of the cases to run; default: all cases")
    names = options.parse_args().names
    warnings.simplefilter("ignore")
    table("library", "result", text=2)
    for name, case in CASES.items():
        if not names or any(each in name for each in names):
            try:
                row(name, case())
            except ImportError as error:
                row(name, f"not installed: {error.name}")
            except Exception as error:
                row(name, f"{type(error).__name__}: {str(error)[:300]}")

"""Fine-tune a tiny compressed network on a folder of digits, as a process of its own that can be killed.

python tests/tiny_run.py DATA FOLDER [--resume] [--batch 16] [--slow]
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import typer
from torch import nn

import tenreo
from tenreo.cli.common import guarded
from tenreo.cli.stopping import stoppable
from tenreo.data import open_images
from tenreo.distributed import joined
from tenreo.finetuning import Settings, finetune_
from tenreo.header import Preprocess
from tenreo.runlog import RunLog

SMALL = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CPU = torch.device("cpu")


def network():
    """Without BatchNorm and dropout: several processes can then equal one."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 64, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("2", "6"), refine=1))
    return net


@guarded
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--slow", action="store_true", help="leave time to be killed in")
    a = parser.parse_args()
    train = open_images(a.data, "train", SMALL, 10, "standard")
    val = open_images(a.data, "val", SMALL, 10)
    settings = Settings(epochs=2, batch_size=a.batch, lr=0.1, save_every=3, ema=0.9, schedule="cosine")
    net = network()
    log = RunLog(a.folder / "run.csv", a.resume)

    def on_step(step):
        log.step(step)
        if a.slow:
            time.sleep(0.05)

    def on_epoch(epoch, best):
        tenreo.save(net, a.folder / "last.safetensors")
        log.epoch(epoch)

    with joined(CPU) as group, stoppable() as stop:
        history = finetune_(
            net, train, val, settings, device=CPU, group=group, state=a.folder / "run.state",
            resume=a.resume, stopping=stop,
            progress=on_step if group.writes else None, on_epoch=on_epoch if group.writes else None,
        )  # fmt: skip
        if group.writes:
            tenreo.save(net, a.folder / "done.safetensors")
            print(*(f"{e.train_loss:.8f} {e.loss:.8f} {e.top1:.4f}" for e in history), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as end:
        sys.exit(end.exit_code)

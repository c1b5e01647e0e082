"""Fine-tune a tiny compressed network on a folder of digits, in a separate process that tests can kill.

python tests/tiny_run.py DATA FOLDER [--resume] [--batch 16] [--accumulate 1] [--lr 0.1] [--slow] [--pause 5]
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import typer
from networks import without_batchnorm

import tenreo
from tenreo.cli.exits import exit_codes
from tenreo.cli.terminal.stopping import stoppable
from tenreo.data.images import open_images
from tenreo.distributed import process_group
from tenreo.files.records import Preprocess
from tenreo.training.log import RunLog
from tenreo.training.loop import finetune_
from tenreo.training.observer import Observer
from tenreo.training.settings import Settings
from tenreo.training.state import StateFile
from tenreo.training.trainer import Resources

SMALL = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CPU = torch.device("cpu")


class Writer(Observer):
    """Logs and saves in the main process, and stops on request."""

    def __init__(self, net, folder, log, stop, options, is_main):
        self.net, self.folder, self.log, self.stop, self.options, self.is_main = (
            net,
            folder,
            log,
            stop,
            options,
            is_main,
        )

    def on_step(self, step):
        if self.is_main:
            self.log.step(step)
            if self.options.slow:
                time.sleep(0.05)
            while step.step == self.options.pause and not self.stop():
                time.sleep(0.01)

    def on_epoch(self, epoch, is_best):
        if self.is_main:
            tenreo.save(self.net, self.folder / "last.safetensors")
            self.log.epoch(epoch)

    def should_stop(self):
        return self.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument(
        "--slow", action="store_true", help="wait after every step, so that a test can kill the process"
    )
    parser.add_argument("--pause", type=int, help="wait after this step of an epoch until the run is asked to stop")
    a = parser.parse_args()
    train = open_images(a.data, "train", SMALL, 10, "standard")
    val = open_images(a.data, "val", SMALL, 10)
    settings = Settings(
        epochs=2, batch_size=a.batch, accumulate=a.accumulate, lr=a.lr, save_every=3, ema=0.9, schedule="cosine"
    )  # fmt: skip
    net = without_batchnorm()
    log = RunLog(a.folder / "run.csv", a.resume)
    with process_group(CPU) as group, stoppable() as stop:
        history = finetune_(
            net, train, val, settings, resources=Resources(CPU, 0, group),
            state=StateFile(a.folder / "run.state", a.resume),
            observer=Writer(net, a.folder, log, stop, a, group.is_main),
        )  # fmt: skip
        if group.is_main:
            tenreo.save(net, a.folder / "done.safetensors")
            print(*(f"{e.train_loss:.8f} {e.loss:.8f} {e.top1:.4f}" for e in history[1:]), sep="\n")


if __name__ == "__main__":
    try:
        with exit_codes(typer.Context(typer.core.TyperCommand("tiny_run"))):
            main()
    except typer.Exit as end:
        sys.exit(end.exit_code)

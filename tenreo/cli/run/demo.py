"""`tenreo demo`: train, compress and fine-tune a model on handwritten digits, without internet access."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tenreo.cli.commands.compress import default_name
from tenreo.cli.commands.demo import DemoOutput
from tenreo.cli.run.compression import Compressed, Compression, compress_with_progress_
from tenreo.cli.terminal.console import show, show_command, show_json
from tenreo.cli.terminal.progress import Bar, doing, progress_bar
from tenreo.cli.terminal.results import next_command
from tenreo.cli.terminal.tables import number, table
from tenreo.correction.statistics import match_statistics_
from tenreo.data.batches import Batches, Loading
from tenreo.data.images import Images
from tenreo.evaluation.agreement import compare
from tenreo.models.model_files import save
from tenreo.planning.rates import Progressive, TargetFraction
from tenreo.planning.recipe import Recipe
from tenreo.sizes import byte_count
from tenreo.training import digits
from tenreo.training.loop import finetune_
from tenreo.training.observer import Observer, Step
from tenreo.training.settings import Settings

ARCH = "mobilenet_v2"
BY_SIZE, BY_RATE = Recipe(None, TargetFraction(0.1)), Recipe(8, Progressive(8.0))
PAPER = replace(BY_RATE, refine=0)
_TRAINING, _SIZE, _PAPER, _RATE, _TUNING = 56, 13, 3, 20, 8  # percent of the time, about
_EXPLAINED = (
    "paper: -g 8 -r 8 --progressive --refine 0 --no-match-statistics; refined: the same without the last two options.",
    "Only the fine-tuned model was trained after compression, for one epoch.",
)


def run_demo(output: DemoOutput) -> None:
    """Train a model, compress it to a size and with the paper's rates, fine-tune it, and print the results."""
    doing("reading the digits")
    train, val = digits.digits()
    output.out.mkdir(parents=True, exist_ok=True)
    with progress_bar("demo", 100) as bar:
        rows = _Demo(output.out, output.seed, train, val, bar).run()
    if output.json:
        show_json("demo", {"folder": str(output.out), "rows": rows})
        return
    cells = [
        (r["model"], byte_count(r["bytes"]), f"{rows[0]['bytes'] / r['bytes']:.1f}", number(r["top1"], 1),
         number(r["agreement"], 1))
        for r in rows
    ]  # fmt: skip
    show(f"MobileNet-V2 on {len(val)} handwritten digits that it was not trained on:")
    show(table("", ("model", "file", "times\nsmaller", "correct\nin %", "same answer as\nthe dense in %"), cells))
    show(*_EXPLAINED, f"The models are in {output.out}.")
    show_command(next_command("inspect", output.out / default_name(ARCH, BY_SIZE)))


@dataclass
class _ProgressObserver(Observer):
    """Moves a progress bar with every step of a run."""

    advance: Callable[..., None]

    def on_step(self, step: Step) -> None:
        """Add the images of the step."""
        self.advance(step.images, f"loss {step.loss:.3f}")


@dataclass
class _Demo:
    """Folder, seed, data and bar of the demo."""

    folder: Path
    seed: int
    train: Images
    val: Images
    bar: Bar

    def run(self) -> list[dict[str, Any]]:
        """Make all models; return a row of results for each."""
        file, info = self.folder / "dense.safetensors", digits.digits_info(ARCH)
        images = digits.EPOCHS * len(self.train)
        observer = _ProgressObserver(self.bar.stage("training", _TRAINING, images))
        dense = digits.train_digits(ARCH, self.seed, observer, quick=True)
        save(dense, file, info)
        rows = [self._row("dense", dense, dense, file.stat().st_size)]

        def add(name: str, done: Compressed, path: Path | None, recipe: Recipe) -> None:
            if path is not None:
                save(done.model, path, replace(info, weights=file.name, corrections=done.corrections), recipe)
            size = done.report.after.bytes if path is None else path.stat().st_size
            rows.append(self._row(name, done.model, dense, size))

        small = self._compressed("compressing to a tenth", _SIZE, dense, BY_SIZE)
        add("--target-size 10x", small, self.folder / default_name(ARCH, BY_SIZE), small.plan.recipe)
        add("paper", self._compressed("compressing as in the paper", _PAPER, dense, PAPER), None, PAPER)
        refined, path = self._compressed("refining", _RATE, dense, BY_RATE), self.folder / default_name(ARCH, BY_RATE)
        add("refined", refined, path, BY_RATE)
        observer = _ProgressObserver(self.bar.stage("fine-tuning", _TUNING, len(self.train)))
        settings = Settings(epochs=1, batch_size=64, lr=0.005, seed=self.seed, channels_last=True)
        finetune_(refined.model, self.train, self.val.limited(64), settings, observer=observer)  # `_row` measures all
        add("refined and fine-tuned", refined, path.with_name(f"finetuned-{path.name}"), BY_RATE)
        self.bar(done=100)
        return rows

    def _compressed(self, title: str, share: float, dense: nn.Module, recipe: Recipe) -> Compressed:
        """Return a compressed copy of the dense model; the paper's method corrects no statistics."""
        advance, small, side = self.bar.stage(title, share, total=1), deepcopy(dense), digits.PREPROCESS.crop
        job = Compression(small, digits.digits_info(ARCH), side)
        plan = job.with_importance(job.plan(recipe))
        report = compress_with_progress_(small, plan, None, advance)
        corrections = () if recipe is PAPER else (match_statistics_(small, dense, size=side),)
        return Compressed(small, plan, report, corrections)

    def _row(self, name: str, model: nn.Module, dense: nn.Module, size: int) -> dict[str, Any]:
        found = compare(model, dense, Batches(self.val, Loading(256), torch.device("cpu")))
        return {"model": name, "bytes": size, "top1": found.top1, "agreement": found.agreement, "kl": found.kl}

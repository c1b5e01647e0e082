"""`tenreo demo`: train, compress and fine-tune a model on handwritten digits, without internet access."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenreo.cli.commands.compress import default_name
from tenreo.cli.commands.demo import DemoOutput
from tenreo.cli.terminal.console import note, progress_bar, show, show_command, show_json
from tenreo.cli.terminal.results import next_command
from tenreo.cli.terminal.tables import number, table
from tenreo.data.images import Images
from tenreo.files.header import read_header
from tenreo.models.model_files import open_model, save
from tenreo.planning.rates import Progressive
from tenreo.planning.recipe import Recipe
from tenreo.sizes import byte_count, quantity
from tenreo.training import digits
from tenreo.training.digits import METHODS, top1
from tenreo.training.loop import finetune_
from tenreo.training.observer import Observer, Step
from tenreo.training.settings import Settings

ARCH = "mobilenet_v2"
SETTINGS = ((4, 1.0), (4, 32.0), (8, 4.0), (8, 8.0))  # (groups, growth)
COLUMNS = {**METHODS, "finetuned": "fine-\ntuned"}  # this column is the only one that needs labels


def run_demo(output: DemoOutput) -> None:
    """Train a model, compress it with every setting and method, fine-tune it, and print the results."""
    folder = output.out
    train, val = digits.digits()
    folder.mkdir(parents=True, exist_ok=True)
    dense = folder / "dense.safetensors"
    with _progress(f"train {ARCH}", digits.EPOCHS * len(train)) as observer:
        model = digits.train_digits(ARCH, output.seed, observer)
    save(model, dense, digits.digits_info(ARCH))
    rows = [{"groups": None, "growth": None, **_counts(dense), **dict.fromkeys(COLUMNS), "dense": top1(model, val)}]
    for groups, growth in SETTINGS:
        rows.append(_run_setting(dense, Recipe(groups, Progressive(growth)), train, val, output.seed))
    if output.json:
        show_json("demo", {"folder": str(folder), "rows": rows})
        return
    _show(rows)
    groups, growth = SETTINGS[0]
    example = folder / default_name(ARCH, Recipe(groups, Progressive(growth)))
    show(f"files are in {folder}")
    show_command(next_command("inspect", example))


@dataclass
class _ProgressObserver(Observer):
    """Moves a progress bar with every step of a run."""

    advance: Callable[..., None]

    def on_step(self, step: Step) -> None:
        """Add the images of the step."""
        self.advance(step.images, f"loss {step.loss:.3f}")


@contextmanager
def _progress(title: str, images: int) -> Iterator[_ProgressObserver]:
    note(title)
    with progress_bar(title, images) as advance:
        yield _ProgressObserver(advance)


def _run_setting(dense: Path, recipe: Recipe, train: Images, val: Images, seed: int) -> dict[str, Any]:
    """Compare the compression methods, fine-tune the default one, and save its model before and after."""
    original, header = open_model(dense)
    comparison = digits.compare_methods(original, recipe, digits.calibration_images(train), val)
    info = replace(header.info, weights=dense.name, corrections=(comparison.correction,))
    path = dense.parent / default_name(ARCH, recipe)
    save(comparison.model, path, info, recipe)
    settings = Settings(epochs=1, batch_size=64, lr=0.005, seed=seed)
    growth = recipe.rate.number
    with _progress(f"fine-tune g={recipe.groups}, r'={growth:g}", len(train)) as observer:
        history = finetune_(comparison.model, train, val, settings, observer=observer)
    save(comparison.model, path.with_name(f"finetuned-{path.name}"), info, recipe)
    report, agreement = comparison.report, comparison.agreement
    return {
        "groups": recipe.groups, "growth": growth, **_counts(path), "snr": report.snr,
        "snr_unrefined": report.snr_unrefined, **comparison.top1, "agreement": agreement.agreement,
        "kl": agreement.kl, "finetuned": history[-1].top1,
    }  # fmt: skip


def _counts(path: Path) -> dict[str, int]:
    header = read_header(path)
    counts = header.counts()
    return {"parameters": counts.parameters, "paper_trainable": counts.paper_trainable, "bytes": header.size}


def _show(rows: list[dict[str, Any]]) -> None:
    cells = [
        (f"{r['groups']}, {r['growth']:g}" if r["groups"] else "dense", quantity(r["parameters"]),
         byte_count(r["bytes"]), *(number(r[way], 1) for way in COLUMNS), number(r.get("kl"), 3))
        for r in rows
    ]  # fmt: skip
    show(f"Top-1 in % of MobileNet-V2 on 360 handwritten digits; dense: {number(rows[0]['dense'])}.")
    show("Only the fine-tuned models were trained after compression.")
    show(table("", ("g, r'", "para-\nmeters", "bytes", *COLUMNS.values(), "KL\nrefined\n+noise"), cells, text=0))

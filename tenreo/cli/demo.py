"""`tenreo demo`: the whole path on real images, without a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenreo.cli.common import Force, Json, note, progress_bar, show, show_json
from tenreo.errors import TenreoError

if TYPE_CHECKING:
    from torch import nn

    from tenreo.data import Images
    from tenreo.header import ModelCard
    from tenreo.recipe import Recipe

SETTINGS = ((4, 1.0), (4, 32.0), (8, 4.0), (8, 8.0))  # (groups, growth)
DENSE_EPOCHS, DENSE_LR = 7, 0.05


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("tenreo-demo"),
    seed: Annotated[int, typer.Option(help="Of weights and the order of images.")] = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train MobileNet-V2 on 1,437 handwritten digits, compress it, fine-tune one epoch, compare."""
    if out.exists() and any(out.iterdir()) and not force:
        raise TenreoError(f"{out}: exists already and is not empty; say --force, or another --out")
    out.mkdir(parents=True, exist_ok=True)

    from tenreo import models
    from tenreo.data import DIGITS, open_images
    from tenreo.header import ModelCard, Preprocess
    from tenreo.recipe import Progressive, Recipe

    preprocess = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    card = ModelCard("mobilenet_v2", 10, "digits", preprocess)
    train, val = (open_images(DIGITS, split, preprocess, 10) for split in ("train", "val"))
    dense = out / "dense.safetensors"
    model = _train_dense(card, train, val, seed)
    models.save(model, dense, card)
    rows = [{"setting": "dense", **_counts(dense), "top1_before": _top1(model, val), "top1_after": None}]
    for groups, growth in SETTINGS:
        rows.append(_one_setting(dense, Recipe(groups, Progressive(growth)), out, train, val, seed))
    if json:
        show_json({"folder": str(out), "rows": rows})
        return
    _show(rows)
    show(
        f"files are in {out}; try: tenreo inspect {out}/compressed-mobilenet_v2-progressive-4-1.0.safetensors"
    )


def _train_dense(card: ModelCard, train: Images, val: Images, seed: int) -> nn.Module:
    import torch

    from tenreo import finetuning, models

    torch.manual_seed(seed)
    model = models.build(card.arch or "", card.classes or 10, "none")
    # Then one epoch at a tenth of the rate: it is what settles the BatchNorm statistics.
    for epochs, lr, text in ((DENSE_EPOCHS, DENSE_LR, "dense"), (1, DENSE_LR / 10, "dense, slower")):
        settings = finetuning.Settings(epochs=epochs, batch_size=64, lr=lr, seed=seed)
        _train(model, train, val, settings, f"train {text}")
    return model


def _train(model: nn.Module, train: Images, val: Images, settings: Any, title: str) -> float:
    import torch

    from tenreo.finetuning import finetune_

    note(title)
    with progress_bar(title, settings.epochs * len(train)) as advance:
        history = finetune_(
            model, train, val, settings, device=torch.device("cpu"),
            progress=lambda epoch, images, loss: advance(images, f"loss {loss:.3f}"),
        )  # fmt: skip
    return history[-1].top1


def _one_setting(
    dense: Path, recipe: Recipe, out: Path, train: Images, val: Images, seed: int
) -> dict[str, Any]:
    from tenreo import finetuning, models
    from tenreo.cli.compress import default_name, run_plan
    from tenreo.plan import resolve

    model, header = models.open_model(dense)
    card = replace(header.card, weights=dense.name)
    plan = resolve(recipe, model)
    report = run_plan(model, plan, None)
    name = default_name(card.arch or "", recipe)
    path = out / name
    models.save(model, path, card, recipe)
    before = _top1(model, val)
    settings = finetuning.Settings(epochs=1, batch_size=64, lr=0.005, seed=seed)
    after = _train(model, train, val, settings, f"fine-tune g={recipe.groups}, r'={recipe.strength:g}")
    models.save(model, out / f"finetuned-{name}", card, recipe)
    return {
        "setting": f"g={recipe.groups}, r'={recipe.strength:g}", **_counts(path), "snr": report.snr,
        "top1_before": before, "top1_after": after,
    }  # fmt: skip


def _counts(path: Path) -> dict[str, int]:
    from tenreo.header import read_header

    header = read_header(path)
    counts = header.counts()
    return {"parameters": counts.parameters, "trainable": counts.trainable, "bytes": header.size}


def _top1(model: nn.Module, val: Images) -> float:
    import torch

    from tenreo.data import Batches
    from tenreo.evaluation import evaluate

    return evaluate(model, Batches(val, 256, torch.device("cpu"))).top1


def _show(rows: list[dict[str, Any]]) -> None:
    from tenreo.tables import megabytes, millions, number, table

    columns = ("setting", "parameters", "trainable", "bytes", "top-1 before", "top-1 after")
    cells = [
        (r["setting"], millions(r["parameters"]), millions(r["trainable"]), megabytes(r["bytes"]),
         number(r["top1_before"]), number(r["top1_after"]))
        for r in rows
    ]  # fmt: skip
    show(
        table(
            "MobileNet-V2 on 360 handwritten digits; top-1 in %, after one epoch of fine-tuning",
            columns,
            cells,
            text=0,
        )
    )

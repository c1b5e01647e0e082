"""`tenreo demo`: the whole path on real images, without a network."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenreo.cli.common import Force, Json, note, progress_bar, show, show_json
from tenreo.errors import TenreoError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tenreo.data import Images
    from tenreo.header import ModelCard
    from tenreo.recipe import Recipe
    from tenreo.report import Correction, Report

SETTINGS = ((4, 1.0), (4, 32.0), (8, 4.0), (8, 8.0))  # (groups, growth)
DENSE_EPOCHS = 12
# How a compressed model is repaired: key, heading, the last one with a label for every image.
WAYS = {
    "paper": "paper", "paper_noise": "paper\n+noise", "refined": "re-\nfined",
    "refined_noise": "re-\nfined\n+noise", "refined_calibrated": "re-\nfined\n+calib",
    "finetuned": "fine-\ntuned",
}  # fmt: skip


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
    from tenreo.rates import Progressive
    from tenreo.recipe import Recipe

    preprocess = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    card = ModelCard("mobilenet_v2", 10, "digits", preprocess)
    train, val = (open_images(DIGITS, split, preprocess, 10) for split in ("train", "val"))
    dense = out / "dense.safetensors"
    model = train_dense(card, train, val, seed)
    models.save(model, dense, card)
    rows = [
        {
            "groups": None,
            "growth": None,
            **_counts(dense),
            **dict.fromkeys(WAYS),
            "dense": percent(model, val),
        }
    ]
    for groups, growth in SETTINGS:
        rows.append(_one_setting(dense, Recipe(groups, Progressive(growth)), out, train, val, seed))
    if json:
        show_json({"folder": str(out), "rows": rows})
        return
    _show(rows)
    show(
        f"files are in {out}; try: tenreo inspect {out}/compressed-mobilenet_v2-progressive-4-1.0.safetensors"
    )


def train_dense(card: ModelCard, train: Images, val: Images, seed: int) -> nn.Module:
    """Train a model that can be compressed.

    With the usual weight decay, a fiftieth of this, models did not survive compression (docs/refinement.md): few
    steps from a random start leave what was learned a small part of the weights. A rate that ends at 0 settles the BatchNorm statistics.
    """
    import torch

    from tenreo import finetuning, models

    torch.manual_seed(seed)
    model = models.build(card.arch or "", card.classes or 10, "none")
    settings = finetuning.Settings(
        epochs=DENSE_EPOCHS, batch_size=32, lr=0.05, weight_decay=0.005, seed=seed,
        schedule="cosine", warmup=0.2 * DENSE_EPOCHS,
    )  # fmt: skip
    _train(model, train, val, settings, f"train {card.arch}")
    return model


def _train(model: nn.Module, train: Images, val: Images, settings: Any, title: str) -> float:
    import torch

    from tenreo.finetuning import finetune_

    note(title)
    with progress_bar(title, settings.epochs * len(train)) as advance:
        history = finetune_(
            model, train, val, settings, device=torch.device("cpu"),
            progress=lambda step: advance(step.images, f"loss {step.loss:.3f}"),
        )  # fmt: skip
    return history[-1].top1


def untrained(
    model: nn.Module, recipe: Recipe, size: int, images: Tensor, val: Images
) -> tuple[dict[str, float], nn.Module, Report, Correction]:
    """Compress a model in every way that needs no label.

    Args:
        model: dense; stays as it is.
        recipe: with the rounds of the refined columns.
        size: side of the model's input in pixels.
        images: (batch, 3, size, size) to calibrate on.
        val: images to evaluate on.

    Returns:
        Top-1 in % by way; and what `compress` makes by default: model, report, correction.
    """
    from tenreo.cli.compress import run_plan
    from tenreo.plan import resolve
    from tenreo.statistics import calibrate_, match_statistics_

    paper, refined = deepcopy(model), deepcopy(model)
    run_plan(paper, resolve(replace(recipe, refine=0), paper), None)
    top1 = {"paper": percent(paper, val)}
    match_statistics_(paper, model, size=size)
    top1["paper_noise"] = percent(paper, val)
    report = run_plan(refined, resolve(recipe, refined), None)
    top1["refined"] = percent(refined, val)
    calibrated = deepcopy(refined)
    calibrate_(calibrated, [images])
    correction = match_statistics_(refined, model, size=size)
    top1 |= {"refined_noise": percent(refined, val), "refined_calibrated": percent(calibrated, val)}
    return top1, refined, report, correction


def _one_setting(
    dense: Path, recipe: Recipe, out: Path, train: Images, val: Images, seed: int
) -> dict[str, Any]:
    import torch

    from tenreo import finetuning, models
    from tenreo.cli.compress import default_name

    original, header = models.open_model(dense)
    images = torch.stack([train[i][0] for i in range(256)])  # type: ignore[index]
    top1, model, report, correction = untrained(original, recipe, header.card.preprocess.crop, images, val)
    card = replace(header.card, weights=dense.name, corrections=(correction,))
    name = default_name(card.arch or "", recipe)
    path = out / name
    models.save(model, path, card, recipe)
    settings = finetuning.Settings(epochs=1, batch_size=64, lr=0.005, seed=seed)
    top1["finetuned"] = _train(
        model, train, val, settings, f"fine-tune g={recipe.groups}, r'={recipe.strength:g}"
    )
    models.save(model, out / f"finetuned-{name}", card, recipe)
    return {
        "groups": recipe.groups, "growth": recipe.strength, **_counts(path), "snr": report.snr,
        "snr_unrefined": report.snr_unrefined, **top1,
    }  # fmt: skip


def _counts(path: Path) -> dict[str, int]:
    from tenreo.header import read_header

    header = read_header(path)
    counts = header.counts()
    return {"parameters": counts.parameters, "trainable": counts.trainable, "bytes": header.size}


def percent(model: nn.Module, val: Images) -> float:
    import torch

    from tenreo.data import Batches
    from tenreo.evaluation import evaluate

    return evaluate(model, Batches(val, 256, torch.device("cpu"))).top1


def _show(rows: list[dict[str, Any]]) -> None:
    from tenreo.tables import megabytes, millions, number, table

    cells = [
        (f"{r['groups']}, {r['growth']:g}" if r["groups"] else "dense", millions(r["parameters"]), megabytes(r["bytes"]),
         *(number(r[way], 1) for way in WAYS))
        for r in rows
    ]  # fmt: skip
    title = (
        f"MobileNet-V2 on 360 handwritten digits; top-1 in %, dense {number(rows[0]['dense'])};\n"
        "all but the last column without training"
    )
    show(table(title, ("g, r'", "para-\nmeters", "bytes", *WAYS.values()), cells, text=0))

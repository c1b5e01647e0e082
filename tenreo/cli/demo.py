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
DENSE_EPOCHS = 14
# How a compressed model is repaired: key, heading, the last one with a label for every image.
WAYS = {
    "paper": "paper", "paper_noise": "paper\n+noise", "refined": "refined",
    "refined_noise": "refined\n+noise", "refined_calibrated": "refined\n+calibr.", "finetuned": "fine-\ntuned",
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
    model = _train_dense(card, train, val, seed)
    models.save(model, dense, card)
    rows = [{"setting": "dense", **_counts(dense), **dict.fromkeys(WAYS), "dense": _top1(model, val)}]
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
    # A rate that ends at 0 settles the BatchNorm statistics, which compression then builds on.
    settings = finetuning.Settings(
        epochs=DENSE_EPOCHS, lr=0.1, seed=seed, schedule="cosine", warmup=0.2 * DENSE_EPOCHS
    )
    _train(model, train, val, settings, "train dense")
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


def _one_setting(
    dense: Path, recipe: Recipe, out: Path, train: Images, val: Images, seed: int
) -> dict[str, Any]:
    from copy import deepcopy

    import torch

    from tenreo import finetuning, models
    from tenreo.cli.compress import default_name, run_plan
    from tenreo.plan import resolve
    from tenreo.statistics import calibrate_, match_statistics_

    model, header = models.open_model(dense)
    card = replace(header.card, weights=dense.name)
    original = deepcopy(model)
    images = torch.stack([train[i][0] for i in range(256)])  # type: ignore[index]
    size = card.preprocess.crop

    paper = deepcopy(model)
    run_plan(paper, resolve(replace(recipe, refine=0), paper), None)
    top1 = {"paper": _top1(paper, val)}
    match_statistics_(paper, original, size=size)
    top1["paper_noise"] = _top1(paper, val)

    report = run_plan(model, resolve(recipe, model), None)
    top1["refined"] = _top1(model, val)
    calibrated = deepcopy(model)
    calibrate_(calibrated, [images])
    top1["refined_calibrated"] = _top1(calibrated, val)
    card = replace(card, corrections=(match_statistics_(model, original, size=size),))
    top1["refined_noise"] = _top1(model, val)

    name = default_name(card.arch or "", recipe)
    path = out / name
    models.save(model, path, card, recipe)
    settings = finetuning.Settings(epochs=1, batch_size=64, lr=0.005, seed=seed)
    top1["finetuned"] = _train(
        model, train, val, settings, f"fine-tune g={recipe.groups}, r'={recipe.strength:g}"
    )
    models.save(model, out / f"finetuned-{name}", card, recipe)
    return {
        "setting": f"g={recipe.groups}, r'={recipe.strength:g}", **_counts(path), "snr": report.snr,
        "snr_unrefined": report.snr_unrefined, **top1,
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

    cells = [
        (r["setting"], millions(r["parameters"]), megabytes(r["bytes"]),
         *(number(r[way], 1) for way in WAYS))
        for r in rows
    ]  # fmt: skip
    title = (
        f"MobileNet-V2 on 360 handwritten digits; top-1 in %, dense {number(rows[0]['dense'])};\n"
        "all but the last column without training"
    )
    show(table(title, ("setting", "para-\nmeters", "bytes", *WAYS.values()), cells, text=0))

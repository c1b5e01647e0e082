"""What few pictures bring back of a compressed EfficientNet-Lite0: KL from the dense model, by method and pictures.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery.py [METHOD ...] [--crops 0 10 100 1000]

Needs pip install -e '.[real]'. 0 crops are 100 images of noise. docs/research/recovery.md has the table.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from common import row, table
from PIL import Image
from real import crops, divergence, logits, network
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import parametrize
from torchvision.transforms import v2

import tenreo
from tenreo.compression.parametrization import Curve, curves
from tenreo.correction.noise import noise_images

FITTED, JUDGED = range(10), range(10, 20)  # of foolbox's photographs
SKIMAGE = (
    "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png hubble_deep_field.jpg "
    "ihc.png moon.png motorcycle_left.png retina.jpg rocket.jpg"
)  # fmt: skip
NORMS, CURVES = 1e-3, 3e-4  # Adam's rates: of BatchNorm's affine parameters; of coefficients, by their root mean square
Method = Callable[[nn.Module, nn.Module, Tensor], None]  # (compressed, dense, images): changes the first in place


def photographs() -> list[Image.Image]:
    """26 photographs to fit on, none of which is judged on."""

    def files(package: str, folder: str, names: Iterable[str]) -> list[Path]:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.submodule_search_locations
        return [Path(spec.submodule_search_locations[0]) / folder / name for name in names]

    (folder,) = files("foolbox", "data", [""])
    found = [sorted(folder.glob("imagenet_*.jpg"))[i] for i in FITTED]
    found += files("sklearn", "datasets/images", ("china.jpg", "flower.jpg"))
    return [Image.open(file).convert("RGB") for file in [*found, *files("skimage", "data", SKIMAGE.split())]]


def fitted(count: int) -> Tensor:
    """(count, 3, 224, 224): random crops of the photographs in turn; of 0, noise."""
    if not count:
        return noise_images(100, 3, 224)
    crop = v2.Compose([
        v2.RandomResizedCrop(224, scale=(0.25, 1), antialias=True), v2.RandomHorizontalFlip(), v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ])  # fmt: skip
    torch.manual_seed(0)
    images = photographs()
    return (torch.stack([crop(images[i % len(images)]) for i in range(count)]) * 255 - 127) / 128


def statistics(small: nn.Module, dense: nn.Module, images: Tensor) -> None:
    """Correct BatchNorm's statistics on the images."""
    tenreo.match_statistics_(small, dense, images.split(50))


def regression(small: nn.Module, dense: nn.Module, images: Tensor) -> None:
    """Scale and shift every BatchNorm's output, channel by channel, for the least error against the dense one's."""
    wanted: dict[str, Tensor] = {}

    def look(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        wanted[name] = output

    def fit(name: str, norm: nn.BatchNorm2d, _: object, output: Tensor) -> Tensor:
        x, y = (t.movedim(1, 0).flatten(1) for t in (output, wanted.pop(name)))
        (var, mean), to_mean = torch.var_mean(x, 1, correction=0), y.mean(1)
        scale = ((x - mean[:, None]) * (y - to_mean[:, None])).mean(1) / (var + 1e-6)
        shift = to_mean - scale * mean
        norm.weight.mul_(scale)
        norm.bias.mul_(scale).add_(shift)
        return output * scale[:, None, None] + shift[:, None, None]

    with hooked(dense, look), hooked(small, fit), torch.no_grad(), parametrize.cached():
        for model in (dense, small):
            model(images[:100])


@contextmanager
def hooked(model: nn.Module, hook: Callable[..., object]) -> Iterator[None]:
    """Inside the context every BatchNorm's output goes through a hook that is given its name."""
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    handles = [m.register_forward_hook(functools.partial(hook, name)) for name, m in norms.items()]
    yield
    for handle in handles:
        handle.remove()


def least_squares(small: nn.Module, dense: nn.Module, images: Tensor, shrunk: float = 0.1) -> None:
    """Fit the coefficients to the dense weights by the covariance of the layers' inputs, then correct on noise."""
    moments: dict[str, Tensor] = {}

    def look(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if x.dim() == 4:  # of a convolution of one pixel: some 14 by 14 of them
            step = max(1, x.shape[-1] // 14)
            x = x[..., ::step, ::step].movedim(1, -1).flatten(0, 2)
        moments[name] = moments.get(name, 0) + x.T @ x

    layers = {curve.name: dense.get_submodule(curve.name) for curve in curves(small)}
    handles = [m.register_forward_pre_hook(functools.partial(look, name)) for name, m in layers.items()]
    logits(dense, images)
    for handle in handles:
        handle.remove()
    for curve in curves(small):
        moment, wanted = moments[curve.name], layers[curve.name].weight.detach()
        moment = (1 - shrunk) * moment * len(moment) / moment.trace() + shrunk * torch.eye(len(moment))
        adjust(curve, moment, wanted)
    tenreo.match_statistics_(small, dense, size=224)


def adjust(curve: Curve, moment: Tensor, wanted: Tensor) -> None:
    """The coefficients of least error (weight - wanted) moment (weight - wanted)', by 30 steps of L-BFGS."""
    curve.coefficients.requires_grad_(True)
    optimizer = torch.optim.LBFGS([curve.coefficients], max_iter=30, line_search_fn="strong_wolfe")

    def error() -> Tensor:
        optimizer.zero_grad()
        rest = (curve.layer.weight - wanted).flatten(1)
        total = ((rest @ moment) * rest).sum()
        total.backward()
        return total

    optimizer.step(error)


def optimizer_of(part: nn.Module, coefficients: bool) -> torch.optim.Adam:
    """Adam on the affine parameters of BatchNorm and all biases, and if asked for on coefficients; no others move."""
    part.eval().requires_grad_(False)
    affine = [p for m in part.modules() if isinstance(m, nn.BatchNorm2d) for p in (m.weight, m.bias)]
    affine += [m.bias for m in part.modules() if isinstance(m, nn.Linear)]
    groups = [{"params": affine, "lr": NORMS}]
    for curve in curves(part) if coefficients else ():
        groups.append({"params": [curve.coefficients], "lr": CURVES * curve.coefficients.square().mean().sqrt().item()})
    for group in groups:
        for p in group["params"]:
            p.requires_grad_(True)
    return torch.optim.Adam(groups, betas=(0.9, 0.99))


def descend(optimizer: torch.optim.Adam, loss: Callable[[Tensor], Tensor], images: int, steps: int) -> None:
    """Steps on 16 random images each, at rates that fall to zero."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randperm(images, generator=generator)[:16]).backward()
        optimizer.step()
        schedule.step()


def distill(small: nn.Module, dense: nn.Module, images: Tensor, coefficients: bool = True) -> None:
    """Minimize KL of the logits: 60 steps, or of many images two passes."""
    taught = logits(dense, images).float().log_softmax(1)

    def loss(chosen: Tensor) -> Tensor:
        found = small(images[chosen]).log_softmax(1)
        return (taught[chosen].exp() * (taught[chosen] - found)).sum(1).mean()

    descend(optimizer_of(small, coefficients), loss, len(images), max(60, len(images) // 8))


def blocks(small: nn.Module, dense: nn.Module, images: Tensor) -> None:
    """Reconstruct block after block (BRECQ), the dense output from the compressed input, and correct on the images."""
    x = y = images[:100]  # whose activations take some GB
    for here, there in zip(parts(small), parts(dense), strict=True):
        with torch.no_grad():
            y = there(y)
        if list(curves(here)):
            reconstruct(here, x, y)
            tenreo.match_statistics_(small, dense, images[:50])
        with torch.no_grad():
            x = here(x)


def reconstruct(part: nn.Module, x: Tensor, y: Tensor) -> None:
    """Make a part put out y where x goes in, by 40 steps."""
    size = y.square().mean()
    descend(optimizer_of(part, True), lambda chosen: mse_loss(part(x[chosen]), y[chosen]) / size, len(x), 40)


def parts(model: nn.Module) -> list[nn.Module]:
    """The network in pieces, one after the other."""
    stem = nn.Sequential(model._conv_stem, model._bn0, model._swish)
    return [stem, *model._blocks, nn.Sequential(model._conv_head, model._bn1, model._swish)]


def both(small: nn.Module, dense: nn.Module, images: Tensor) -> None:
    """Least squares, then distillation."""
    least_squares(small, dense, images)
    distill(small, dense, images)


METHODS: dict[str, Method] = {
    "statistics": statistics, "regression": regression, "least-squares": least_squares, "blocks": blocks,
    "distill-norms": functools.partial(distill, coefficients=False), "distill": distill, "both": both,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--crops", type=int, nargs="+", default=[0, 10, 100, 1000])
    arguments = parser.parse_args()
    dense = network().to(memory_format=torch.channels_last).requires_grad_(False)
    judge = crops(12, seed=1, photographs=JUDGED)
    outputs = logits(dense, judge)
    start = copy.deepcopy(dense)
    tenreo.compress_(start, tenreo.Recipe(4, tenreo.Progressive(2.0)))
    tenreo.match_statistics_(start, dense, size=224)
    table("method", *(f"{count} crops" if count else "noise" for count in arguments.crops))
    row("default correction, on noise", *[cell(outputs, start, judge)] * len(arguments.crops))
    for name in arguments.methods or METHODS:
        cells = []
        for count in arguments.crops:
            small, images, before = copy.deepcopy(start), fitted(count), time.perf_counter()
            METHODS[name](small, dense, images)
            cells.append(f"{cell(outputs, small, judge)} {time.perf_counter() - before:.0f} s")
        row(name, *cells)


def cell(outputs: Tensor, small: nn.Module, judge: Tensor) -> str:
    with parametrize.cached():
        kl, agreement = divergence(outputs, logits(small, judge))
    return f"{kl:.4f} ({agreement:.0f})"


if __name__ == "__main__":
    main()

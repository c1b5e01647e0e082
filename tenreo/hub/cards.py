"""Model cards: what a model is, its size, how close it is to the dense one, how it is loaded. No torch."""

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenreo import __version__
from tenreo.errors import TenreoError
from tenreo.files.checkpoints import find_files
from tenreo.files.configs import CONFIG, read_config
from tenreo.files.counts import Counts
from tenreo.files.header import Header, read_header
from tenreo.files.repositories import PREFIX
from tenreo.hub.metadata import metadata_text, read_metadata
from tenreo.hub.results import Results, read_results
from tenreo.planning.recipe import Recipe, recipe_of
from tenreo.planning.recipe_yaml import recipe_yaml

_TAGS = ("tenreo", "tensor-reordering", "model-compression")
# Values of the card of the dense model that hold for the compressed one as well.
_KEPT = ("base_model", "datasets", "language", "license", "license_link", "license_name", "pipeline_tag", "tags")
_IMAGENET = re.compile(r"IMAGENET1K_V\d+|\w*_in1k")  # names of weights that torchvision and timm trained on ImageNet
_CLASSIFIES = "image-classification"


@dataclass(frozen=True)
class CardValues:
    """What a card says besides the contents of the file.

    Attributes:
        results: path of the JSON object of `tenreo evaluate --json`; None if nothing was measured.
        base_model: repository of the dense model; by default the one that the file or an earlier card names.
        license: license of the weights; by default that of the file or of an earlier card.
        datasets: data sets that the dense model was trained on, as the hub names them.
        repository: repository that the card is for; None if it is not known yet.
    """

    results: Path | None = None
    base_model: str | None = None
    license: str | None = None
    datasets: tuple[str, ...] = ()
    repository: str | None = None


def card_text(path: Path, values: CardValues | None = None) -> str:
    """Return the card of a file or folder in Markdown, with the values in YAML that the hub reads.

    Args:
        path: file of tenreo, or folder with files of tenreo.
        values: what the card says besides the contents of the file.

    Raises:
        TenreoError: if the file is damaged or not compressed, or the results are those of another file.
    """
    model, values = _read(path), values or CardValues()
    results = None if values.results is None else read_results(values.results, model.files[0])
    known = _metadata(model, values, results)
    parts = [
        f"# {model.title}, compressed with tenreo",
        _introduction(model, known.get("base_model")),
        "## Size", _size(model),
        "## Differences from the dense model", _differences(model, results),
        "## Loading", *_loading(model, values.repository),
        "## Recipe", _recipe(model),
    ]  # fmt: skip
    return metadata_text(known) + "\n" + "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Model:
    """What is known about a compressed file or folder."""

    path: Path
    files: tuple[Path, ...]
    header: Header  # of the first file
    before: Counts
    after: Counts
    recipe: Recipe
    earlier: dict[Any, Any]  # values of the card of the folder
    config: dict[str, Any]  # configuration of the folder

    @property
    def title(self) -> str:
        """The name of the model without its source."""
        name = self.header.info.name or (self.header.source and self.header.source.name) or self.path.resolve().stem
        return _plain(name.rpartition(":")[2])

    @property
    def is_timm(self) -> bool:
        """Whether timm builds the model."""
        return (self.header.info.builder or "").startswith("timm:") or isinstance(self.config.get("architecture"), str)


def _read(path: Path) -> _Model:
    files = find_files(path)
    headers = [read_header(each) for each in files.weights]
    recipe = recipe_of(headers[0])
    if recipe is None or not any(header.layers for header in headers):
        raise TenreoError(f"{path}: is not compressed; a card describes a file of tenreo compress")
    before = sum((each.dense_counts(recipe.dense_dtype) for each in headers), Counts())
    after = sum((each.counts() for each in headers), Counts())
    config: dict[str, Any] = {}
    if files.is_folder and (files.path / CONFIG).exists():
        with suppress(TenreoError):  # the card says nothing about a damaged configuration
            config = read_config(files.path)
    earlier = read_metadata(files.path) if files.is_folder else {}
    return _Model(path, files.weights, headers[0], before, after, recipe, earlier, config)


def _metadata(model: _Model, values: CardValues, results: Results | None) -> dict[str, Any]:
    """Return the values of the card; those that are given come before those of the file and of an earlier card."""
    info = model.header.info
    kept = {key: model.earlier[key] for key in _KEPT if model.earlier.get(key)}
    base = values.base_model or _base_model(model) or kept.get("base_model")
    trained = ["imagenet-1k"] if info.weights and _IMAGENET.fullmatch(info.weights) else []
    license = values.license or info.license or kept.get("license")
    if license != kept.get("license"):
        kept = {key: value for key, value in kept.items() if not key.startswith("license")}
    own: Any = kept.get("tags")
    tags = [*_TAGS, *(["timm"] if model.is_timm else []), *(own if isinstance(own, list) else [])]
    return {
        **kept,
        "base_model": base,
        "base_model_relation": "quantized" if base else None,
        "datasets": list(values.datasets) or kept.get("datasets") or trained,
        "library_name": "tenreo",
        "license": license,
        "metrics": list(results.metrics) if results else [],
        "pipeline_tag": kept.get("pipeline_tag") or (_CLASSIFIES if info.classes and info.source else None),
        "tags": list(dict.fromkeys(tags)),
    }


def _base_model(model: _Model) -> str | None:
    """Return the repository of the dense model: the one that it was read from, or that of timm's weights."""
    info = model.header.info
    weights = info.weights or ""
    if weights.startswith(PREFIX):
        return weights.removeprefix(PREFIX).partition("@")[0]
    if (info.builder or "").startswith("timm:") and re.fullmatch(r"\w+", weights) and weights != "none":
        return f"timm/{str(info.builder).partition(':')[2]}.{weights}"
    return None


def _introduction(model: _Model, base: Any) -> str:
    what = f"[{_plain(base)}](https://huggingface.co/{_plain(base)})" if isinstance(base, str) else "a trained network"
    return (
        f"The weights of {what}, made smaller by [tensor reordering](https://arxiv.org/abs/2010.12110) with tenreo "
        f"{__version__}. Each weight is decoded when the model is loaded; the model then has the speed and the memory "
        "of the dense one."
    )


def _size(model: _Model) -> str:
    before, after = model.before, model.after
    rows = [
        ("bytes", f"{before.bytes:,}", f"{after.bytes:,} ({100 * after.bytes / max(1, before.bytes):.1f} %)"),
        ("bits per compressed weight", f"{_dense_bits(model):g}", f"{after.bits_per_weight or 0:.2f}"),
    ]
    covered = 100 * after.weights / max(1, before.dense_parameters)
    snr = model.header.snr if len(model.files) == 1 else None
    noise = f", with an SNR of {snr:.2f} dB" if snr is not None and math.isfinite(snr) else ""
    text = f"{covered:.1f} % of the parameters are compressed{noise}. `tenreo inspect` prints every layer."
    text += "".join(f" Statistics: {_plain(str(each))}." for each in model.header.info.corrections)
    return f"{_table(('', 'dense', 'compressed'), rows)}\n\n{text}"


def _dense_bits(model: _Model) -> float:
    """Return the bits of each number of the dense weights."""
    dense = model.header.dense_tensors(model.recipe.dense_dtype)
    weights = [each for name, each in dense.items() if each.is_floating]
    return 8 * sum(each.bytes for each in weights) / max(1, sum(each.numel for each in weights))


def _differences(model: _Model, results: Results | None) -> str:
    if results is None and model.header.info.name is None and not model.is_timm:  # no command can run such a model
        return "The outputs are not measured. This command compares every tensor with the dense one:\n\n" + _block(
            "tenreo verify FOLDER --against DENSE_FOLDER"
        )
    if results is None:
        name = model.files[0].name
        against = "dense" if model.header.info.weights not in (None, "none") else "DENSE_FILE"
        return "Not measured yet. These commands measure it, and write it into this card:\n\n" + _block(
            f"tenreo evaluate {name} --against {against} --data IMAGES --json > results.json\n"
            f"tenreo card {name} --results results.json --force"
        )
    rows = [(_plain(title), value) for title, value in results.rows]
    return f"{_table(('', 'measured'), rows)}\n\nMeasured on {results.examples} with\n\n{_block(results.command)}"


def _loading(model: _Model, repository: str | None) -> Iterable[str]:
    """Yield the ways to use the model."""
    place = repository or "FOLDER"
    source = model.header.info.source
    trusted = source is not None and not source.startswith(("timm:", "torchvision:"))
    note = "" if repository else "`FOLDER` stands for this folder, or for the name of its repository on the hub.\n\n"
    pull = f"tenreo pull {repository} -o FOLDER\n" if repository else ""
    if isinstance(model.config.get("model_type"), str):
        name = _transformers_class(model.config)
        code = f'from transformers import {name}\n\nmodel = {name}.from_pretrained("{place}")'
        yield f"{note}With transformers:"
        yield _block(f"import tenreo  # with which transformers decodes the files\n{code}", "python")
        yield "As plain files:"
        yield _block(f"{pull}tenreo decompress FOLDER -o dense")
    elif source is not None or model.is_timm:
        more = ", trust_builder=True)  # runs the function that the file names" if trusted else ")"
        yield note + _block(f'import tenreo\n\nmodel = tenreo.from_pretrained("{place}"{more}', "python")
    else:
        yield note + "As tensors, without the code of the model, each decoded when it is asked for:"
        yield _block(f'import tenreo\n\ntensors = tenreo.read("{"FOLDER" if repository else place}")', "python")
        yield "As plain files, with everything else that the folder of the dense model contains:"
        yield _block(f"{pull}tenreo decompress FOLDER -o dense")
    if model.is_timm:
        yield "With timm alone, after the weights are decoded once:"
        yield _block(f"{pull}tenreo {'export' if source else 'decompress'} FOLDER {'--to' if source else '-o'} dense")
        yield _block('import timm\n\nmodel = timm.create_model("local-dir:dense", pretrained=True)', "python")
    if source is not None:
        named = f" --model {source}" if trusted else ""
        yield "With ONNX Runtime, whose model has about the size of this file:"
        yield _block(f"{pull}tenreo export FOLDER{named} --to model.onnx --small")
        yield _block(
            'import onnxruntime\n\nsession = onnxruntime.InferenceSession("model.onnx")\n'
            "outputs = session.run(None, {session.get_inputs()[0].name: images})",
            "python",
        )


def _transformers_class(config: Mapping[str, Any]) -> str:
    """Return the class that a configuration of transformers names, or the one that finds it."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    return first if isinstance(first, str) and re.fullmatch(r"[A-Za-z]\w{0,99}", first) else "AutoModel"


def _recipe(model: _Model) -> str:
    info, weights = model.header.info, model.header.info.weights or ""
    named = {"arch": info.arch} if info.arch else {"model": info.builder} if info.builder else {}
    text = "`tenreo compress --config recipe.yaml` repeats the compression"
    if weights.startswith(PREFIX):
        named = {"model": weights}
    elif info.arch and re.fullmatch(r"\w+", weights):
        named["weights"] = weights
    elif not named or not re.fullmatch(r"\w+", weights):
        text += f", with {'`--weights` and the file' if named else 'the file or folder'} of the dense weights"
    more = {"match_statistics": False} if info.source and not info.corrections else {}
    return f"{text}:\n\n{_block(recipe_yaml(model.recipe, {**named, **more}).rstrip(), 'yaml')}"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, (":--", *("--:" for _ in heads[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _block(text: str, language: str = "") -> str:
    """Return a block of code; a fence in the text would end it."""
    return f"```{language}\n{text.replace('```', '')}\n```"


def _plain(text: str) -> str:
    """Return a text without the characters that Markdown and HTML interpret."""
    return re.sub(r"[^\w.,:@/+ %-]", "", text)

"""What `tenreo evaluate --json` measured, read for a model card. Does not import torch."""

from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, cast

from tenreo.errors import TenreoError, counted, printable, shown
from tenreo.files.paths import opened
from tenreo.files.values import Fields, parse

_MOST_BYTES = 100_000_000  # results of 100,000 classes have 20 million
_MOST_TEXT = 10_000
_MOST = 1e300
# Names of what is measured, with the metric of the hub, the title and the digits that `tenreo evaluate` prints.
_COMPARED = {
    "agreement": ("agreement", "agreement with the dense model", 2, " %"),
    "kl": ("kl_divergence", "KL divergence from the dense model", 4, " nats"),
    "snr": ("snr", "SNR of the outputs", 1, " dB"),
}


@dataclass(frozen=True)
class Results:
    """Figures that were measured on a model.

    Attributes:
        rows: title and value of every figure.
        metrics: names of the metrics.
        command: the command line that measured them.
        examples: number of images or other inputs, such as "360 images".
    """

    rows: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...]
    command: str
    examples: str


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, which identifies the file that results belong to."""
    with opened(path) as file:
        return file_digest(cast(Any, file), "sha256").hexdigest()


def read_results(path: Path, model: Path) -> Results:
    """Read the results of a model from the JSON object that `tenreo evaluate --json` printed.

    Args:
        path: path of the JSON object.
        model: file of the model; the results must have been measured on a file of the same bytes.

    Raises:
        TenreoError: if the file contains no such results, or only those of another model.
    """
    with opened(path) as file:
        text = file.read(_MOST_BYTES + 1)
    try:
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        values = Fields(parse(text.decode()))
        if values.values.get("command") != "evaluate" or not values.has("sha256"):
            raise ValueError("it is not the output of tenreo evaluate --json")
        return _of_model(values, path, model)
    except ValueError as error:
        raise TenreoError(f"results: {path} cannot be read: {error}") from error


def _of_model(values: Fields, path: Path, model: Path) -> Results:
    own = digest(model)
    others = list(values.objects("others", 1000)) if values.has("others") else []
    found = next((each for each in (values, *others) if each.values.get("sha256") == own), None)
    if found is None:
        raise TenreoError(
            f"results: {path} was measured on {shown(values.values.get('file'))}, which was another file than {model}; "
            "evaluate this file"
        )
    rows, metrics, examples = [], [], ""
    if found.has("top1"):
        low, high = found.numbers("top1_interval", 0, 100, 2)
        rows.append(("top-1 accuracy", f"{found.number('top1', 0, 100):.2f} % (95 % interval {low:.2f} to {high:.2f})"))
        metrics.append("accuracy")
        examples = _examples(found)
    if found.has("metric"):
        metric = Fields(found.values["metric"])
        name = metric.text("name", _MOST_TEXT)
        rows.append((name, f"{metric.number('value', -_MOST, _MOST):.4f}"))
        metrics.append(name.partition(":")[2] or name)
        examples = _examples(metric)
    if found.has("against"):
        compared = Fields(found.values["against"])
        if compared.has("reference_top1"):
            rows.append(("top-1 accuracy of the dense model", f"{compared.number('reference_top1', 0, 100):.2f} %"))
        for key, (name, title, digits, unit) in _COMPARED.items():
            if compared.has(key):
                rows.append((title, f"{compared.number(key, -_MOST, _MOST):.{digits}f}{unit}"))
                metrics.append(name)
        examples = _examples(compared)
        if found.values["against"].get("model") != "dense":
            rows = [(title.replace("the dense model", _name(compared)), value) for title, value in rows]
    if not rows:
        raise ValueError("it contains neither an accuracy, nor an agreement, nor a metric")
    command = values.text("command_line", _MOST_TEXT) if values.has("command_line") else "tenreo evaluate"
    return Results(tuple(rows), tuple(metrics), command, examples)


def _examples(found: Fields) -> str:
    key = "images" if found.has("images") else "examples"
    return counted(found.whole(key, 0, 2**53), key.removesuffix("s"))


def _name(compared: Fields) -> str:
    return printable(Path(compared.text("model", _MOST_TEXT)).name)

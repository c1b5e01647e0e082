"""Names of classes that a data set of Hugging Face states: in its Parquet files, or in its card, README.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tenreo.data.label_files import read_json

_MOST_CARD = 10_000_000  # bytes; the names of 22,000 classes have 1 million
_CARD = "README.md"


def feature_names(text: bytes) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes of every column that the metadata `huggingface` of a Parquet file describes.

    >>> feature_names(b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}')
    {'label': ('cat', 'dog')}

    Args:
        text: the metadata; anything else has no names.
    """
    try:
        values = read_json(text.decode())
    except (ValueError, RecursionError):
        return {}
    features = _inner(values, "info", "features")
    described = features.items() if isinstance(features, dict) else ()
    return {name: names for name, feature in described if (names := _names(_inner(feature, "names")))}


def names_of_card(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes of every column that the card of a data set describes, in `dataset_info`.

    Args:
        folder: folder of the Parquet files; the card is there or in the folder above.
    """
    path = next((each for each in (folder / _CARD, folder.parent / _CARD) if each.is_file()), None)
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            start = file.read(_MOST_CARD).decode()
        values = yaml.safe_load(start.split("\n---", 1)[0]) if start.startswith("---") else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return dict(_described(_inner(values, "dataset_info")))


def _described(info: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the columns of `dataset_info` and the names of their classes; a list has one entry per configuration."""
    for each in info if isinstance(info, list) else [info]:
        features = _inner(each, "features")
        for feature in features if isinstance(features, list) else ():
            name, names = _inner(feature, "name"), _names(_inner(feature, "dtype", "class_label", "names"))
            if isinstance(name, str) and names:
                yield name, names


def _names(names: Any) -> tuple[str, ...]:
    """Return names that are a list, or a mapping from the numbers 0, 1, ... to names; empty if they are neither."""
    if isinstance(names, Mapping):
        numbered = {str(key): value for key, value in names.items()}
        names = [numbered.get(str(i)) for i in range(len(numbered))]
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names) and len({*names}) == len(names)
    return tuple(names) if valid else ()


def _inner(values: Any, *keys: str) -> Any:
    """Return a value of nested mappings; None if a key is missing."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values

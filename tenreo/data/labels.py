"""From the data's classes to labels, the indices of a model's outputs. This module does not import torch."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tenreo.data.label_files import infer_class_names
from tenreo.data.layouts import ImageList
from tenreo.errors import TenreoError, abbreviate, shown

_MAX_NAMES = 5  # in a message
_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)


class Labels(NamedTuple):
    """Labels of images.

    Attributes:
        labels: one label per image, in the order of the images.
        class_count: number of classes.
        class_names: names of all classes in the order of the labels; empty if unknown.
        doubt: what may be wrong with the labels; empty if they are certain.
    """

    labels: list[int]
    class_count: int
    class_names: tuple[str, ...]
    doubt: str


def assign_labels(
    images: ImageList,
    class_count: int | None,
    model_names: tuple[str, ...] = (),
    train_names: tuple[str, ...] = (),
    class_map: Mapping[str, str | int] | None = None,
) -> Labels:
    """Assign a label to every image.

    Args:
        images: images and their classes.
        class_count: number of outputs of the model; None skips the comparison with the model.
        model_names: class names in the order of the model's outputs; empty if its file does not contain them.
        train_names: class names of the training split, which give the order if the model's file does not.
        class_map: mapping from the data's classes to the model's classes.

    Raises:
        TenreoError: if a class is not one of the model's.
    """
    classes = [each for _, each in images.samples]
    location, names = images.location, images.class_names
    if class_map is not None:
        missing = sorted({str(each) for each in classes} - set(class_map))
        if missing:
            raise TenreoError(f"class_map: lacks the classes {abbreviate(missing, _MAX_NAMES)} of {location}; add them")
        classes = [class_map[str(each)] for each in classes]
        names = tuple(sorted({each for each in classes if isinstance(each, str)}))
        model_names = model_names or infer_class_names(class_count, names)
        if names and not model_names:
            raise TenreoError(
                f"class_map: maps to names, for example {shown(names[0])}, but the model's file contains no class "
                "names; map to numbers"
            )
    numbers = [each for each in classes if isinstance(each, int)]
    if numbers and names:
        raise TenreoError(
            f"{location}: identifies some classes by name ({abbreviate(names, _MAX_NAMES)}) and some by number; use "
            "one of them"
        )
    if numbers or not names:
        return _number_labels(location, numbers, class_count, model_names, class_map is not None)
    doubt = ""
    if class_count is not None or class_map is not None:
        names, doubt = _ordered_names(location, names, class_count, model_names, train_names)
    index = {name: i for i, name in enumerate(names)}
    return Labels([index[str(each)] for each in classes], len(names), names, doubt)


def _number_labels(
    location: str, numbers: list[int], class_count: int | None, model_names: tuple[str, ...], certain: bool
) -> Labels:
    """Use numbers as labels."""
    highest = max(numbers)
    if class_count is not None and highest >= class_count:
        raise TenreoError(
            f"{location}: has the label {highest}, counted from 0, but the model has {class_count} classes; ImageNet's "
            "devkit counts from 1 in an order of its own: give a class map, or other labels"
        )
    doubt = ""
    if min(numbers) > 0 and len(set(numbers)) > 1 and not certain:
        doubt = f"{location}: labels start at {min(numbers)} and are used as indices of the model's outputs, from 0"
    return Labels(numbers, class_count or highest + 1, model_names, doubt)


def _ordered_names(
    location: str,
    data_names: tuple[str, ...],
    class_count: int | None,
    model_names: tuple[str, ...],
    train_names: tuple[str, ...],
) -> tuple[tuple[str, ...], str]:
    """Return the names of all classes in the order of their labels, and what may be wrong with this order."""
    if model_names:
        check_class_count("the model's file", len(model_names), class_count)
        _check_known_classes(location, data_names, model_names, "the model's file")
        return model_names, ""
    if len(train_names) == class_count:
        _check_known_classes(location, data_names, train_names, "train")
        data_names = train_names
    elif inferred := infer_class_names(class_count, data_names):
        doubt = f"{location}: WordNet ids are assumed to be outputs of a model of ImageNet's 1,000 classes, in order"
        return inferred, doubt if len(data_names) < len(inferred) else ""
    check_class_count(location, len(data_names), class_count)
    doubt = ""
    if text_order_differs(data_names):
        doubt = (
            f"{location}: the class names are numbers, and labels follow their order as text "
            f"({abbreviate(data_names, _MAX_NAMES)}), as in torchvision; the model's file does not contain an order"
        )
    return data_names, doubt


def check_class_count(location: str, count: int, class_count: int | None) -> None:
    """Raise unless data have as many classes as the model; None skips the check."""
    if class_count is not None and count != class_count:
        raise TenreoError(
            f"{location}: has {count} classes, the model has {class_count}; give the data it was trained on, or a "
            "class map"
        )


def _check_known_classes(location: str, names: Sequence[str], known: Sequence[str], source: str) -> None:
    """Raise unless all names of the data's classes are among the known ones, which come from `source`."""
    unknown, unused = sorted(set(names) - set(known)), sorted(set(known) - set(names))
    if unknown:
        missing = f"; {abbreviate(unused, _MAX_NAMES)} of these are missing" if unused else ""
        raise TenreoError(
            f"{location}: has the classes {abbreviate(unknown, _MAX_NAMES)}, which are not among the {len(known)} of "
            f"{source}{missing}; give data that match the model, or rename the folders"
        )


def text_order_differs(names: Sequence[str]) -> bool:
    """Return whether names are numbers, optionally after a common prefix, in the order of texts that is not numeric.

    >>> text_order_differs(["0", "1", "10", "2"]), text_order_differs(["00", "01", "10"])
    (True, False)
    """
    if list(names) != sorted(names):
        return False
    parts = [_NUMBERED.fullmatch(name) for name in names]
    if not all(parts) or len({part[1] for part in parts if part}) != 1:
        return False
    return sorted(names) != sorted(names, key=lambda name: int(name[len(parts[0][1]) :]))  # type: ignore[index]

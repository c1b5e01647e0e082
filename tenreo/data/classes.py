"""The labels of images: which output of the model each class of the data is. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tenreo.data.folders import check_known, in_doubt, listed
from tenreo.data.labels import Class, implied_names
from tenreo.data.layouts import Found
from tenreo.errors import TenreoError, shown


class Labels(NamedTuple):
    """What was made of classes.

    Attributes:
        labels: of the images, in their order.
        classes: how many there are.
        names: of all classes; empty where they are not known.
        doubt: what the labels may be wrong about; empty where they are certain.
    """

    labels: list[int]
    classes: int
    names: tuple[str, ...]
    doubt: str


def labels_of(
    found: Found,
    classes: int | None,
    known: tuple[str, ...] = (),
    trained: tuple[str, ...] = (),
    class_map: Mapping[str, str | int] | None = None,
) -> Labels:
    """The labels of the images that were found.

    Args:
        found: images and their classes.
        classes: outputs of the model; None checks nothing.
        known: names of the model's classes, in the order of its outputs; empty where its file does not say them.
        trained: names of the classes that it is trained on, which say the order where its file does not.
        class_map: which class of the model each of the data is.

    Raises:
        TenreoError: when a class is none of the model's.
    """
    said = [each for _, each in found.samples]
    where, names = found.where, found.classes
    if class_map is not None:
        said = _mapped(found, class_map)
        names = tuple(sorted({each for each in said if isinstance(each, str)}))
        known = known or implied_names(classes, names)
        if names and not known:
            raise TenreoError(
                f"class_map: gives names such as {shown(names[0])}, and the model's file names no classes; give numbers"
            )
    numbers = {each for each in said if isinstance(each, int)}
    if numbers and names:
        raise TenreoError(f"{where}: has classes by name ({listed(names)}) and by number; give one or the other")
    if numbers or not names:
        return _numbered(where, [each for each in said if isinstance(each, int)], classes, known, bool(class_map))
    doubt = ""
    if classes is not None or class_map is not None:
        names, doubt = _names(where, names, classes, known, trained)
    label = {name: i for i, name in enumerate(names)}
    return Labels([label[str(each)] for each in said], len(names), names, doubt)


def _mapped(found: Found, class_map: Mapping[str, str | int]) -> list[Class]:
    absent = sorted({str(each) for _, each in found.samples} - set(class_map))
    if absent:
        raise TenreoError(f"class_map: does not say which classes {listed(absent)} of {found.where} are; add them")
    return [class_map[str(each)] for _, each in found.samples]


def _numbered(where: str, said: Sequence[int], classes: int | None, known: tuple[str, ...], certain: bool) -> Labels:
    """Labels that are numbers of outputs."""
    highest = max(said)
    if classes is not None and highest >= classes:
        raise TenreoError(
            f"{where}: has the label {highest}, counted from 0, the model has {classes} classes; ImageNet's devkit "
            "counts from 1 in an order of its own: give a class map, or other labels"
        )
    doubt = ""
    if min(said) > 0 and len(set(said)) > 1 and not certain:
        doubt = f"{where}: labels begin at {min(said)}, and are taken for outputs of the model counted from 0"
    return Labels(list(said), classes or highest + 1, known, doubt)


def _names(
    where: str, found: tuple[str, ...], classes: int | None, known: tuple[str, ...], trained: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """The names of all classes in the order of their labels, and what is in doubt about it."""
    if known:
        check_count("the model's file", len(known), classes)
        check_known(where, found, known, "the model's file")
        return known, ""
    if len(trained) == classes:
        check_known(where, found, trained, "train")
        found = trained
    elif implied := implied_names(classes, found):
        doubt = f"{where}: WordNet ids are taken for the outputs of a model of ImageNet's 1,000 classes, in their order"
        return implied, doubt if len(found) < len(implied) else ""
    check_count(where, len(found), classes)
    doubt = ""
    if in_doubt(found):
        doubt = (
            f"{where}: the classes are numbered, and labels follow their order as text ({listed(found)}), as "
            "torchvision's do; the model's file does not say its own order"
        )
    return found, doubt


def check_count(where: str, count: int, classes: int | None) -> None:
    """Raise unless data have as many classes as the model.

    Raises:
        TenreoError: naming both.
    """
    if classes is not None and count != classes:
        raise TenreoError(
            f"{where}: has {count} classes, the model has {classes}; give the data it was trained on, or a class map"
        )

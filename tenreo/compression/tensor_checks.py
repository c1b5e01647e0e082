"""Checks of tensor names and shapes before they are loaded into a model."""

from collections.abc import Container, Mapping

from tenreo.errors import TenreoError, abbreviate

Shapes = Mapping[str, tuple[int, ...]]  # name in a file -> shape


class MisfitError(TenreoError):
    """Error for names or shapes that differ from the model's for an unknown reason."""


def check_fit(source: object, own: Shapes, given: Shapes, optional: Container[str]) -> None:
    """Raise an error unless tensors have the names and shapes of a model's tensors; optional names may be missing.

    Raises:
        TenreoError: if only the number of classes differs.
        MisfitError: if anything else differs; the message contains up to three names of each kind.
    """
    missing = [name for name in own if name not in given and name not in optional]
    extra = sorted(set(given) - set(own))
    wrong = [name for name in own if name in given and given[name] != own[name]]
    shapes = [f"{name} {list(given[name])} instead of {list(own[name])}" for name in wrong]
    kinds = (("missing", missing), ("not expected", extra), ("shape", shapes))
    problems = [f"{kind}: {abbreviate(names)}" for kind, names in kinds if names]
    if problems:
        classes = "" if missing or extra else _class_mismatch(own, given, wrong)
        error = TenreoError if classes else MisfitError
        raise error(f"{source} does not fit the model; {'; '.join(problems)}{classes}")


def _class_mismatch(own: Shapes, given: Shapes, wrong: list[str]) -> str:
    """Describe different numbers of classes; "" if another layer than the last one differs as well."""
    layer = wrong[-1].rpartition(".")[0]
    outputs = {(given[name][:1], own[name][:1]) for name in wrong}
    only = all(name.rpartition(".")[0] == layer for name in wrong) and list(own)[-1].rpartition(".")[0] == layer
    if not only or len(outputs) != 1 or not all(next(iter(outputs))):
        return ""
    (given_classes,), (own_classes,) = outputs.pop()
    return f"; these weights have {given_classes} classes, the model has {own_classes}"

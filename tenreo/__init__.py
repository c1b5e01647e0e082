"""tenreo: shrink convolutional networks by tensor reordering (arXiv 2010.12110)."""

from importlib import import_module
from typing import TYPE_CHECKING

from tenreo.errors import TenreoError

if TYPE_CHECKING:
    from tenreo.compression import compress_, expand_
    from tenreo.core.codec import EncodedWeight, decode, encode
    from tenreo.header import ModelCard
    from tenreo.models import load, save
    from tenreo.plan import Plan, resolve
    from tenreo.rates import Progressive, TargetParameters, TargetSize, Uniform
    from tenreo.recipe import Recipe
    from tenreo.report import Report
    from tenreo.statistics import calibrate_, match_statistics_

# Imported on first use: torch takes seconds, and the command line must answer at once.
_HOME = {
    **dict.fromkeys(("Progressive", "TargetParameters", "TargetSize", "Uniform"), "rates"),
    "Recipe": "recipe",
    **dict.fromkeys(("Plan", "resolve"), "plan"),
    **dict.fromkeys(("compress_", "expand_"), "compression"),
    **dict.fromkeys(("EncodedWeight", "encode", "decode"), "core.codec"),
    **dict.fromkeys(("save", "load"), "models"),
    **dict.fromkeys(("calibrate_", "match_statistics_"), "statistics"),
    "ModelCard": "header",
    "Report": "report",
}
__version__ = "0.1.0"
__all__ = [
    "EncodedWeight", "ModelCard", "Plan", "Progressive", "Recipe", "Report", "TargetParameters", "TargetSize",
    "TenreoError", "Uniform", "calibrate_", "compress_", "decode", "encode", "expand_", "load", "match_statistics_",
    "resolve", "save",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'tenreo' has no attribute {name!r}")
    return getattr(import_module(f"tenreo.{_HOME[name]}"), name)

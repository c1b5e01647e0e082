"""tenreo: shrink convolutional networks by tensor reordering (arXiv 2010.12110)."""

from importlib import import_module
from typing import TYPE_CHECKING

from tenreo.errors import TenreoError

if TYPE_CHECKING:
    from tenreo.codec.codec import EncodedWeight as EncodedWeight
    from tenreo.codec.codec import decode as decode
    from tenreo.codec.codec import encode as encode
    from tenreo.compression.compress import compress_ as compress_
    from tenreo.compression.parametrization import expand_ as expand_
    from tenreo.compression.report import Report as Report
    from tenreo.compression.statistics import calibrate_ as calibrate_
    from tenreo.files.records import ModelInfo as ModelInfo
    from tenreo.planning.plan import Plan as Plan
    from tenreo.planning.plan import resolve as resolve
    from tenreo.planning.rates import Progressive as Progressive
    from tenreo.planning.rates import TargetParameters as TargetParameters
    from tenreo.planning.rates import TargetSize as TargetSize
    from tenreo.planning.rates import Uniform as Uniform
    from tenreo.planning.recipe import Recipe as Recipe
    from tenreo.vision.exporting import export as export
    from tenreo.vision.models import load as load
    from tenreo.vision.models import save as save
    from tenreo.vision.recalibration import match_statistics_ as match_statistics_

# The public names and the modules they live in; imported on first use, since torch takes seconds to import and the
# command line must answer at once.
_MODULES = {
    "EncodedWeight": "codec.codec",
    "ModelInfo": "files.records",
    "Plan": "planning.plan",
    "Progressive": "planning.rates",
    "Recipe": "planning.recipe",
    "Report": "compression.report",
    "TargetParameters": "planning.rates",
    "TargetSize": "planning.rates",
    "Uniform": "planning.rates",
    "calibrate_": "compression.statistics",
    "compress_": "compression.compress",
    "decode": "codec.codec",
    "encode": "codec.codec",
    "expand_": "compression.parametrization",
    "export": "vision.exporting",
    "load": "vision.models",
    "match_statistics_": "vision.recalibration",
    "resolve": "planning.plan",
    "save": "vision.models",
}
__all__ = ["TenreoError", *_MODULES]
__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'tenreo' has no attribute {name!r}")
    return getattr(import_module(f"tenreo.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""tenreo: shrink trained neural networks by tensor reordering (arXiv 2010.12110)."""

from importlib import import_module
from typing import TYPE_CHECKING

from tenreo.checkpoints.registration import register_quantizer as _register_quantizer
from tenreo.errors import TenreoError

if TYPE_CHECKING:
    from tenreo.checkpoints.compress import Written as Written
    from tenreo.checkpoints.compress import write as write
    from tenreo.checkpoints.reading import read as read
    from tenreo.codec.encode import EncodedWeight as EncodedWeight
    from tenreo.codec.encode import decode as decode
    from tenreo.codec.encode import encode as encode
    from tenreo.codec.shape import Basis as Basis
    from tenreo.codec.shape import CurveShape as CurveShape
    from tenreo.codec.shape import Positions as Positions
    from tenreo.codec.shape import Precision as Precision
    from tenreo.compression.compress_model import compress_ as compress_
    from tenreo.compression.parametrization import expand_ as expand_
    from tenreo.compression.report import LayerReport as LayerReport
    from tenreo.compression.report import Report as Report
    from tenreo.correction.importance import measure_importance as measure_importance
    from tenreo.correction.statistics import calibrate_ as calibrate_
    from tenreo.correction.statistics import match_statistics_ as match_statistics_
    from tenreo.evaluation.agreement import Agreement as Agreement
    from tenreo.evaluation.analysis import Analysis as Analysis
    from tenreo.evaluation.analysis import LayerAnalysis as LayerAnalysis
    from tenreo.evaluation.sensitivity import analyze as analyze
    from tenreo.evaluation.targets import TargetResult as TargetResult
    from tenreo.evaluation.targets import compress_to_ as compress_to_
    from tenreo.exporting.compress_onnx import CompressedOnnx as CompressedOnnx
    from tenreo.exporting.compress_onnx import compress_onnx as compress_onnx
    from tenreo.exporting.export import Export as Export
    from tenreo.exporting.export import export as export
    from tenreo.exporting.onnx_runs import OutputDifference as OutputDifference
    from tenreo.files.counts import Counts as Counts
    from tenreo.files.records import Correction as Correction
    from tenreo.files.records import LayerErrors as LayerErrors
    from tenreo.files.records import LayerRecord as LayerRecord
    from tenreo.files.records import ModelInfo as ModelInfo
    from tenreo.files.records import Preprocess as Preprocess
    from tenreo.hub.folders import from_pretrained as from_pretrained
    from tenreo.hub.folders import save_pretrained as save_pretrained
    from tenreo.hub.pushing import push as push
    from tenreo.models.model_files import load as load
    from tenreo.models.model_files import save as save
    from tenreo.planning.layers import LayerPlan as LayerPlan
    from tenreo.planning.plan import Plan as Plan
    from tenreo.planning.plan import resolve as resolve
    from tenreo.planning.rates import Progressive as Progressive
    from tenreo.planning.rates import Rate as Rate
    from tenreo.planning.rates import TargetAgreement as TargetAgreement
    from tenreo.planning.rates import TargetBits as TargetBits
    from tenreo.planning.rates import TargetFraction as TargetFraction
    from tenreo.planning.rates import TargetKl as TargetKl
    from tenreo.planning.rates import TargetParameters as TargetParameters
    from tenreo.planning.rates import TargetSize as TargetSize
    from tenreo.planning.rates import Uniform as Uniform
    from tenreo.planning.recipe import DenseDtype as DenseDtype
    from tenreo.planning.recipe import Pack as Pack
    from tenreo.planning.recipe import Recipe as Recipe
    from tenreo.planning.recipe import Strategy as Strategy

# The public names and the modules that define them. They are imported on first use, because importing torch takes
# seconds and `tenreo --help` must answer at once.
_MODULES = {
    "Agreement": "evaluation.agreement",
    "Analysis": "evaluation.analysis",
    "Basis": "codec.shape",
    "CompressedOnnx": "exporting.compress_onnx",
    "Correction": "files.records",
    "Counts": "files.counts",
    "CurveShape": "codec.shape",
    "DenseDtype": "planning.recipe",
    "EncodedWeight": "codec.encode",
    "Export": "exporting.export",
    "LayerAnalysis": "evaluation.analysis",
    "LayerErrors": "files.records",
    "LayerPlan": "planning.layers",
    "LayerRecord": "files.records",
    "LayerReport": "compression.report",
    "ModelInfo": "files.records",
    "OutputDifference": "exporting.onnx_runs",
    "Pack": "planning.recipe",
    "Plan": "planning.plan",
    "Positions": "codec.shape",
    "Precision": "codec.shape",
    "Preprocess": "files.records",
    "Progressive": "planning.rates",
    "Rate": "planning.rates",
    "Recipe": "planning.recipe",
    "Report": "compression.report",
    "Strategy": "planning.recipe",
    "TargetAgreement": "planning.rates",
    "TargetBits": "planning.rates",
    "TargetFraction": "planning.rates",
    "TargetKl": "planning.rates",
    "TargetParameters": "planning.rates",
    "TargetResult": "evaluation.targets",
    "TargetSize": "planning.rates",
    "Uniform": "planning.rates",
    "Written": "checkpoints.compress",
    "analyze": "evaluation.sensitivity",
    "calibrate_": "correction.statistics",
    "compress_": "compression.compress_model",
    "compress_onnx": "exporting.compress_onnx",
    "compress_to_": "evaluation.targets",
    "decode": "codec.encode",
    "encode": "codec.encode",
    "expand_": "compression.parametrization",
    "export": "exporting.export",
    "from_pretrained": "hub.folders",
    "load": "models.model_files",
    "match_statistics_": "correction.statistics",
    "measure_importance": "correction.importance",
    "push": "hub.pushing",
    "read": "checkpoints.reading",
    "resolve": "planning.plan",
    "save": "models.model_files",
    "save_pretrained": "hub.folders",
    "write": "checkpoints.compress",
}
__all__ = ["TenreoError", *_MODULES]
__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'tenreo' has no attribute {name!r}")
    return getattr(import_module(f"tenreo.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


_register_quantizer()  # with transformers, as soon as it is imported

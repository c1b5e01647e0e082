"""The compression of a model as the command line does it: importance, encoding, and correction of the statistics."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tenreo.cli.commands.compress import Statistics
from tenreo.cli.run.models import open_inputs
from tenreo.cli.terminal.console import note
from tenreo.cli.terminal.progress import Advance, Bar, doing, note_compiling, progress_bar
from tenreo.codec.jit import on_compile
from tenreo.compression.compress_model import compress_
from tenreo.compression.parametrization import quantized_coefficients
from tenreo.compression.report import Report
from tenreo.correction.importance import measure_importance
from tenreo.correction.statistics import match_statistics_
from tenreo.data.workers import explain_worker_loss
from tenreo.errors import OutOfMemoryError, TenreoError
from tenreo.evaluation.targets import compress_to_
from tenreo.exporting.export import example_inputs, export
from tenreo.exporting.onnx_size import compress_for_onnx
from tenreo.files.records import Correction, ModelInfo
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import Plan, resolve
from tenreo.planning.rates import OutputTarget
from tenreo.planning.recipe import Recipe, Strategy

_CORRECTED = (9999, 999, 0)  # numbers of images, BatchNorms and biases with as many digits as most corrections have
_PASSES = 3  # in which all layers are encoded until a price leads to a target size, in most cases
_ENCODING, _CORRECTING = 85, 15  # percent of a bar


class Compressed(NamedTuple):
    """A compressed model."""

    model: nn.Module
    plan: Plan  # for a target of the outputs, with the price that was found
    report: Report
    corrections: tuple[Correction, ...]


@dataclass(frozen=True)
class Compression:
    """A dense model, and the inputs that its importance and its statistics are measured on.

    Attributes:
        model: dense model on its device.
        info: its description.
        noise: side, or shape, of the noise images.
        statistics: which statistics are corrected.
        images: batches to measure on; None for noise.
        jobs: number of layers that are encoded at the same time; None for one per core.
    """

    model: nn.Module
    info: ModelInfo
    noise: int | tuple[int, ...]
    statistics: Statistics = field(default_factory=Statistics)
    images: Iterable[Any] | None = None
    jobs: int | None = None

    def plan(self, recipe: Recipe) -> Plan:
        """Return the plan of a recipe; the correction that the file will state counts towards its size."""
        doing("planning")
        info = self.info
        if self.statistics.match_statistics or self.source is not None:
            info = replace(info, corrections=(Correction(self.source or "noise", *_CORRECTED),))
        return resolve(recipe, self.model, info)

    def with_importance(self, plan: Plan) -> Plan:
        """Return a plan with measured importance, if that is wanted and bytes are distributed by it.

        Without images, a model that does not run on noise keeps its plan.
        """
        recipe = plan.recipe
        if not self.statistics.measure_importance or not recipe.distributes_bytes:
            return plan
        doing("measuring the importance of the layers")
        try:
            with explain_worker_loss():
                measured = measure_importance(recipe, self.model, self.images, size=self.noise)
        except TenreoError as error:
            if self.images is not None:
                raise
            note(f"all layers have the same importance: {error}")
            return plan
        return plan if measured is recipe else self.plan(measured)

    def compress_(self, plan: Plan) -> Compressed:
        """Compress the model in place, and correct its statistics."""
        if isinstance(plan.recipe.rate, OutputTarget):
            return self._compress_to_target_(plan)
        dense = deepcopy(self.model) if self.statistics.match_statistics or self.images is not None else None
        with progress_bar("compressing", 100) as bar:
            advance = bar.stage("compressing", _ENCODING, total=1)
            report = compress_with_progress_(self.model, plan, self.jobs, advance)
            corrections = () if dense is None else self._corrected_(dense, bar)
        return Compressed(self.model, plan, report, corrections)

    def compress_for_onnx(self, recipe: Recipe) -> Compressed:
        """Compress a copy of the model so that its small ONNX model has the target size of the recipe."""
        given = open_inputs(self.statistics)
        inputs = example_inputs(self.model, self.noise) if given is None else given.first(self.model, 2)

        def attempt(trial: Recipe) -> tuple[int, Compressed]:
            own = replace(self, model=deepcopy(self.model))
            done = own.compress_(own.plan(trial))
            doing("exporting the ONNX model")
            with TemporaryDirectory() as folder, quantized_coefficients(own.model), torch.no_grad():
                path = Path(folder) / "model.onnx"
                size = export(own.model, path, inputs=inputs, info=self.info, small=True).bytes
            note(f"a file of {done.report.after.bytes:,} bytes leads to an ONNX model of {size:,} bytes")
            return size, done

        return compress_for_onnx(recipe, attempt)

    @property
    def source(self) -> str | None:
        """The name of the inputs that statistics are corrected on; None for noise."""
        path = self.statistics.inputs
        return self.statistics.calibrate or self.statistics.loader or (None if path is None else str(path))

    def _compress_to_target_(self, plan: Plan) -> Compressed:
        with explain_worker_loss():
            batches = None if self.images is None else _joined(self.images)
        source = self.source or "noise"
        reached = compress_to_(self.model, plan, batches, size=self.noise, jobs=self.jobs, source=source, progress=note)
        agreement = reached.agreement
        note(f"on {reached.compared_on}: KL {agreement.kl:.4f} nats, agreement {agreement.agreement:.2f} %")
        return Compressed(self.model, reached.plan, reached.report, (reached.correction,))

    def _corrected_(self, dense: nn.Module, bar: Bar) -> tuple[Correction, ...]:
        """Correct the statistics of the compressed model; without images, only if it runs on noise."""
        advance = bar.stage("correcting statistics", _CORRECTING, 0)
        try:
            with explain_worker_loss():
                return (
                    match_statistics_(
                        self.model, dense, self.images, size=self.noise, source=self.source,
                        progress=lambda images: advance(0, f"{images} images"),
                    ),
                )  # fmt: skip
        except TenreoError as error:
            if self.images is not None or isinstance(error, OutOfMemoryError):
                raise
            note(f"statistics are not corrected: {error}")  # a model may have inputs that are not images
            return ()
        finally:
            bar(done=100)


def compress_with_progress_(model: nn.Module, plan: Plan, jobs: int | None, advance: Advance) -> Report:
    """Compress a model in place.

    Args:
        model: dense model.
        plan: its plan.
        jobs: number of layers that are encoded at the same time; None for one per core.
        advance: function advance(done=, text=) that shows the fraction of the work that is done, which is measured in
            weights per pass over all layers, and the name of a layer.
    """
    weights = sum(layer.numel for layer in plan.compressed)
    passes = _PASSES if plan.strategy is Strategy.PRICE else 2  # without a price, columns are ordered and then encoded
    done: dict[str, float] = {}  # weights per layer, of all passes

    def within(layer: LayerPlan, fraction: float) -> None:
        whole = done.get(layer.name, 0.0) // layer.numel
        show(layer, (whole + min(fraction, 0.999)) * layer.numel)

    def progress(layer: LayerPlan) -> None:
        show(layer, (done.get(layer.name, 0.0) // layer.numel + 1) * layer.numel)

    def show(layer: LayerPlan, value: float) -> None:
        done[layer.name] = value
        advance(done=sum(done.values()) / (passes * weights), text=layer.name)

    doing("encoding")
    with on_compile(note_compiling):
        return compress_(model, plan, jobs=jobs, progress=progress, within=within)


def _joined(batches: Iterable[Any]) -> Tensor:
    """Return all batches of images as one tensor."""
    parts = list(batches)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TenreoError("target: the inputs have several arguments, but a target for the outputs needs one array")
    return torch.cat(parts)

"""Sensitivity of the layers: what the compression error of each does to the outputs of the model.

The outputs are measured twice per layer: with this layer alone compressed, and with this layer alone restored in the
compressed model. The inputs and the outputs of the dense model are the same for all measurements.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tenreo.codec.distortion import energy
from tenreo.compression.parametrization import curves, expand_, remembered_recipe
from tenreo.compression.serialization import stored_bytes
from tenreo.correction.noise import noise_batch, use_batch_statistics_
from tenreo.correction.run_model import Forward, batches_of, run_batch
from tenreo.devices import public_function
from tenreo.errors import TenreoError
from tenreo.evaluation.agreement import Agreement, agreement_of, class_measures, labels_of
from tenreo.evaluation.analysis import Analysis, LayerAnalysis
from tenreo.evaluation.metric import bootstrap_interval
from tenreo.files.counts import count
from tenreo.files.records import ModelInfo, inputs_of
from tenreo.files.safetensors import record
from tenreo.modules.copies import in_use, sharing_copy
from tenreo.modules.ties import check_has_values, stored_state
from tenreo.modules.weights import Weight, find_weights
from tenreo.modules.wrappers import unwrapped

NOISE = "noise"  # kind of the images if none are given
Progress = Callable[[str], None]


@public_function()
def analyze(
    compressed: nn.Module,
    dense: nn.Module,
    images: Any = None,
    *,
    size: int | tuple[int, ...] | None = None,
    source: str = "images",
    info: ModelInfo | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Measure the bytes of every compressed layer, and what its error does to the outputs; no model is changed.

    By default the models run on noise, with BatchNorms that use its statistics; on images, each model has its own.

    >>> from copy import deepcopy
    >>> from tenreo import Recipe, Uniform, compress_
    >>> dense = nn.Sequential(nn.Conv2d(3, 64, 4, 4), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.Flatten(), nn.Linear(64, 64))
    >>> model = deepcopy(dense)
    >>> _ = compress_(model, Recipe(4, Uniform(4.0), include=("2", "4")))
    >>> [layer.name for layer in analyze(model, dense, size=4).layers]
    ['2', '4']

    Args:
        compressed: compressed model, on any device, in either mode.
        dense: the same model before compression, on the same device.
        images: a tensor or an iterable of batches, as for `match_statistics_`, which is kept in memory; pairs of images
            and labels also give top-1 accuracies. None generates a batch of noise.
        size: side length of the noise in pixels, or its shape.
        source: kind of the images, for messages.
        info: description of the model in the file, which counts towards its bytes.
        forward: function that runs a model on a batch and returns its outputs, (batch, classes, ...).
        progress: function that is called with the name of a layer after each of its two measurements.

    Returns:
        The analysis.

    Raises:
        TenreoError: if the models differ, cannot process the batches, or have other outputs than one number per class.
    """
    with _decoded(compressed, dense, images, size, forward) as (small, outputs):
        whole, divergences = outputs.compare(small)
        interval = bootstrap_interval(divergences.clamp_min(0).numpy(), np.ones(len(divergences)))
        recipe = remembered_recipe(unwrapped(compressed))
        sizes = stored_bytes(unwrapped(compressed), info or ModelInfo(), recipe)
        layers = tuple(_layers(outputs, small, sizes.layers, progress))
    before = count({name: record(tensor) for name, tensor in stored_state(unwrapped(dense)).items()}).bytes
    return Analysis(
        layers=layers, whole=whole, kl_interval=interval, bytes_before=before, bytes_after=sizes.total,
        recipe=recipe, compared_on=inputs_of(whole.images, NOISE if images is None else source),
    )  # fmt: skip


def compare_outputs(
    compressed: nn.Module,
    dense: nn.Module,
    images: Any = None,
    *,
    size: int | tuple[int, ...] | None = None,
    forward: Forward | None = None,
) -> Agreement:
    """Return the agreement of a compressed model with its dense model, as `analyze` measures it for the whole model.

    Args:
        compressed: as for `analyze`, like the other arguments.
        dense: dense model.
        images: batches, or None for noise.
        size: side or shape of the noise.
        forward: function that runs a model on a batch.

    Raises:
        TenreoError: as `analyze`.
    """
    with _decoded(compressed, dense, images, size, forward) as (small, outputs):
        return outputs.compare(small)[0]


def check_outputs(dense: nn.Module, batches: Iterable[Any]) -> None:
    """Raise TenreoError unless the outputs of a dense model for the first batch can be analyzed."""
    with in_use(dense), torch.no_grad():
        _Outputs(sharing_copy(dense).eval(), islice(batches, 1), None)


@contextmanager
def _decoded(
    compressed: nn.Module, dense: nn.Module, images: Any, size: int | tuple[int, ...] | None, forward: Forward | None
) -> Iterator[tuple[nn.Module, "_Outputs"]]:
    """Check a pair of models; yield a decoded copy of the compressed one, and the outputs of the dense one."""
    compressed, dense = unwrapped(compressed), unwrapped(dense)
    _check_pair(compressed, dense)
    batches = noise_batch(dense, size, 0) if images is None else batches_of(images)
    with in_use(compressed, dense), torch.no_grad():
        small, reference = expand_(deepcopy(compressed)).eval(), sharing_copy(dense).eval()
        for model in (small, reference) if images is None else ():
            use_batch_statistics_(model)
        yield small, _Outputs(reference, batches, forward)


def _check_pair(compressed: nn.Module, dense: nn.Module) -> None:
    """Raise TenreoError unless the models are a compressed one and the dense one that it was made from."""
    for model in (compressed, dense):
        check_has_values(model)
    own = {curve.name: curve.weight.shape for curve in curves(compressed)}
    if not own:
        raise TenreoError("analyze: the first model has no compressed layer; pass the compressed model, then the dense")
    if (name := next((curve.name for curve in curves(dense)), None)) is not None:
        raise TenreoError(f"analyze: the second model has a compressed layer {name!r}; pass the dense model")
    weights = find_weights(dense)
    for name, shape in own.items():
        if name not in weights or weights[name].shape != shape:
            raise TenreoError(f"analyze: the dense model has no weight {name!r} of shape {list(shape)}; pass its own")


class _Outputs:
    """The inputs of a comparison, and the outputs of the dense model for them.

    Args:
        reference: dense model in evaluation mode.
        batches: batches of inputs, which are kept.
        forward: function that runs a model on a batch, or None.

    Raises:
        TenreoError: if there is no batch, or the outputs are not finite numbers of at least two classes.
    """

    def __init__(self, reference: nn.Module, batches: Iterable[Any], forward: Forward | None) -> None:
        self.reference, self.batches, self.forward = reference, list(batches), forward
        if not self.batches:
            raise TenreoError("analyze: no batch of images was given; give at least one")
        self.expected = [self._run(reference, batch) for batch in self.batches]
        if not all(bool(each.isfinite().all()) for each in self.expected):
            raise TenreoError("analyze: an output of the dense model is not finite, so nothing can be compared with it")
        self.labels = [labels_of(batch, each) for batch, each in zip(self.batches, self.expected, strict=True)]

    def _run(self, model: nn.Module, batch: Any) -> Tensor:
        outputs = run_batch(model, batch, self.forward)
        if not isinstance(outputs, Tensor) or outputs.dim() < 2 or outputs.shape[1] < 2 or outputs.is_complex():
            given = f"the shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise TenreoError(
                f"analyze: the outputs are {given}, needs one number per input and class; in Python, pass "
                "forward=lambda model, batch: ... that returns them"
            )
        return outputs.cpu().double()  # differences of outputs may be near the precision of float32

    def compare(self, model: nn.Module) -> tuple[Agreement, Tensor]:
        """Return the agreement of a model with the dense model, and the KL divergences of the images (images,)."""
        measures = [
            class_measures(self._run(model, batch), expected, labels)
            for batch, expected, labels in zip(self.batches, self.expected, self.labels, strict=True)
        ]
        each = torch.cat(measures)
        if not bool(each.isfinite().all()):
            raise TenreoError("analyze: an output of the compressed model is not finite; inspect its file")
        return agreement_of(each.sum(0).tolist(), len(each)), each[:, 0]


def _layers(
    outputs: _Outputs, small: nn.Module, sizes: Mapping[str, int], progress: Progress | None
) -> Iterator[LayerAnalysis]:
    """Measure the layers of a decoded model: their weights and those of the dense model replace each other in turn.

    Args:
        outputs: inputs, and outputs of the dense model.
        small: decoded model.
        sizes: bytes of the layers in the file by name.
        progress: function that is called with the name of a layer after each measurement.
    """
    own, others = find_weights(small), find_weights(outputs.reference)
    for name, size in sizes.items():
        decoded, weight = own[name].value, others[name].value
        results = []
        for model, place, value in ((outputs.reference, others[name], decoded), (small, own[name], weight)):
            with _replaced(place, value):
                results.append(outputs.compare(model)[0])
            if progress is not None:
                progress(name)
        yield LayerAnalysis(
            name=name, shape=own[name].shape, bytes_before=weight.numel() * weight.element_size(), bytes_after=size,
            squared_norm=energy(weight), squared_error=energy(weight, decoded), alone=results[0], restored=results[1],
        )  # fmt: skip


@contextmanager
def _replaced(weight: Weight, value: Tensor) -> Iterator[None]:
    """Replace a weight of a model inside the context."""
    kept = getattr(weight.module, weight.tensor)
    setattr(weight.module, weight.tensor, nn.Parameter(value, requires_grad=False))
    try:
        yield
    finally:
        setattr(weight.module, weight.tensor, kept)

"""Parts: encoded tensors on disk, one file each, from which the files of a compressed checkpoint are put together.

They bound the memory of a compression to one tensor for each thread, let several processes share the work, and let a
run that was killed go on: a part that is whole, and of the same tensor and recipe, is kept.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from tenreo import __version__
from tenreo.checkpoints.sources import Source
from tenreo.codec.shape import Basis, Positions, Precision
from tenreo.codec.threads import Task
from tenreo.compression.layer_encoding import add_order, check_finite, encode_at_price, encode_with_rate
from tenreo.compression.serialization import stored_coefficients
from tenreo.errors import TenreoError
from tenreo.files.header import metadata
from tenreo.files.layout import POSITIONS, TensorRecord, layer_tensors
from tenreo.files.records import LayerErrors, LayerRecord, ModelInfo
from tenreo.files.safetensors import tensor_digest, write_tensors
from tenreo.files.tensor_reader import TensorFile
from tenreo.planning.layers import LayerPlan
from tenreo.planning.recipe import Recipe

_KEY = "tenreo.part"


@dataclass(frozen=True)
class Part:
    """An encoded tensor.

    Attributes:
        name: name of the layer.
        layer: its record.
        digest: SHA-256 of the bytes of the dense tensor.
        tensors: dtypes and shapes of the tensors that store the layer, by name.
        checksums: their CRC-32.
        content: function that returns the bytes of one of them.
    """

    name: str
    layer: LayerRecord
    digest: str
    tensors: dict[str, TensorRecord]
    checksums: dict[str, int]
    content: Callable[[str], Any]

    @property
    def bytes(self) -> int:
        """Bytes of the tensors that store the layer."""
        return sum(each.bytes for each in self.tensors.values())


def planned_part(layer: LayerPlan, dtype: str, size: int, snr: float) -> Part:
    """Return the part of a layer that is not encoded yet, without content; its numbers have as many digits as others.

    Args:
        layer: plan of the layer.
        dtype: dtype of the dense tensor.
        size: expected bytes of the positions.
        snr: expected signal-to-noise ratio in dB.
    """
    snr += 1e-9 / 3
    errors = LayerErrors(snr, snr, layer.numel + 1 / 3)
    record = replace(layer.record, errors=errors, positions=Positions.CODED)
    stored = layer_tensors(record, "F32" if record.curve.basis is Basis.RAMP else dtype)
    tensors = {layer.parameter + suffix: each for suffix, each in stored.items()}
    tensors[layer.parameter + POSITIONS] = TensorRecord("U8", (size,))
    return Part(layer.name, record, "0" * 64, tensors, dict.fromkeys(tensors, 0), lambda name: b"")


class Parts:
    """The parts of one compression, in a folder.

    Args:
        folder: folder of the parts, which exists.
        source: dense tensors.
        recipe: recipe of the compression.
    """

    def __init__(self, folder: Path, source: Source, recipe: Recipe) -> None:
        self.folder, self.source, self.recipe = folder, source, recipe

    def path(self, parameter: str) -> Path:
        """Return the path of a tensor's part."""
        return self.folder / f"{sha256(parameter.encode()).hexdigest()[:32]}.safetensors"

    def open(self, parameter: str) -> Part:
        """Open the part of a tensor that was encoded."""
        return self._part(TensorFile(self.path(parameter)))

    def _part(self, file: TensorFile) -> Part:
        header = file.header
        ((name, record),) = header.layers.items()
        digest = json.loads(header.metadata[_KEY])["digest"]
        return Part(name, record, digest, header.tensors, header.checksums, file.content)

    def encode(self, weight: Tensor, layer: LayerPlan, task: Task, price: float | None) -> int:
        """Encode a tensor, unless there is a whole part of it already; return the bytes of the layer.

        Args:
            weight: dense tensor.
            layer: its plan.
            task: checked for cancellation.
            price: squared error per bit; None for the rate of the plan.
        """
        digest = tensor_digest(weight)
        recipe = {**self.recipe.to_dict(), "layer": layer.importance, "own": dict(layer.own)}
        key = json.dumps({"digest": digest, "price": price and price.hex(), "recipe": recipe, "tenreo": __version__})
        known = self._whole(layer.parameter, key)
        if known is not None:
            return known.bytes
        check_finite(layer.name, weight)
        if price is None:
            orders: dict[tuple[str, int], Tensor] = {}
            add_order(weight, layer, task, orders)
            encoded = encode_with_rate(weight, layer, task, orders, self.recipe)
        else:
            encoded = encode_at_price(weight, layer, task, price, self.recipe)
        record = self._record(layer, encoded.report.record)
        coefficients, record = stored_coefficients(encoded.weight.coefficients, record)
        tensors = {layer.parameter + suffix: each for suffix, each in coefficients.items()}
        tensors[layer.parameter + POSITIONS] = encoded.stored
        entries = metadata(ModelInfo(), None, {layer.name: record})
        write_tensors(self.path(layer.parameter), tensors, {**entries, _KEY: key})
        return sum(tensor.nbytes for tensor in tensors.values())

    def _record(self, layer: LayerPlan, encoded: LayerRecord) -> LayerRecord:
        """Return the record of an encoded layer, with the dtype of the dense tensor if the coefficients lack it."""
        dtype = self.source.tensors[layer.parameter].dtype
        same = dtype == "F32" or encoded.curve.precision == Precision.FLOAT32
        return replace(encoded, positions=self.recipe.positions, dtype="" if same else dtype)

    def _whole(self, parameter: str, key: str) -> Part | None:
        """Return the part of a tensor if it is whole and has a key."""
        with suppress(TenreoError, KeyError, ValueError):
            file = TensorFile(self.path(parameter))
            for name in file.header.tensors:
                file.content(name)  # raises for a wrong checksum
            return self._part(file) if file.header.metadata[_KEY] == key else None
        return None

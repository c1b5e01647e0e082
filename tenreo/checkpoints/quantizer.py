"""The quantizer for transformers: `from_pretrained` of a compressed folder decodes its files first.

transformers opens the files itself, after the quantizer has seen their names (`PreTrainedModel.from_pretrained` and
`_load_pretrained_model` in `transformers/modeling_utils.py`), and a quantizer can only change single tensors after
that. A compressed file has other tensors than the model, some for several weights. The quantizer therefore puts the
names of plain files in place of theirs, which are written to a temporary folder until the model is loaded.
"""

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tenreo.errors import TenreoError
from tenreo.files.quantization_config import METHOD


@register_quantization_config(METHOD)
class TenreoConfig(QuantizationConfigMixin):  # type: ignore[misc]  # has no types if transformers is missing
    """The value of `quantization_config` in `config.json`.

    Args:
        unknown: keys of later versions, which are ignored.
    """

    def __init__(self, **unknown: Any) -> None:
        self.quant_method = METHOD
        self.dequantize = True  # transformers removes the configuration from the model when it is loaded


@register_quantizer(METHOD)
class TenreoQuantizer(HfQuantizer):  # type: ignore[misc]
    """Decodes the files of a compressed folder before transformers opens them; the model is an ordinary dense one."""

    requires_calibration = True  # so that transformers refuses to quantize a dense folder with it

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **unused: Any
    ) -> None:
        # Imported here, because transformers may be used without compressed folders.
        from tenreo.checkpoints.reading import decompress_file

        if checkpoint_files is None:
            raise TenreoError("transformers: this version does not say which files it loads; needs 5.0 or newer")
        self._folder = tempfile.mkdtemp(prefix="tenreo-")
        self._delete = _delete_with(self, self._folder)
        for i, path in enumerate(checkpoint_files):
            target = Path(self._folder) / Path(path).name  # under its own name, by which the index knows it
            decompress_file(Path(path), target)
            checkpoint_files[i] = str(target)

    def _process_model_after_weight_loading(self, model: Any, **unused: Any) -> Any:
        if "disk" in getattr(model, "hf_device_map", {}).values():  # whose weights are read when a layer runs
            self._delete.detach()
            _delete_with(model, self._folder)
        else:
            self._delete()
        return model

    def is_serializable(self, **unused: Any) -> bool:
        """Return False: what `save_pretrained` writes is dense, and does not name tenreo."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Whether the weights can be trained: they are dense parameters."""
        return True


def _delete_with(owner: object, folder: str) -> "weakref.finalize[[str, bool], Any]":
    """Delete a folder when its owner ceases to exist, at the latest when Python exits, or when the result is called."""
    return weakref.finalize(owner, shutil.rmtree, folder, True)

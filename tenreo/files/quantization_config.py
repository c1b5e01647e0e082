"""The `config.json` of transformers in a folder: it names tenreo in compressed folders. Does not import torch."""

import json
from typing import Any

from tenreo.files.values import parse

CONFIG = "config.json"
METHOD = "tenreo"
_KEY = "quantization_config"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def compressed_config(text: str, dtypes: list[str]) -> str:
    """Return the configuration of a compressed folder, with which transformers asks tenreo to decode its files.

    It also states the dtype of the dense tensors, which transformers would otherwise guess from the compressed ones.
    The text is returned as it is if it is no configuration of transformers, or names another quantization.

    >>> print(compressed_config('{"model_type": "bert"}', ["I64", "BF16"]), end="")
    {
      "model_type": "bert",
      "dtype": "bfloat16",
      "quantization_config": {
        "quant_method": "tenreo"
      }
    }

    Args:
        text: content of the dense folder's file.
        dtypes: dtypes of the dense tensors as in safetensors, in the order of the files.
    """
    values = _values(text)
    if values is None or "model_type" not in values or _KEY in values:
        return text
    floating = [_DTYPES[dtype] for dtype in dtypes if dtype in _DTYPES]
    if floating and values.get("dtype", values.get("torch_dtype")) is None:
        values["dtype"] = floating[0]
    return _text({**values, _KEY: {"quant_method": METHOD}})


def dense_config(text: str) -> str:
    """Return the configuration of a folder whose files are decoded: one that does not name tenreo."""
    values = _values(text)
    if values is None or not isinstance(values.get(_KEY), dict) or values[_KEY].get("quant_method") != METHOD:
        return text
    return _text({key: value for key, value in values.items() if key != _KEY})


def _values(text: str) -> dict[str, Any] | None:
    """Return the values of a configuration; None if it is no object of JSON."""
    try:
        values = parse(text)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _text(values: dict[str, Any]) -> str:
    """Return the text of a configuration as transformers writes it."""
    return json.dumps(values, indent=2) + "\n"

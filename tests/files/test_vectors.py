"""Test vectors for readers in other languages: the files decode to the stored values."""

import json
import re

import numpy as np
import plain_decoder
import pytest
from processes import DATA, ROOT
from safetensors import safe_open

import tenreo
from tenreo.files.header import read_header
from tenreo.files.tensor_reader import read_numpy

VECTORS = DATA / "vectors"
VALUES = json.loads((VECTORS / "values.json").read_text())
PAGE = {}
exec(re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "format.md").read_text(), re.M | re.S)[-1], PAGE)


def plain(path):
    """Decode with the standard library alone."""
    return {name: np.array(values).reshape(shape) for name, (shape, values) in plain_decoder.read(path).items()}


@pytest.mark.parametrize("read", [read_numpy, PAGE["read"], tenreo.read, plain])
@pytest.mark.parametrize("name", VALUES)
def test_vectors_decode_to_the_stored_values(name, read):
    decoded, wanted = read(VECTORS / f"{name}.safetensors"), VALUES[name]
    assert set(decoded) == set(wanted)
    for key, each in wanted.items():
        values = decoded[key] if isinstance(decoded[key], np.ndarray) else decoded[key].float().numpy()
        assert list(values.shape) == each["shape"]
        # The page's decoder computes in float64 and does not round to the 16 bits of a dense weight.
        rounding = 8e-3 if name == "bfloat16" else 1e-5
        np.testing.assert_allclose(values.reshape(-1), each["values"], rtol=rounding, atol=1e-5, err_msg=key)


def test_the_vectors_have_every_encoding():
    headers = {name: read_header(VECTORS / f"{name}.safetensors") for name in VALUES}
    layers = {name: next(iter(header.layers.values())) for name, header in headers.items()}
    assert {layer.positions for layer in layers.values()} == {"packed", "coded"}
    assert {layer.curve.precision for layer in layers.values()} == {"float32", "float16", "bfloat16", "int8", "int6"}
    assert layers["coded_int6"].coded_coefficients
    assert layers["ramp"].curve.basis == "ramp" and headers["ramp"].coded.keys() >= {"fc.bias", "norm.running_var"}
    assert all(header.checksums and header.source is not None for header in headers.values())


@pytest.mark.parametrize(("name", "kind", "neighbors"), [("before", 128, 0), ("above", 128, 1)])
def test_vectors_have_classes_by_neighbors(name, kind, neighbors):
    with safe_open(VECTORS / f"{name}.safetensors", "np") as file:
        stream = file.get_tensor("fc.weight.positions")
    assert stream[0] // 16 * 16 == kind
    assert stream[5] // 8 == neighbors and stream[5] % 8 > 0

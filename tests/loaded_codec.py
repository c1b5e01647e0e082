"""Load the compiled code of the codec: processes that are forked afterwards have it."""

import tempfile
from pathlib import Path

import torch

import tenreo

RECIPES = (tenreo.Recipe(4, tenreo.Uniform(2.0), refine=1), tenreo.Recipe(None, tenreo.TargetBits(6)))

torch.set_num_threads(1)  # a process that is forked after threads of OpenMP have worked hangs in its own
with tempfile.TemporaryDirectory() as folder:
    for recipe in RECIPES:
        path = Path(folder) / "tensors.safetensors"
        tenreo.write(path, {"weight": torch.randn(64, 64), "bias": torch.zeros(64)}, recipe)
        dict(tenreo.read(path))

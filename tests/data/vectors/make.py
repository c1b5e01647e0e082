"""Write the test vectors: tiny files of each encoding, and their decoded values in values.json.

The values are those of the decoder in docs/format.md, which is independent of the package.
"""

import json
import re
from pathlib import Path

import torch

import tenreo

HERE = Path(__file__).parent
RATE = {"groups": 2, "rate": tenreo.Uniform(4.0), "refine": 1, "include": ("fc.weight",)}
RECIPES = {
    "packed": tenreo.Recipe(**RATE, pack="plain"),
    "coded": tenreo.Recipe(**RATE),
    "int8": tenreo.Recipe(**RATE, precision="int8", pack="plain"),
    "int6": tenreo.Recipe(**RATE, precision="int6", pack="plain"),
    "coded_int6": tenreo.Recipe(**RATE, precision="int6"),
    "float16": tenreo.Recipe(**RATE, precision="float16", dense_dtype="float16"),
    "bfloat16": tenreo.Recipe(**RATE, precision="bfloat16", dense_dtype="bfloat16"),
    "ramp": tenreo.Recipe(None, tenreo.TargetSize(2600), include=("fc.weight",)),
    "before": tenreo.Recipe(None, tenreo.TargetSize(2000), include=("fc.weight",)),
    "above": tenreo.Recipe(None, tenreo.TargetSize(2000), include=("fc.weight",)),
}


def tensors(name: str) -> dict[str, torch.Tensor]:
    """A weight whose scale differs between rows, along rows or along columns, and tensors that remain dense."""
    torch.manual_seed(0)
    if name == "before":
        distances = (torch.arange(96) - 96 * torch.rand(32, 1)).abs()
        weight = torch.randn(32, 96) * torch.exp(-distances / 6)
    elif name == "above":
        phases = torch.arange(32)[:, None] / 4 + 6.28 * torch.rand(96)
        weight = torch.randn(32, 96) * torch.exp(2 * phases.sin())
    else:
        weight = torch.randn(24, 40) * torch.tensor([1.0, 8.0]).repeat(12)[:, None]
    return {
        "fc.weight": weight, "fc.bias": torch.randn(24), "norm.running_mean": torch.randn(24),
        "norm.running_var": torch.rand(24), "norm.num_batches_tracked": torch.tensor(7), "mask": torch.ones(2) > 0,
    }  # fmt: skip


def main() -> None:
    """Write all files."""
    page = (HERE.parents[2] / "docs" / "format.md").read_text()
    names: dict[str, object] = {}
    exec(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[-1], names)
    values = {}
    for name, recipe in RECIPES.items():
        path = HERE / f"{name}.safetensors"
        tenreo.write(path, tensors(name), recipe)
        decoded = names["read"](path)  # type: ignore[operator]
        values[name] = {
            key: {"shape": list(each.shape), "values": [round(float(x), 6) for x in each.reshape(-1)]}
            for key, each in decoded.items()
        }
    (HERE / "values.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()

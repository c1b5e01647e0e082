"""The reference implementation's checkpoints."""

import pytest
import torch

from tenreo.errors import TenreoError
from tenreo.vision.models import open_model

X = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {"epoch": 3, "arch": "resnet18", "state_dict": {f"module.{k}": v for k, v in s.items()}},
    lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
])  # fmt: skip
def test_reads_the_reference_implementations_files(saved_file, reference_state, tmp_path, wrap):
    model = saved_file[0]
    torch.save(wrap(reference_state(model)), tmp_path / "r.pth")
    again, header = open_model(tmp_path / "r.pth")
    assert (header.kind, header.info.arch, header.info.classes) == ("reference", "resnet18", 7)
    assert torch.equal(again(X), model(X))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("fc.index"), r"does not fit the model; shape: fc\.weight \[8, "),
        (lambda s: s.update({"more": torch.zeros(1)}), "are those of none of mobilenet_v2"),
        (lambda s: s.update({"bn1.weight": torch.zeros(3)}), "are those of none of mobilenet_v2"),
        (lambda s: s.update({"fc.index": torch.zeros(3)}), "do not make a weight of shape"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(saved_file, reference_state, tmp_path, change, match):
    state = reference_state(saved_file[0])
    change(state)
    torch.save(state, tmp_path / "r.pth")
    with pytest.raises(TenreoError, match=rf"r\.pth:? .*{match}"):
        open_model(tmp_path / "r.pth")

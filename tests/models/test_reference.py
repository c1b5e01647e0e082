"""Checkpoints of the reference implementation."""

import pytest
import torch

from tenreo.errors import TenreoError
from tenreo.models.model_files import open_model

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
        (lambda s: s.update({"foo.index": torch.zeros(3)}), "foo.index belongs to no convolution"),
        (lambda s: s.update({".index": torch.zeros(3)}), ".index belongs to no convolution"),
        (lambda s: s.update({"layer1.0.index": torch.zeros(3)}), "layer1.0.index belongs to no convolution"),
        (lambda s: s.update({"bn1.index": torch.zeros(3)}), "bn1.index belongs to no convolution"),
        (lambda s: s.update({"fc.bias": torch.tensor(1.0)}), r"fc.index \[448\] do not make"),
        (lambda s: s.update({"fc.bias": torch.zeros(0)}), "has 0 classes"),
        (lambda s: s.update({"fc.bias": torch.zeros(10**6)}), "has 1000000 classes"),
        (lambda s: s.update({"fc.weight": torch.zeros(8, 0)}), "impossible layer"),
        (lambda s: s.update({"fc.weight": torch.zeros(8, 449)}), "impossible layer"),
        (lambda s: s.update({"fc.weight": torch.zeros(0, 8)}), "do not make a weight"),
        (lambda s: s.update({"fc.weight": torch.tensor(1.0)}), "do not make a weight"),
        (lambda s: s.update({"fc.weight": torch.zeros(8, 100, dtype=torch.int32)}), "fc.weight.coefficients is I32"),
        (lambda s: s.update({"fc.index": s["fc.index"].long() + 2**40}), r"the index leaves \[0, 448\)"),
        (lambda s: s.update({"fc.index": s["fc.index"].long() + 2**32}), r"the index leaves \[0, 448\)"),
        (lambda s: s.update({"fc.index": s["fc.index"] - 1}), r"the index leaves \[0, 448\)"),
        (lambda s: s.update({"fc.index": s["fc.index"] + 0.5}), "the index is float32, needs integers"),
        (lambda s: s.update({"fc.index": s["fc.index"].bool()}), "the index is bool, needs integers"),
        (lambda s: s.update({"fc.index": s["fc.index"].to(torch.complex64)}), "fc.index is complex64"),
        (
            lambda s: s.update({"bn1.running_var": -s["bn1.running_var"]}),
            "running_var contains a negative variance",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(saved_file, reference_state, tmp_path, change, match):
    state = reference_state(saved_file[0])
    state = {key: value.detach() for key, value in state.items()}
    change(state)
    torch.save(state, tmp_path / "r.pth")
    with pytest.raises(TenreoError, match=rf"r\.pth:? .*{match}"):
        open_model(tmp_path / "r.pth")

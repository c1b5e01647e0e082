"""Licenses in the cards of folders."""

import pytest
import torch
from processes import here
from safetensors.torch import save_file

from tenreo.files.checkpoints import find_files
from tenreo.files.header import read_header
from tenreo.hub.metadata import license_of


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n", "apache-2.0"),
        ("---\r\nlicense:\r\n- mit\r\n- cc0-1.0\r\n---\r\n", "mit, cc0-1.0"),
        ("\ufeff---\nlicense: other\nlicense_name: llama3\n---", "llama3"),
        ("---\nlicense: mit\n", "mit"),
        ("# Model\n---\nlicense: mit\n---\n", ""),
        ("---\nlicense: 4\n---\n", ""),
        ("---\nlicense: [\n---\n", ""),
        ("---\n- a\n---\n", ""),
        ("---\nlicense: !!python/name:os.system\n---\n", ""),
        ("---\nx: " + "[" * 5_000, ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_license_of_a_card(tmp_path, card, license):
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    if card is not None:
        (tmp_path / "README.md").write_bytes(card.encode())
    assert license_of(find_files(tmp_path)) == license
    assert license_of(find_files(tmp_path / "model.safetensors")) == ""


def test_the_license_of_a_card_is_stored_unless_one_is_given(tmp_path):
    save_file({"a.weight": torch.randn(64, 64)}, tmp_path / "model.safetensors")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    for words, wanted in (((), "mit"), (("--license", "own"), "own")):
        here("compress", tmp_path, "--bits", 8, "-o", tmp_path / f"{wanted}.safetensors", *words)
        assert read_header(tmp_path / f"{wanted}.safetensors").source.license == wanted

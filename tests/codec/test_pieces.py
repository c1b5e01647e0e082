"""Weights that are encoded in pieces."""

import pytest
import torch

from tenreo.codec import pieces
from tenreo.codec.encode import squared_error
from tenreo.codec.position_coding import decode_positions, encode_positions
from tenreo.codec.rate_distortion import trellis_quantize


def test_pieces_cover_every_element_once(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 7)
    covered = [i for part in pieces.pieces(20) for i in range(20)[part]]
    assert covered == list(range(20)) and list(pieces.pieces(0)) == []


@pytest.mark.parametrize("size", [1 << 10, 1000])
def test_the_size_of_the_pieces_does_not_change_the_bytes(monkeypatch, size):
    torch.manual_seed(0)
    weight = (torch.randn(64, 80) * torch.rand(64, 1)).bfloat16()

    def encoded():
        result = trellis_quantize(weight, 1e-3)
        stream = encode_positions(result.positions, result.length, 80, result.memory, result.basis)
        return result, stream, squared_error(weight, result)

    whole, stream, error = encoded()
    monkeypatch.setattr(pieces, "PIECE", size)
    again, other, same = encoded()
    assert torch.equal(stream, other) and torch.equal(whole.coefficients, again.coefficients)
    assert same == pytest.approx(error, rel=1e-12)
    assert torch.equal(decode_positions(stream, 64 * 80, whole.length, 80, whole.basis), whole.positions)

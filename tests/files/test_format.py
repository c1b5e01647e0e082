"""The programs in docs/format.md run, and its decoder reads files and coded positions of tenreo."""

import re

import numpy as np
import pytest
import torch
from networks import golden
from processes import DATA, ROOT
from torch import nn

import tenreo
from tenreo.codec.position_coding import encode_positions
from tenreo.codec.shape import Basis
from tenreo.codec.trellis import following

PAGE = (ROOT / "docs" / "format.md").read_text()
EXAMPLE, DECODER = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def page():
    """The names that the page's decoder defines."""
    names = {}
    exec(compile(DECODER, "format.md", "exec"), names)
    return names


def test_the_example_prints_what_the_page_shows(tmp_path, monkeypatch, capsys, page):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLE, "format.md", "exec"), {})
    assert f"```\n{capsys.readouterr().out}```" in PAGE
    weight = tenreo.load("tiny.safetensors", nn.Sequential(nn.Linear(4, 3)))[0].weight
    np.testing.assert_allclose(page["read"]("tiny.safetensors")["0.weight"], weight.detach(), atol=1e-6)


@pytest.mark.parametrize(
    "name", ["float32", "float16", "bfloat16", "int8", "int6", "version1", "version3", "version4", "coded"]
)
def test_the_decoder_of_the_page_reads_golden_files(page, name):
    skeleton = golden()
    if name == "version1":
        skeleton = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 128))
    path = DATA / f"{name}.safetensors"
    wanted, decoded = tenreo.expand_(tenreo.load(path, skeleton)).state_dict(), page["read"](path)
    assert decoded.keys() == wanted.keys()
    for key, values in decoded.items():
        np.testing.assert_allclose(values, wanted[key], atol=1e-5, err_msg=key)


def possible_positions(columns, length, memory, flipped):
    """Random positions that are a path through a trellis; those of the flipped columns are mostly large."""
    random, machine, sets = np.random.default_rng(memory), following(memory), 2 if memory else 1
    samples, state, positions = length // sets, 0, []
    for column in range(columns):
        symbol = min(int(random.geometric(0.2)), samples) - 1
        symbol = samples - 1 - symbol if flipped[column] else symbol
        positions.append(sets * symbol + state % sets)
        state = machine[state, symbol % 2]
    return np.array(positions, np.int32)


@pytest.mark.parametrize("length", [3, 4, 37, 301, 302, 10**6])
@pytest.mark.parametrize("memory", [0, 5])
def test_the_decoder_of_the_page_reads_coded_positions_on_a_ramp(page, length, memory):
    columns, row, sets, random = 2000, 100, 2 if memory else 1, np.random.default_rng(length)
    state, machine, positions = 0, following(memory), []
    for _ in range(columns):
        odd = state % sets
        index = int(np.clip(random.standard_cauchy() * length / 50 + length / 4, 0, (length - 1 - odd) // sets))
        positions.append(sets * index + odd)
        state = machine[state, index % 2]
    stream = encode_positions(torch.tensor(positions, dtype=torch.int32), length, row, memory, Basis.RAMP)
    assert int(stream[0]) % 16 == memory
    decoded = page["decode_positions"](stream.numpy().tobytes(), columns, length, row, ramp=True)
    np.testing.assert_array_equal(decoded, positions)


@pytest.mark.parametrize("memory", range(9))
@pytest.mark.parametrize("blocks", [None, "outputs", "inputs"])
def test_the_decoder_of_the_page_reads_coded_positions(page, memory, blocks):
    columns, length, row = 4000, 37, 100
    j = np.arange(columns)
    flipped = {None: 0 * j, "outputs": j // row % 2, "inputs": j % row % 2}[blocks]
    positions = possible_positions(columns, length, memory, flipped)
    stream = encode_positions(torch.from_numpy(positions), length, row, memory)
    kind = int(stream[0])
    assert (kind % 16, kind // 16 % 8 > 0, kind >= 128) == (memory, blocks is not None, blocks == "inputs")
    np.testing.assert_array_equal(page["decode_positions"](stream.numpy().tobytes(), columns, length, row), positions)

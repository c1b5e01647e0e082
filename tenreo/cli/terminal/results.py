"""The last lines of a command: what was reached, and the next useful command."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from tenreo.cli import exits
from tenreo.cli.terminal.tables import number
from tenreo.files.counts import Counts
from tenreo.planning.rates import Progressive, Uniform
from tenreo.planning.recipe import Recipe
from tenreo.sizes import byte_count, quantity


def comparison(before: Counts, after: Counts) -> str:
    """Return the sizes of the dense model and of the compressed file in words.

    >>> comparison(Counts(bytes=2_770_000), Counts(bytes=560_000))
    '2.77 MB -> 0.56 MB (4.9 times smaller)'
    """
    ratio = before.bytes / max(1, after.bytes)
    change = f"{ratio:.1f} times smaller" if ratio >= 1 else f"{1 / ratio:.1f} times larger"
    return f"{byte_count(before.bytes)} -> {byte_count(after.bytes)} ({change})"


def summary(recipe: Recipe, before: Counts, after: Counts, snr: float | None) -> list[str]:
    """Return lines about a compression: its recipe, and which part of the weights it encodes how precisely.

    Args:
        recipe: recipe of the compression.
        before: counts of the dense model.
        after: counts of the compressed model.
        snr: SNR of all compressed weights together in dB.
    """
    covered = 100 * after.weights / max(1, before.dense_parameters)
    lines = [
        f"recipe: {recipe}",
        f"weights: {number(covered, 1)} % are compressed, to {number(after.bits_per_weight)} bits each, "
        f"with an SNR of {number(snr)} dB",
    ]
    if isinstance(recipe.rate, (Uniform, Progressive)):  # which count parameters, as the paper does
        change = f"{quantity(before.parameters)} -> {quantity(after.parameters)}"
        trainable = f"{quantity(before.paper_trainable)} -> {quantity(after.paper_trainable)}"
        lines.append(f"parameters, as the paper counts them: {change}, of which trainable: {trainable}")
    return lines


def next_command(*words: object) -> str:
    """Return a line with a command to try next, which can be copied into a shell; words in capitals stand for values.

    >>> next_command("inspect", "my file.safetensors").split(" inspect ")[1]
    "'my file.safetensors'"
    """
    return f"Next: {program()} {' '.join(shlex.quote(str(word)) for word in words)}"


def command_line() -> str:
    """Return the command that is running, as it was typed after the name of the program."""
    return shlex.join(["tenreo", *exits.words])


def program() -> str:
    """Return how the command line is started from here: `tenreo`, or by this Python if that is not on the path."""
    if shutil.which("tenreo"):
        return "tenreo"
    python = Path(sys.executable)
    if shutil.which(python.name) == str(python):
        return f"{python.name} -m tenreo"
    here = Path.cwd()
    return f"{shlex.quote(os.path.relpath(python, here) if here in python.parents else str(python))} -m tenreo"

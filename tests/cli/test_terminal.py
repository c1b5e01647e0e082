"""What a terminal shows while commands work: recorded in a pseudo-terminal."""

import os
import pty
import sys
import time

import pytest

GAP = 2.0  # seconds


def record(*arguments):
    """Run the command line in a pseudo-terminal; return its exit code, its output, and the longest time without any."""
    process, terminal = pty.fork()
    if not process:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-m", "tenreo", *map(str, arguments)])
    output, last, longest = b"", time.monotonic(), 0.0
    while True:
        try:
            data = os.read(terminal, 2**16)
        except OSError:  # Linux reports the end in this way
            break
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        output += data
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), output.decode(), longest


@pytest.mark.slow
def test_no_command_is_silent_for_long(inside, dense_file):
    """Needs a machine that does nothing else."""
    commands = (
        ("compress", "--weights", dense_file, "--target-size", "8x", "-o", "small.safetensors"),
        ("compress", dense_file, "--bits", 4, "-o", "plain.safetensors"),
        ("verify", "plain.safetensors", "--against", dense_file),
        ("decompress", "plain.safetensors", "-o", "dense.safetensors"),
        ("evaluate", "small.safetensors", "--data", "digits", "--against", dense_file),
        ("analyze", "small.safetensors", "--against", dense_file),
        ("finetune", "small.safetensors", "--data", "digits", "-o", "tuned.safetensors"),
        ("export", "small.safetensors", "--to", "small.onnx", "--small"),
        ("sweep", "--weights", dense_file, "-g", 4, "-r", 2, 4, "--data", "digits"),
        ("inspect", "small.safetensors"),
    )
    for command in commands:
        code, output, longest = record(*command)
        assert code == 0 and longest < GAP, (command, longest, output[-500:])

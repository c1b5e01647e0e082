"""Signals that are sent to processes."""

import os
import signal
import time
from pathlib import Path

import pytest
from processes import seeded, start_python, start_tenreo

STUCK = """
import hashlib
from tenreo.cli.terminal.stopping import stoppable
with stoppable() as stop:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # Python handles no signal during these minutes
"""
STEPS = """
import time
from tenreo.cli.terminal.stopping import stoppable
for _ in range(2):
    with stoppable() as stop:
        print("ready", flush=True)
        while not stop():
            time.sleep(0.01)
        time.sleep(0.3)
print("saved", stop.exit_code, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_process_inside_compiled_code(number):
    process = start_python(STUCK)
    process.send_signal(number)
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    process.communicate()


def test_signals_within_a_second_count_as_one():
    process = start_python(STEPS)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "ready\n"  # the next run begins without a signal
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "saved 143\n")
    assert err.count("stopping after this step") == 2


def cpu_seconds(process):
    """Return the CPU time of a process in seconds."""
    user, system = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_ctrl_c_is_exit_code_130_and_leaves_no_file(tmp_path):
    process = start_tenreo(
        "compress", "-a", "resnet152", "-g", 8, "-r", 1.0, "--progressive", "--weights", "none", cwd=tmp_path
    )
    moment = seeded().uniform(2, 4)  # the process then runs compiled code
    while cpu_seconds(process) < moment:
        assert process.poll() is None, process.output()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "stopped" in process.output()[1]
    assert not list(tmp_path.iterdir())

"""Signals to real processes."""

import signal
import subprocess
import sys
import time

import pytest

STUCK = """
import hashlib
from tenreo.cli.stopping import stoppable
with stoppable() as stop:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in which Python hears no signal
"""
STEPS = """
import time
from tenreo.cli.stopping import stoppable
for _ in range(2):
    with stoppable() as stop:
        print("ready", flush=True)
        while not stop():
            time.sleep(0.01)
        time.sleep(0.3)
print("saved", stop.exit_code, flush=True)
"""


def start(code):
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stuck_ends_when_asked_again(number):
    process = start(STUCK)
    process.send_signal(number)
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    process.communicate()


def test_signals_that_come_together_are_one_request():
    process = start(STEPS)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "ready\n"  # and the next run starts anew
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "saved 143\n")
    assert err.count("stopping after this step") == 2

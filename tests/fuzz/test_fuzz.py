"""A few hundred cases of the fuzzer in one process; `python tests/fuzz/fuzzer.py --cases 100000` runs more."""

import os
import subprocess
import sys
import time
from pathlib import Path

FUZZER = Path(__file__).with_name("fuzzer.py")


def test_hostile_inputs_end_with_success_or_a_clear_error():
    seed = os.environ.get("FUZZ_SEED", str(time.time_ns() % 10**9))
    # Random models are slow, and tests/compression/test_save_and_load.py has some of them.
    command = [sys.executable, str(FUZZER), "--cases", "350", "--seed", seed, "--without", "models"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)  # starts with the seed
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-10_000:]}\n{done.stderr[-3000:]}"

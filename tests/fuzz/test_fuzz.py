"""A few hundred cases of the fuzzer in one process; `python tests/fuzz/fuzzer.py --cases 100000` runs more."""

import os
import time
from pathlib import Path

from processes import Forked

FUZZER = Path(__file__).with_name("fuzzer.py")


def test_hostile_inputs_end_with_success_or_a_clear_error():
    seed = os.environ.get("FUZZ_SEED", str(time.time_ns() % 10**9))
    # Random models are slow, and tests/compression/test_save_and_load.py has some of them.
    process = Forked(str(FUZZER), "--cases", "350", "--seed", seed, "--without", "models")
    out, err = process.communicate(timeout=600)
    print(out)  # starts with the seed
    assert process.returncode == 0, f"seed {seed}\n{out[-10_000:]}\n{err[-3000:]}"

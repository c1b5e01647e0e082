"""Run the command line and tests/tiny_run.py in new processes, or the command line in this process."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from tenreo.cli.app import app

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parent.parent
TINY_RUN = Path(__file__).parent / "tiny_run.py"
# Name of each command, and of the function in its module of `tenreo.cli.run` that does the work.
COMMANDS = {
    "compress": "compress_and_save", "evaluate": "evaluate_files", "finetune": "finetune_file",
    "inspect": "inspect_file", "export": "export_file", "sweep": "sweep_recipes", "demo": "run_demo",
}  # fmt: skip


def tenreo(*arguments, cwd=None, env=None):
    """Run the command line in a new process, and return the completed process."""
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning:tenreo", "-m", "tenreo", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=280,
        env={**os.environ, "COLUMNS": "120", **(env or {})},
    )  # fmt: skip


def start_tenreo(*arguments, cwd=None, **options):
    """Start the command line in a new process, whose stderr is a pipe."""
    command = [sys.executable, "-m", "tenreo", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, **options)


def good(*arguments, **options):
    """Run a command that succeeds in a new process, and return the completed process."""
    done = tenreo(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done


def bad(*arguments, code, **options):
    """Run a command that fails with an exit code in a new process, and return its stderr."""
    done = tenreo(*arguments, **options)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and not done.stdout
    return done.stderr


def here(*arguments, code=0, columns=120):
    """Run a command in this process, which saves importing torch; the result has .stdout and .stderr."""
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": str(columns), "TERMINAL_WIDTH": None})
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def refused(*arguments, code=2):
    """Run a command that fails in this process, and return its stderr."""
    done = here(*arguments, code=code)
    assert not done.stdout
    return done.stderr


def seeded():
    """Return a random generator for moments; its seed is printed, and KILL_SEED=... repeats it."""
    seed = os.environ.get("KILL_SEED", str(time.time_ns()))
    print(f"KILL_SEED={seed}")
    return random.Random(seed)


def start_python(code):
    """Start Python code that first prints "ready" in a new process."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def start_tiny_run(*arguments):
    """Start tests/tiny_run.py in a new process."""
    command = [sys.executable, str(TINY_RUN), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tiny_run(*arguments):
    """Run tests/tiny_run.py in a new process, and return its stdout."""
    process = start_tiny_run(*arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out

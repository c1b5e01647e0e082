"""Running the command line and tests/tiny_run.py: in processes of their own, or where that is enough, in this one."""

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
# Name of each command and of the function that does its work, in the module of `tenreo.cli.run` of that name.
COMMANDS = {
    "compress": "compress_and_save", "evaluate": "evaluate_files", "finetune": "finetune_file",
    "inspect": "inspect_file", "export": "export_file", "sweep": "sweep_recipes", "demo": "run_demo",
}  # fmt: skip


def tenreo(*arguments, cwd=None, env=None):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning:tenreo", "-m", "tenreo", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=280,
        env={**os.environ, "COLUMNS": "120", **(env or {})},
    )  # fmt: skip


def start_tenreo(*arguments, cwd=None, **options):
    """The same, not waited for; its messages in a pipe."""
    command = [sys.executable, "-m", "tenreo", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, **options)


def good(*arguments, **options):
    """A command in a process of its own, which succeeds."""
    done = tenreo(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done


def bad(*arguments, code, **options):
    """What a command in a process of its own says that fails with an exit code."""
    done = tenreo(*arguments, **options)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and not done.stdout
    return done.stderr


def here(*arguments, code=0, columns=120):
    """A command in this process: no time goes into importing torch; .stdout and .stderr."""
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": str(columns), "TERMINAL_WIDTH": None})
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def refused(*arguments, code=2):
    """What a command in this process says that fails."""
    done = here(*arguments, code=code)
    assert not done.stdout
    return done.stderr


def seeded():
    """Random moments; the seed is printed, and KILL_SEED=... repeats what it gave."""
    seed = os.environ.get("KILL_SEED", str(time.time_ns()))
    print(f"KILL_SEED={seed}")
    return random.Random(seed)


def start_python(code):
    """Python code in a process of its own that prints ready first."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def start_tiny_run(*arguments):
    """tests/tiny_run.py in a process of its own."""
    command = [sys.executable, str(TINY_RUN), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tiny_run(*arguments):
    """The same, waited for: its output."""
    process = start_tiny_run(*arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out
